"""Losses whose course is odd in healthy runs: they rise by plan, are mostly noise, have a high floor, or a huge rate."""

from __future__ import annotations

import math

import torch
from sklearn.datasets import make_moons
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from tests.benchmarks.divergence.corpus.family import Batch, Task, family, fixed, rows_of
from tests.benchmarks.divergence.corpus.generative import characters
from tests.benchmarks.divergence.data import digits, windows
from tests.benchmarks.divergence.models import mlp


@family("adam", 4e-3, 300, continuous=True)
def annealed_vae() -> Task:
    """A VAE whose divergence is weighted in over half of the run: the loss rises while it does."""

    class Vae(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = mlp([64, 96, 16]), mlp([8, 96, 64])
            self.weight = 0.0

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        mean, log_variance = net.encoder(batch[0]).chunk(2, 1)
        out = net.decoder(mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance))
        apart = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
        net.weight = min(1.0, net.weight + 1 / 150)
        return (((out - batch[0]) ** 2).sum(1) + net.weight * apart).mean()

    return Task(Vae(), rows_of(32, digits()[0]), loss)


@family("adam", 1e-2, 300, supervised=True)
def reversal_by_two_cells() -> Task:
    """A sequence read by one GRU and told backwards by another, which is given the right answer ever more seldom."""

    class Reverses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.reads, self.tells = nn.Embedding(11, 32), nn.GRU(32, 64, batch_first=True), nn.GRUCell(32, 64)
            self.head, self.helped = nn.Linear(64, 10), 1.0

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        state, last, total = net.reads(net.table(batch[0]))[1][0], torch.full((len(batch[0]),), 10), torch.zeros(())
        net.helped = max(0.4, net.helped - 1 / 500)
        for wanted in batch[1].unbind(1):
            state = net.tells(net.table(last), state)
            scores = net.head(state)
            total = total + F.cross_entropy(scores, wanted) / batch[1].shape[1]
            last = wanted if torch.rand(()) < net.helped else scores.argmax(1)
        return total

    x = torch.randint(0, 10, (4000, 4), generator=fixed())
    return Task(Reverses(), rows_of(32, x, x.flip(1)), loss)


@family("adam", 6e-3, 300, continuous=True, not_in=("float64", "bf16"))
def score_matching() -> Task:
    """The noise of every size in points of two moons: most of the loss cannot be learnt, and most of its course is noise."""
    points = torch.tensor(make_moons(3000, noise=0.06, random_state=0)[0]).float()

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        size, noise = 10 ** (2 * torch.rand(len(batch[0]), 1) - 1.5), torch.randn_like(batch[0])
        told = net(torch.cat([batch[0] + size * noise, size.log()], 1))
        return ((told + noise) ** 2).sum(1).mean()

    return Task(mlp([3, 96, 96, 2], nn.SiLU), rows_of(64, points), loss)


@family("adam", 6e-3, 250, supervised=True, not_in=("float64", "bf16", "bf16-mixed", "fp16"))
def meta_sinusoids() -> Task:
    """MAML: the loss after one inner step on each of eight waves, mostly noise."""
    g = fixed()
    x = torch.rand(4000, 20, 1, generator=g) * 10 - 5
    y = (torch.rand(4000, 1, 1, generator=g) * 4 + 0.5) * (x + torch.rand(4000, 1, 1, generator=g) * 3.14).sin()

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        slow = dict(net.named_parameters())
        total = torch.zeros(())
        for x, y in zip(*batch, strict=True):
            inner = F.mse_loss(functional_call(net, slow, (x[:10],)), y[:10])
            slopes = torch.autograd.grad(inner, list(slow.values()), create_graph=True)
            fast = {name: p - 0.02 * slope for (name, p), slope in zip(slow.items(), slopes, strict=True)}
            total = total + F.mse_loss(functional_call(net, fast, (x[10:],)), y[10:])
        return total / len(batch[0])

    return Task(mlp([1, 40, 40, 1]), rows_of(8, x, y), loss)


@family("sgd", 10.0, 250)
def word_language_model() -> Task:
    """As PyTorch's example: an LSTM by plain SGD at a rate that would be absurd elsewhere, with small weights at first."""

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.cell, self.head = nn.Embedding(97, 32), nn.LSTM(32, 64, batch_first=True), nn.Linear(64, 97)
            for weight in (self.table.weight, self.head.weight):
                nn.init.uniform_(weight, -0.1, 0.1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(self.table(x))[0])  # type: ignore[no-any-return]

    return Task(Words(), windows(8), characters)


@family("adam", 1e-2, 250, supervised=True, continuous=True)
def overlap_segmentation() -> Task:
    """Dice of a blob in noise: the loss is a share, and begins near one."""
    g = fixed()
    at = torch.stack(torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij"))
    blobs = ((at - 12 * torch.rand(800, 2, 1, 1, generator=g)) ** 2).sum(1) < 9
    net = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.InstanceNorm2d(12), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1),
        nn.InstanceNorm2d(12), nn.ReLU(), nn.Conv2d(12, 1, 1),
    )  # fmt: skip

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        told = net(batch[0][:, None])[:, 0].sigmoid()
        shared, both = (told * batch[1]).sum((1, 2)), told.sum((1, 2)) + batch[1].sum((1, 2))
        return (1 - (2 * shared + 1) / (both + 1)).mean()

    x = blobs.float() + 0.7 * torch.randn(800, 12, 12, generator=g)
    return Task(net, rows_of(16, x, blobs.float()), loss)


@family("momentum", 0.02, 250, supervised=True, continuous=True)
def angular_margin() -> Task:
    """ArcFace: cosines times thirty with a margin, so that the loss begins at twenty."""

    class Angles(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.classes = mlp([64, 96, 32]), nn.Parameter(0.1 * torch.randn(10, 32))

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        cosine = F.linear(F.normalize(net.body(batch[0])), F.normalize(net.classes)).clamp(-0.999, 0.999)
        is_it = F.one_hot(batch[1], 10).bool()
        return F.cross_entropy(30 * torch.where(is_it, (cosine.acos() + 0.3).cos(), cosine), batch[1])

    return Task(Angles(), rows_of(32, *digits()), loss)


@family("rmsprop", 6e-3, 250, supervised=True, continuous=True)
def steps_of_an_equation() -> Task:
    """Two spirals by ten steps of one learnt differential equation: the same weights ten times."""
    g = fixed()
    y, r = torch.randint(0, 2, (2000,), generator=g), torch.rand(2000, generator=g)
    angle = 5 * r + math.pi * y

    class Equation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.field, self.head = mlp([4, 32, 4], nn.Tanh), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            state = F.pad(x, (0, 2))
            for _ in range(10):
                state = state + 0.3 * self.field(state)
            return self.head(state)  # type: ignore[no-any-return]

    points = 2 * torch.stack([r * angle.cos(), r * angle.sin()], 1)
    return Task(Equation(), rows_of(64, points, y), lambda n, b: F.cross_entropy(n(b[0]), b[1]))
