"""A seventh round of faulty cases, written after the sixth had been mended, to see whether the mending holds for others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Sampler, TensorDataset

from tests.benchmarks.preflight.data import clusters, curve, generator, loader, pictures, rows, waves
from tests.benchmarks.preflight.outsiders_parts import ByHand, Lit, series, views_of_things
from tests.benchmarks.preflight.parts import Built, convnet, perceptron
from tests.benchmarks.preflight.register import faulty


@faulty("BROADCAST")
def weights_of_samples_as_a_row() -> Built:
    """A loss for each sample in a column, times weights in a row."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(12, 1)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            each = F.binary_cross_entropy_with_logits(self.net(batch["x"]), batch["y"][:, None], reduction="none")
            return (each * batch["weight"]).mean()

    x, y = clusters(classes=2)
    return Model(), rows(x=x, y=y.float(), weight=0.5 + torch.rand(len(y), generator=generator()))


@faulty("NOT-CAUSAL")
def sensors_read_from_both_ends() -> Built:
    """The next reading of three sensors at each time, by a GRU of both directions."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRU(3, 16, batch_first=True, bidirectional=True), nn.Linear(32, 3)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            readings = batch["readings"]
            states, _ = self.cell(readings[:, :-1])
            return F.smooth_l1_loss(self.head(states), readings[:, 1:])

    return Model(), rows(readings=waves()[0].cumsum(1) / 3)


@faulty("NOT-CAUSAL")
def patches_of_time_without_mask() -> Built:
    """A transformer over patches of a series tells the patch that follows; its argument is given by name."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inputs, self.places = nn.Linear(4, 32), nn.Parameter(0.02 * torch.randn(1, 5, 32))
            layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
            self.body, self.head = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(32, 4)

        def forward(self, past_values: Tensor) -> Tensor:
            return self.head(self.body(self.inputs(past_values) + self.places))

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            patches = batch[0].unflatten(1, (6, 4))
            return F.mse_loss(self.net(past_values=patches[:, :-1]), patches[:, 1:])

    return Model(), loader(series(length=24))


@faulty("GRAD-NOT-ZEROED")
def the_wrong_one_is_cleared_twice() -> Built:
    class Gan(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.g, self.d = perceptron(8, 12), perceptron(12, 1)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            opt_g, opt_d = self.optimizers()
            fake = self.g(torch.randn(len(batch[0]), 8))
            opt_g.zero_grad()
            self.manual_backward(F.relu(1 - self.d(batch[0])).mean() + F.relu(1 + self.d(fake.detach())).mean())
            opt_d.step()
            opt_g.zero_grad()
            self.manual_backward(-self.d(fake).mean())
            opt_g.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.Adam(net.parameters(), 2e-4, betas=(0.5, 0.9)) for net in (self.g, self.d)]

    return Gan(), loader(*clusters())


@faulty("EVAL-MODE")
def statistics_taken_at_the_start() -> Built:
    """Features of the first epoch are kept in eval mode for a picture of them; the net stays so."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = convnet(norm=True)

        def on_train_epoch_start(self) -> None:
            self.eval()
            with torch.no_grad():
                self.mean_of_noise = self.net(torch.randn(8, 1, 12, 12)).mean()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1], label_smoothing=0.05)

    return Model(), loader(*pictures())


@faulty("SYMMETRIC-INIT")
def ones_for_every_matrix() -> Built:
    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.inputs = nn.Linear(3, 16)
            self.body = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
            self.head = nn.Linear(16, 4)
            for p in self.parameters():
                if p.dim() > 1:
                    nn.init.constant_(p, 1 / p.shape[1])

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.head(self.body(self.inputs(batch[0])).mean(1)), batch[1])

    return Model(), loader(*waves())


@faulty("NONDETERMINISTIC")
def pieces_left_out_whatever_the_mode() -> Built:
    """Random erasing lives in ``forward``, and never asks for the mode."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = convnet()

        def forward(self, x: Tensor) -> Tensor:
            kept = (torch.rand(len(x), 1, 12, 1) > 0.2).float()
            return self.net(x * kept)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

    return Model(), loader(*pictures())


@faulty("LABEL-RANGE")
def margins_of_zero_and_one() -> Built:
    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(12, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.soft_margin_loss(self.net(batch[0]).squeeze(-1), batch[1])

    x, y = clusters(classes=2)
    return Model(), loader(x, y.float())


@faulty("EPS-HIGH")
def eps_of_a_tenth_in_rmsprop() -> Built:
    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRU(1, 24, batch_first=True), nn.Linear(24, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            states, _ = self.cell(batch[0][:, :-1, None])
            return F.mse_loss(self.head(states[:, -1]).squeeze(1), batch[0][:, -1])

        def configure_optimizers(self) -> Any:
            return torch.optim.RMSprop(self.parameters(), lr=1e-3, eps=0.1)

    return Model(), loader(series())


@faulty("WRONG-SIGN")
def gaussian_by_hand_without_minus() -> Built:
    """The logarithm of a density, written out, and given back as the loss."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.log_std = perceptron(6, 1), nn.Parameter(torch.zeros(()))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            z = (y - self.net(x).squeeze(-1)) / self.log_std.exp()
            return (-0.5 * z.square() - self.log_std).mean()

    return Model(), loader(*curve())


@faulty("WRONG-SIGN")
def likeness_made_smaller() -> Built:
    """InfoNCE: the log-probability of the right pair is returned as it is."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = perceptron(20, 16), perceptron(14, 16)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            a, b = F.normalize(self.left(batch[0])), F.normalize(self.right(batch[1]))
            scores = a @ b.T / 0.2
            return (scores.diagonal() - torch.logsumexp(scores, 1)).mean()

    return Model(), loader(*views_of_things())


@faulty("BATCH-MIXING")
def standardised_over_the_whole_batch() -> Built:
    """``(x - x.mean()) / x.std()`` inside of forward takes the mean of all samples."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(6, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.net((x - x.mean()) / x.std()).squeeze(-1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.huber_loss(self(batch[0]), batch[1])

    return Model(), loader(*curve())


@faulty("IGNORES-INPUT", "INPUT-CONSTANT")
def shares_cast_to_indices() -> Built:
    """Numbers from 0 to 1 become whole before the table: all are 0."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.net = nn.Embedding(10, 8), perceptron(48, 2)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(self.table(batch[0].long()).flatten(1)), batch[1])

    x = 0.999 * torch.rand(960, 6, generator=generator())
    return Model(), loader(x, (x.sum(1) > 3).long())


@faulty("OPTIMIZER-MISSES")
def margins_head_forgotten() -> Built:
    """The loss has weights of its own (a centre for each class), and only the encoder is handed over."""

    class Centres(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 16))

        def forward(self, z: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(8 * F.linear(F.normalize(z), F.normalize(self.weight)) - 2.0 * F.one_hot(y, 4), y)

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.criterion = perceptron(12, 16), Centres()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.criterion(self.encoder(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.encoder.parameters(), lr=1e-3)

    return Model(), loader(*clusters())


@faulty("SCHEDULE-COLLAPSED")
def polynomial_of_epochs_by_the_step() -> Built:
    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = convnet()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
            falling = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=30, power=0.9)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": falling, "interval": "step"}}

    return Model(), loader(*pictures()), {"trainer": L.Trainer(max_epochs=30, logger=False)}


@faulty("TARGET-IS-INPUT")
def price_in_another_currency() -> Built:
    """One of the columns is the target times a number."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(7, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.mse_loss(self.net(batch[0]).squeeze(-1), batch[1])

    x, y = curve()
    return Model(), loader(torch.cat([x, 1.09 * y[:, None]], 1), y)


@faulty("SORTED")
def a_class_for_each_batch() -> Built:
    """A batch sampler that gathers what is alike, by class instead of by length."""

    class Alike(Sampler[list[int]]):
        def __init__(self, kinds: Tensor) -> None:
            self.kinds = kinds

        def __len__(self) -> int:
            return 28

        def __iter__(self) -> Iterator[list[int]]:
            groups = [torch.where(self.kinds == kind)[0].split(32)[:7] for kind in range(4)]
            batches = [part.tolist() for group in groups for part in group]
            return iter([batches[i] for i in torch.randperm(len(batches)).tolist()])

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(12, 4)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

    x, y = clusters()
    return Model(), DataLoader(TensorDataset(x, y), batch_sampler=Alike(y))


@faulty("DATA-NONFINITE")
def flat_windows_divided_by_their_deviation() -> Built:
    """Each window is standardised by itself; a sensor that stands still gives 0 / 0."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(25, 2)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch["window"]), batch["alarm"])

    x = series()
    x[::50] = 0.7
    window = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)
    return Model(), rows(window=window, alarm=(x[:, -1] > 0).long())
