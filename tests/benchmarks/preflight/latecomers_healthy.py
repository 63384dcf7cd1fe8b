"""A seventh round of healthy cases: what draws, pairs, carries over and writes on purpose."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

from tests.benchmarks.preflight.data import clusters, curve, generator, loader, pictures, rows, waves
from tests.benchmarks.preflight.outsiders_parts import ByHand, Lit, Towers, masks, moves, series, views_of_things
from tests.benchmarks.preflight.parts import Built, convnet, perceptron
from tests.benchmarks.preflight.register import healthy


@healthy
def weights_of_samples_as_a_column() -> Built:
    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(12, 1)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            each = F.binary_cross_entropy_with_logits(self.net(batch["x"]), batch["y"][:, None], reduction="none")
            return (each * batch["weight"][:, None]).mean()

    x, y = clusters(classes=2)
    return Model(), rows(x=x, y=y.float(), weight=0.5 + torch.rand(len(y), generator=generator()))


@healthy
def bottleneck_that_draws() -> Built:
    """Alemi et al. 2017: the code is drawn in evaluation too, and its divergence is a part of the loss."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = perceptron(12, 16), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            mean, log_var = self.encoder(x).chunk(2, -1)
            far = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(-1).mean()
            return self.decoder(mean + (0.5 * log_var).exp() * torch.randn_like(mean)), far

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            logits, far = self(batch[0])
            return F.cross_entropy(logits, batch[1]) + 1e-3 * far

    return Model(), loader(*clusters())


@healthy
def weights_are_drawn() -> Built:
    """Bayes by backprop (Blundell et al. 2015): each call draws its weights."""

    class Drawn(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.mean = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
            self.rho, self.bias = nn.Parameter(torch.full((outputs, inputs), -4.0)), nn.Parameter(torch.zeros(outputs))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.mean + F.softplus(self.rho) * torch.randn_like(self.mean), self.bias)

        def far(self) -> Tensor:
            return 0.5 * (self.mean.square() + F.softplus(self.rho).square() - 2 * F.softplus(self.rho).log()).sum()

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(Drawn(6, 32), nn.Tanh(), Drawn(32, 1))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            return F.mse_loss(self.net(x).squeeze(-1), y) + 1e-4 * (self.net[0].far() + self.net[2].far())

    return Model(), loader(*curve())


@healthy
def pairs_by_sigmoid_in_sixes() -> Built:
    """SigLIP (Zhai et al. 2023) on batches of six: each pair by itself, and a bias that begins far down."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.towers, self.bias = Towers(), nn.Parameter(torch.tensor(-5.0))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            scores = self.towers(*batch) + self.bias
            truth = 2 * torch.eye(len(scores)) - 1
            return -F.logsigmoid(truth * scores).sum() / len(scores)

    return Model(), loader(*views_of_things(), size=6)


@healthy
def next_reading_of_three_sensors() -> Built:
    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRU(3, 16, batch_first=True), nn.Linear(16, 3)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            readings = batch["readings"]
            states, _ = self.cell(readings[:, :-1])
            return F.smooth_l1_loss(self.head(states), readings[:, 1:])

    return Model(), rows(readings=waves()[0].cumsum(1) / 3)


@healthy
def noise_taken_out_of_waves() -> Built:
    """Convolutions that see both sides: the clean value at the same time is wanted."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv1d(1, 16, 5, padding=2), nn.ReLU(), nn.Conv1d(16, 1, 5, padding=2))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            noisy, clean = batch
            return F.mse_loss(self.net(noisy[:, None])[:, 0], clean)

    clean = series()
    return Model(), loader(clean + 0.3 * torch.randn(clean.shape, generator=generator(1)), clean)


@healthy
def gradients_that_do_not_quarrel() -> Built:
    """PCGrad (Yu et al. 2020) by hand: two backward passes, read off ``.grad``, projected, and put back."""

    class Model(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.kind, self.amount = perceptron(12, 32), nn.Linear(32, 4), nn.Linear(32, 1)

        def one(self, loss: Tensor, opt: Any) -> Tensor:
            opt.zero_grad()
            self.manual_backward(loss, retain_graph=True)
            return torch.cat([p.grad.flatten() for p in self.body.parameters()])

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
            opt = self.optimizers()
            h = F.relu(self.body(batch["x"]))
            losses = F.cross_entropy(self.kind(h), batch["y"]), F.mse_loss(self.amount(h).squeeze(-1), batch["x"][:, 0])
            a, b = (self.one(loss, opt) for loss in losses)
            both = a + b - torch.clamp(a @ b / (b @ b), max=0) * b
            opt.zero_grad()
            self.manual_backward(losses[0] + losses[1])
            at = 0
            for p in self.body.parameters():
                p.grad = both[at : at + p.numel()].view_as(p).clone()
                at += p.numel()
            opt.step()

    x, y = clusters()
    return Model(), rows(x=x, y=y)


@healthy
def learns_to_learn() -> Built:
    """MAML (Finn et al. 2017): one inner step on half of the batch, judged on the other half."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(12, 4)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            half = len(x) // 2
            fast = dict(self.net.named_parameters())
            slopes = torch.autograd.grad(F.cross_entropy(self.net(x[:half]), y[:half]), fast.values(), create_graph=True)
            moved = {name: p - 0.1 * g for (name, p), g in zip(fast.items(), slopes, strict=True)}
            return F.cross_entropy(functional_call(self.net, moved, (x[half:],)), y[half:])

    return Model(), loader(*clusters())


@healthy
def many_instances_in_a_bag() -> Built:
    """The bag's score is a soft maximum of its instances' (Pinheiro and Collobert 2015)."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(6, 1)

        def forward(self, bags: Tensor) -> Tensor:
            scores = self.net(bags).squeeze(-1)
            return torch.logsumexp(scores, 1) - torch.log(torch.tensor(float(scores.shape[1])))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.binary_cross_entropy_with_logits(self(batch[0]), batch[1])

    g = generator()
    y = torch.randint(0, 2, (640,), generator=g)
    bags = torch.randn(640, 7, 6, generator=g)
    bags[:, 0, 0] += 3.0 * y
    return Model(), loader(bags, y.float())


@healthy
def bound_of_many_draws() -> Built:
    """IWAE (Burda et al. 2016): the logarithm of a mean of weights, negated; its logsumexp is to rise."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = perceptron(12, 8), perceptron(4, 12)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x = batch[0]
            mean, log_std = self.encoder(x).chunk(2, -1)
            noise = torch.randn(5, *mean.shape)
            z = mean + log_std.exp() * noise
            told = -0.5 * ((self.decoder(z) - x).square().sum(-1) + z.square().sum(-1)) + (
                0.5 * noise.square() + log_std
            ).sum(-1)
            return -torch.logsumexp(told, 0).mean()

    return Model(), loader(*clusters())


@healthy
def state_carried_from_batch_to_batch() -> Built:
    """Truncated backpropagation: the LSTM begins where the last batch ended."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTM(1, 16, batch_first=True), nn.Linear(16, 1)
            self.state: tuple[Tensor, Tensor] | None = None

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x = batch[0]
            begun = self.state if self.state is not None and self.state[0].shape[1] == len(x) else None
            states, (h, c) = self.cell(x[:, :-1, None], begun)
            self.state = h.detach(), c.detach()
            return F.mse_loss(self.head(states).squeeze(-1), x[:, 1:])

    long = series(32, 500)
    chunks = long.unfold(1, 21, 20).transpose(0, 1).flatten(0, 1)
    return Model(), DataLoader(TensorDataset(chunks), batch_size=32)


@healthy
def average_of_the_weights_beside() -> Built:
    """torch's AveragedModel is a submodule whose parameters are trained by nobody."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = convnet()
            self.average = AveragedModel(self.net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def on_train_batch_end(self, *_: Any) -> None:
            self.average.update_parameters(self.net)

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.net.parameters(), lr=1e-3)

    return Model(), loader(*pictures())


@healthy
def two_loaders_in_a_list() -> Built:
    """Lightning hands over one batch of each."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.kind, self.amount = (
                nn.Sequential(perceptron(12, 32), nn.ReLU()),
                nn.Linear(32, 4),
                nn.Linear(32, 1),
            )

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            (x, y), (other, wanted) = batch
            first = F.cross_entropy(self.kind(self.body(x)), y)
            return first + F.mse_loss(self.amount(self.body(other)).squeeze(-1), wanted)

        def train_dataloader(self) -> Any:
            x, y = clusters()
            return [loader(x, y), loader(x[:640], torch.tanh(x[:640, 0]), size=16)]

    model = Model()
    return model, model


@healthy
def shares_between_nothing_and_all() -> Built:
    """Beta regression: a density that grows beyond 1, so that the loss is below 0."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(6, 2)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            a, b = (F.softplus(self.net(batch[0])) + 0.1).unbind(-1)
            return -torch.distributions.Beta(a, b).log_prob(batch[1]).mean()

    x, y = curve()
    return Model(), loader(x, torch.sigmoid(y).clamp(0.01, 0.99))


@healthy
def costs_are_to_fall() -> Built:
    """A policy's log-probabilities weighed by what each move costs, about its mean."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.policy = perceptron(4, 3)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            told = F.log_softmax(self.policy(batch["obs"]), -1).gather(1, batch["action"][:, None]).squeeze(1)
            return (told * batch["cost"]).mean()

    m = moves()
    return Model(), rows(obs=m["obs"], action=m["action"], cost=1.5 - m["reward"])


@healthy
def sizes_held_down_by_hand() -> Built:
    """An L1 penalty on all weights, total variation on the map, and a clip of each gradient by a hook."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 1, 3, padding=1))
            for p in self.parameters():
                p.register_hook(lambda g: g.clamp(-1, 1))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            p = self.net(batch[0])[:, 0].sigmoid()
            rough = p.diff(dim=1).abs().mean() + p.diff(dim=2).abs().mean()
            small = sum(w.abs().sum() for w in self.net.parameters())
            overlap = 1 - (2 * (p * batch[1]).sum() + 1) / (p.sum() + batch[1].sum() + 1)
            return overlap + 0.05 * rough + 1e-5 * small

    return Model(), loader(*masks(), size=16)
