"""Families that were written blind, as the other visitors: odd weights, and things that are fitted."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import register_parametrization

from tests.benchmarks.divergence.corpus.family import Batch, Task, family, fixed, rows_of
from tests.benchmarks.divergence.corpus.strangers import grid, over_all
from tests.benchmarks.divergence.corpus.supervised import classes
from tests.benchmarks.divergence.data import diabetes, digits
from tests.benchmarks.divergence.models import mlp, pretrained


class Coarse(nn.Module):
    """Weights of sixteen levels whose distance is learnt, slowly (LSQ); the gradient passes as if nothing were rounded."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.unit = nn.Parameter(2 * weight.abs().mean() / math.sqrt(7))

    def forward(self, weight: Tensor) -> Tensor:
        """The rounded weight."""
        share = 1 / math.sqrt(7 * weight.numel())
        unit = self.unit * share + (self.unit * (1 - share)).detach()
        levels = (weight / unit).clamp(-8, 7)
        return (levels + (levels.round() - levels).detach()) * unit


@family("momentum", 0.03, 250, supervised=True, continuous=True)
def four_bit_weights() -> Task:
    """Digits with weights of four bits, trained so from the start."""
    net = mlp([64, 64, 48, 10])
    for layer in net:
        if isinstance(layer, nn.Linear):
            register_parametrization(layer, "weight", Coarse(layer.weight.detach()))
    return Task(net, rows_of(64, *digits()), classes)


class Sparse(nn.Module):
    """One weight of ten, drawn once; the others are zero for good."""

    kept: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", (torch.rand_like(weight) < 0.1).to(weight.dtype))

    def forward(self, weight: Tensor) -> Tensor:
        """What is left; larger, so that the sum keeps its size."""
        return weight * self.kept * 3.2


@family("adamw", 5e-3, 250, supervised=True, continuous=True)
def sparse_from_the_start() -> Task:
    """Nine weights of ten are zero and have no gradient, by intent."""
    net = mlp([64, 256, 128, 10])
    for layer in (net[0], net[2]):
        register_parametrization(layer, "weight", Sparse(layer.weight.detach()))
    return Task(net, rows_of(64, *digits()), classes)


@family("momentum", 0.02, 250, supervised=True, continuous=True, by_loss=False)
def reversed_domains() -> Task:
    """DANN: digits and their darker, noisier kin; what tells them apart is unlearnt, so that the loss rises."""

    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, weight: float) -> Tensor:
            ctx.weight = weight
            return x.view_as(x)

        @staticmethod
        def backward(ctx: Any, *slopes: Tensor) -> Any:
            return -ctx.weight * slopes[0], None

    class Domains(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.kind, self.place = mlp([64, 64, 48]), mlp([48, 10]), mlp([48, 32, 1])

        def forward(self, x: Tensor) -> Tensor:
            return self.kind(self.body(x).relu())  # type: ignore[no-any-return]

    count = [0]

    def loss(net: Any, batch: Batch) -> Tensor:
        count[0] += 1
        weight = 0.3 * math.tanh(count[0] / 50)
        h = net.body(torch.cat([batch[0], batch[1]])).relu()
        place = (torch.arange(len(h)) < len(batch[0])).to(h.dtype)[:, None]
        told = net.place(Reverse.apply(h, weight))
        return F.cross_entropy(net.kind(h[: len(batch[0])]), batch[2]) + F.binary_cross_entropy_with_logits(told, place)

    x, y = digits()
    dark = 0.6 * x[torch.randperm(len(x), generator=fixed())] + 0.5 * torch.randn(x.shape, generator=fixed(8)) - 0.4
    return Task(Domains(), rows_of(64, x, dark, y), loss, over_all(classes, x, y))


@family("adam", 2e-3, 250, supervised=True, continuous=True)
def fixed_point_layer() -> Task:
    """A deep equilibrium: one layer until it stands still, of which only the last pass has a gradient."""

    class Equilibrium(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.take, self.again, self.out = nn.Linear(64, 64), nn.Linear(64, 64, bias=False), nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            taken = self.take(x)
            h = torch.zeros_like(taken)
            with torch.no_grad():
                for _ in range(12):
                    h = torch.tanh(self.again(h) + taken)
            return self.out(torch.tanh(self.again(h) + taken))  # type: ignore[no-any-return]

    return Task(Equilibrium(), rows_of(48, *digits()), classes)


@family("adam-ngp", 1e-2, 250, supervised=True)
def hashed_field() -> Task:
    """A picture from hashed tables of features that begin at a ten-thousandth (Instant-NGP), and its epsilon of 1e-15."""

    class Hashed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables = nn.ParameterList(1e-4 * (2 * torch.rand(512, 2) - 1) for _ in range(4))
            self.body = mlp([8, 32, 1])

        def forward(self, x: Tensor) -> Tensor:
            found = []
            for level, table in enumerate(self.tables):
                at = x * 4 * 2**level
                low, part = at.floor().long(), at - at.floor()
                corners = low[:, None] + torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
                share = (1 - (corners - low[:, None] - part[:, None]).abs()).prod(2, keepdim=True)
                found.append((table[(corners[..., 0] ^ corners[..., 1] * 2654435761) % 512] * share.to(table.dtype)).sum(1))
            return self.body(torch.cat(found, 1))  # type: ignore[no-any-return]

    at = (grid(48).flatten(1).T + 0.5) / 48
    shade = (20 * at[:, 0]).sin() * (14 * at[:, 1] + 9 * at[:, 0] ** 2).cos() + ((at - 0.5).norm(dim=1) < 0.2).float()
    return Task(Hashed(), rows_of(256, at, shade), lambda n, b: F.mse_loss(n(b[0])[:, 0], b[1]))


@family("adam", 0.1, 200, not_in=("bf16", "bf16-mixed", "fp16"))
def kernel_of_a_process() -> Task:
    """A Gaussian process by its marginal likelihood: three numbers, and a loss that turns negative."""

    class Process(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.length, self.size, self.noise = (nn.Parameter(torch.zeros(())) for _ in range(3))

    def loss(net: Any, batch: Batch) -> Tensor:
        (x, y), apart = batch, (batch[0][:, None] - batch[0]) ** 2
        covered = F.softplus(net.size) * torch.exp(-0.5 * apart / F.softplus(net.length) ** 2)
        root = torch.linalg.cholesky(covered + (F.softplus(net.noise) + 1e-4) * torch.eye(len(x), dtype=x.dtype))
        solved = torch.cholesky_solve(y[:, None], root)[:, 0]
        return (0.5 * y @ solved + root.diagonal().log().sum()) / len(x) + 0.919  # type: ignore[no-any-return]

    x = torch.linspace(0, 6, 80)
    y = (3 * x).sin() + 0.5 * x.cos() + 0.05 * torch.randn(80, generator=fixed())
    return Task(Process(), lambda generator: (x, y), loss)


@family("adam", 1e-2, 250, supervised=True, continuous=True)
def weights_in_doubt() -> Task:
    """Bayes by backprop: weights are drawn anew in each step; the divergence is most of the loss at first."""

    class Doubtful(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.mean = nn.Parameter(torch.randn(outputs, inputs + 1) / math.sqrt(inputs))
            self.spread = nn.Parameter(torch.full((outputs, inputs + 1), -4.0))

        def forward(self, x: Tensor) -> Tensor:
            drawn = self.mean + F.softplus(self.spread) * torch.randn_like(self.mean)
            return F.linear(x, drawn[:, :-1], drawn[:, -1])

        def divergence(self) -> Tensor:
            wide = F.softplus(self.spread)
            return (0.5 * (wide**2 + self.mean**2) - wide.log() - 0.5).sum()

    def loss(net: Any, batch: Batch) -> Tensor:
        doubt = net[0].divergence() + net[2].divergence()
        return 0.5 * ((net(batch[0])[:, 0] - batch[1]) ** 2).mean() / 0.5 + doubt / 4420  # type: ignore[no-any-return]

    x, y = diabetes()
    return Task(nn.Sequential(Doubtful(10, 16), nn.Tanh(), Doubtful(16, 1)), rows_of(64, x, y), loss)


@family("momentum", 20.0, 250, by_loss=False, not_in=("bf16",))
def neighbours_on_a_map() -> Task:
    """t-SNE of 240 digits: a rate of tens, and at first attraction that is four times too strong."""

    class Map(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places = nn.Parameter(1e-4 * torch.randn(240, 2))

    def divergence(net: Any, wanted: Tensor) -> Tensor:
        near = 1 / (1 + ((net.places[:, None] - net.places) ** 2).sum(2)) * (1 - torch.eye(240))
        return (wanted * ((wanted + 1e-9) / (near / near.sum() + 1e-9)).log()).sum()  # type: ignore[no-any-return]

    count = [0]

    def loss(net: Any, batch: Batch) -> Tensor:
        count[0] += 1
        return divergence(net, batch[0] * (4 if count[0] <= 60 else 1))

    x = digits()[0][:240]
    apart = torch.cdist(x, x) ** 2
    width = apart.topk(13, largest=False).values[:, -1:] / 3
    near = torch.softmax(-apart / width - 1e9 * torch.eye(240), 1)
    wanted = (near + near.T) / 480
    return Task(Map(), lambda generator: (wanted,), loss, lambda net: float(divergence(net, wanted)))


@family("adam", 0.03, 250, supervised=True, continuous=True)
def reprogrammed_network() -> Task:
    """A trained network that stays as it is; what is added to its inputs, and how it is read, is learnt."""

    class Reprogrammed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = pretrained().requires_grad_(False)
            self.prompt, self.read = nn.Parameter(torch.zeros(64)), nn.Parameter(torch.eye(10))

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x + self.prompt) @ self.read  # type: ignore[no-any-return]

    x, y = digits()
    return Task(Reprogrammed(), rows_of(64, x, 9 - y), classes)


@family("lion", 1e-3, 250, supervised=True, continuous=True)
def early_exits() -> Task:
    """Four answers on the way through a deep network, each with a loss of its own, the later the heavier."""

    class Exits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(64, 64)
            self.stages, self.answers = (
                nn.ModuleList(make() for _ in range(4)) for make in (stage, lambda: nn.Linear(64, 10))
            )

        def forward(self, x: Tensor) -> list[Tensor]:
            h, told = self.first(x), []
            for body, answer in zip(self.stages, self.answers, strict=True):
                h = h + body(h)
                told.append(answer(h))
            return told

    def stage() -> nn.Sequential:
        return nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 64), nn.GELU())

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        each = [
            F.cross_entropy(told, batch[1]) * weight
            for told, weight in zip(net(batch[0]), (0.25, 0.5, 0.75, 1.0), strict=True)
        ]
        return torch.stack(each).sum()

    return Task(Exits(), rows_of(32, *digits()), loss)
