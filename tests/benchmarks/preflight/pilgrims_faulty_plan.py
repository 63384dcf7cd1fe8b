"""The tenth round's faults of behaviour and plan."""

from __future__ import annotations

import copy
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import curve, generator, loader, pictures, rows
from tests.benchmarks.preflight.outsiders_parts import ByHand, Lit
from tests.benchmarks.preflight.parts import Built, convnet, perceptron
from tests.benchmarks.preflight.pilgrims_parts import beats, fields, flat_conv, hands, swings
from tests.benchmarks.preflight.register import faulty


@faulty("BATCH-MIXING")
def einsum_with_one_letter_too_many() -> Built:
    """Keys of all samples are summed: ``nqd,mkd->nqk``."""

    class Sorter(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.qkv, self.head = nn.Embedding(21, 24), nn.Linear(24, 72), nn.Linear(24, 21)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            x = self.table(batch[0])
            q, k, v = self.qkv(x).chunk(3, -1)
            weights = (torch.einsum("nqd,mkd->nqk", q, k) / 24**0.5).softmax(-1)
            return F.cross_entropy(self.head(x + weights @ v).flatten(0, 1), batch[1].flatten())

    return Sorter(), loader(*hands())


@faulty("NOT-CAUSAL")
def standardised_over_all_times() -> Built:
    """A causal convolution, and a GroupNorm whose mean is over the whole series, its future too."""

    class Pendulum(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.out = nn.Conv1d(2, 32, 3), nn.GroupNorm(1, 32), nn.Conv1d(32, 2, 1)

        def forward(self, path: Tensor) -> Tensor:
            h = self.norm(self.conv(F.pad(path.transpose(1, 2), (2, 0))))
            return self.out(h.relu()).transpose(1, 2)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return F.mse_loss(self(batch[0][:, :-1]), batch[0][:, 1:])

    return Pendulum(), loader(swings())


@faulty("IGNORES-INPUT", "NO-GRADIENT")
def token_read_before_the_layers() -> Built:
    """The class token goes in, and its first value, not what came out, is judged."""

    class Sorted(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.first = nn.Embedding(21, 32), nn.Parameter(0.1 * torch.randn(1, 1, 32))
            self.layer, self.head = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), nn.Linear(32, 2)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            token = self.first.expand(len(batch["cards"]), -1, -1)
            h = self.layer(torch.cat([token, self.table(batch["cards"])], 1))  # noqa: F841
            return F.cross_entropy(self.head(token[:, 0]), batch["rises"])

    cards, _ = hands()
    return Sorted(), rows(cards=cards, rises=(cards[:, 0] < cards[:, 1]).long())


@faulty("NO-GRADIENT", "UPDATE-LOST")
def learns_to_learn_on_a_copy() -> Built:
    """MAML by hand: the inner steps change a deep copy, and the outer loss belongs to the copy alone."""

    class Maml(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(6, 1)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
            optimizer, fast = self.optimizers(), copy.deepcopy(self.net)
            inner = torch.optim.SGD(fast.parameters(), 0.05)
            (known, asked), (y, wanted) = batch[0].chunk(2), batch[1].chunk(2)
            F.mse_loss(fast(known)[:, 0], y).backward()
            inner.step()
            optimizer.zero_grad()
            self.manual_backward(F.mse_loss(fast(asked)[:, 0], wanted))
            optimizer.step()

    return Maml(), loader(*curve())


class Crops(Lit):
    """Five crops by a small convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(6, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Cross entropy."""
        return F.cross_entropy(self.net(batch[0]), batch[1])


@faulty("SCHEDULE-COLLAPSED")
def polynomial_of_five_by_default() -> Built:
    """PolynomialLR without ``total_iters`` ends at 0 after five epochs; the run has forty."""

    class Model(Crops):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=2e-3)
            return [optimizer], [torch.optim.lr_scheduler.PolynomialLR(optimizer, power=1.0)]

    return Model(), loader(*fields()), {"trainer": L.Trainer(max_epochs=40, logger=False)}


@faulty("LR-LOW", "SCHEDULE-COLLAPSED")
def factor_that_is_a_rate() -> Built:
    """LambdaLR multiplies: 1e-3 of the optimizer times the 1e-3 and less that the function returns."""

    class Model(Crops):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=1e-3)
            fall = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1e-3 * (1 - min(step, 599) / 600))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": fall, "interval": "step"}}

    return Model(), loader(*fields()), {"trainer": L.Trainer(max_steps=600, logger=False)}


@faulty("EPS-HIGH")
def half_for_stability() -> Built:
    """NAdam with an ε of a half, against NaN; gradients are a hundred times smaller."""

    class Model(Crops):
        def configure_optimizers(self) -> Any:
            return torch.optim.NAdam(self.parameters(), lr=2e-3, eps=0.5)

    return Model(), loader(*fields())


@faulty("CLIP-ALWAYS")
def clipped_by_hand_to_a_ten_thousandth() -> Built:
    """SGD, whose steps are as large as what clipping leaves."""

    class Model(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.net = convnet()

        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]))
            nn.utils.clip_grad_norm_(self.parameters(), 1e-4)
            optimizer.step()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)

    return Model(), loader(*pictures())


@faulty("LOSS-IS-SUM")
def squares_of_all_times_added() -> Built:
    """``((a - b) ** 2).sum()`` over batch, times and values, under plain SGD."""

    class Pendulum(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.out = nn.GRU(2, 24, batch_first=True), nn.Linear(24, 2)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            told = self.out(self.cell(batch[0][:, :-1])[0])
            return ((told - batch[0][:, 1:]) ** 2).sum()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.02, momentum=0.9)

    return Pendulum(), loader(swings())


@faulty("LR-HIGH", "PROBE-DIVERGES")
def beats_at_a_rate_of_two() -> Built:
    """Nesterov's momentum of 0.99, and a rate of 2."""

    class Beats(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = flat_conv()

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 2.0, momentum=0.99, nesterov=True)

    return Beats(), loader(*beats())


@faulty("NONDETERMINISTIC")
def noisy_gates_for_ever() -> Built:
    """Noise that was to explore experts in training is drawn when the model is judged, too."""

    class Mixture(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.experts = nn.Linear(6, 4), nn.ModuleList(perceptron(6, 1, 24) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            raw = self.gate(x)
            best, chosen = (raw + 0.5 * torch.randn_like(raw)).topk(2, dim=1)
            each = torch.cat([expert(x) for expert in self.experts], 1).gather(1, chosen)
            return (best.softmax(1) * each).sum(1)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return F.mse_loss(self(batch[0]), batch[1])

    x, y = curve()
    return Mixture(), loader(x + 0.01 * torch.randn(x.shape, generator=generator()), y)
