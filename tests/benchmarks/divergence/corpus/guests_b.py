"""More families of the guest who had not read the rules: waves, bodies, graphs, sets, and answers in an order."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.divergence.corpus.family import Batch, Task, family, fixed, rows_of
from tests.benchmarks.divergence.corpus.guests import HALF
from tests.benchmarks.divergence.corpus.strangers import grid
from tests.benchmarks.divergence.corpus.supervised import images
from tests.benchmarks.divergence.corpus.visitors import SINGLE_ONLY
from tests.benchmarks.divergence.data import digits
from tests.benchmarks.divergence.models import mlp


@family("adam-gan", 2e-3, 250, continuous=True, by_loss=False, not_in=SINGLE_ONLY)
def guest_relative_critic() -> Task:
    """R3GAN: real points against made ones in pairs, and slopes at both held small; both losses stay near log 2."""

    def steepness(net: Any, at: Tensor) -> Tensor:
        at = at.detach().requires_grad_(True)
        slopes = torch.autograd.grad(net["critic"](at).sum(), at, create_graph=True)[0]
        return slopes.square().sum(1).mean()

    def critic(net: Any, batch: Batch) -> Tensor:
        real, made = batch[0], net["maker"](batch[1]).detach()
        apart = net["critic"](real) - net["critic"](made)
        return F.softplus(-apart).mean() + 0.1 * (steepness(net, real) + steepness(net, made))

    def maker(net: Any, batch: Batch) -> Tensor:
        return F.softplus(net["critic"](batch[0]) - net["critic"](net["maker"](batch[1]))).mean()

    def energy_distance(net: Any) -> float:
        made, real = net["maker"](torch.randn(400, 4)), points[:400]
        both = 2 * torch.cdist(made, real).mean() - torch.cdist(made, made).mean() - torch.cdist(real, real).mean()
        return float(both)

    def draw(generator: Generator) -> Batch:
        return points[torch.randint(0, 2000, (48,), generator=generator)], torch.randn(48, 4, generator=generator)

    g = fixed()
    turn = 6 * torch.rand(2000, 1, generator=g)
    points = torch.cat([turn.cos(), turn.sin()], 1) * turn / 4 + 0.03 * torch.randn(2000, 2, generator=g)
    net = nn.ModuleDict({"critic": mlp([2, 32, 32, 1], nn.SiLU), "maker": mlp([4, 32, 32, 2])})
    return Task(net, draw, {"critic": critic, "maker": maker}, energy_distance)


def glides(count: int, length: int) -> Tensor:
    """Sounds whose pitch wanders, with a little hiss."""
    g = fixed()
    pitch = 0.15 + 0.5 * torch.rand(count, 1, generator=g) + 0.02 * torch.randn(count, length, generator=g).cumsum(1)
    return pitch.cumsum(1).sin() + 0.1 * torch.randn(count, length, generator=g)


@family("adam", 5e-3, 200, continuous=True)
def guest_sound_to_come() -> Task:
    """CPC: from what was heard, which of all pieces of sound in the batch comes one and two steps later."""

    class Predictive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hear = nn.Sequential(nn.Conv1d(1, 24, 8, 4), nn.ReLU(), nn.Conv1d(24, 24, 4, 4))
            self.cell, self.ahead = nn.GRU(24, 24, batch_first=True), nn.ModuleList(nn.Linear(24, 24) for _ in range(2))

        def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
            heard = self.hear(x[:, None]).transpose(1, 2)
            told = self.cell(heard)[0]
            return heard, [layer(told) for layer in self.ahead]

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        heard, ahead = net(batch[0])
        pairs = [(p[:, :-k].flatten(0, 1), heard[:, k:].flatten(0, 1)) for k, p in enumerate(ahead, 1)]
        each = [F.cross_entropy(guess @ true.T, torch.arange(len(true))) for guess, true in pairs]
        return torch.stack(each).mean()

    return Task(Predictive(), rows_of(12, glides(800, 160)), loss)


class Attending(nn.Module):
    """A layer of graph attention (Veličković et al. 2018) with four heads side by side."""

    def __init__(self, inputs: int, outputs: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.values = heads, nn.Linear(inputs, heads * outputs, bias=False)
        self.ask, self.answer = (nn.Parameter(torch.randn(heads, outputs) / math.sqrt(outputs)) for _ in range(2))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """[nodes, in] and a mask of edges to [nodes, heads, out]."""
        h = self.values(x).view(len(x), self.heads, -1)
        scores = F.leaky_relu((h * self.ask).sum(2)[:, None] + (h * self.answer).sum(2)[None], 0.2)
        weights = scores.masked_fill(~edges[..., None], -torch.inf).softmax(1)
        return torch.einsum("ijh,jho->iho", weights, h)


@family("adam", 1e-2, 150, supervised=True)
def guest_papers_that_cite() -> Task:
    """Graph attention on one graph with half of everything dropped: of 120 papers forty have a known field."""

    class Papers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Attending(60, 6), Attending(24, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = F.elu(self.first(F.dropout(x, 0.5, self.training), edges).flatten(1))
            return self.second(F.dropout(h, 0.5, self.training), edges).mean(1)  # type: ignore[no-any-return]

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(net(words.to(next(net.parameters()).dtype))[batch[0]], batch[1])

    g = fixed()
    field = torch.randint(0, 4, (120,), generator=g)
    chance = torch.where(field[:, None] == field, 0.12, 0.016)
    edges = torch.rand(120, 120, generator=g) < chance
    edges = edges | edges.T | torch.eye(120, dtype=torch.bool)
    words = (torch.rand(120, 60, generator=g) < 0.04 + 0.1 * (torch.arange(60) // 15 == field[:, None])).float()
    return Task(Papers(), lambda generator: (torch.arange(40), field[:40]), loss)


class Bodies(nn.Module):
    """An equivariant layer (Satorras et al. 2021): distances in, shifts along the lines between the bodies out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.edge, self.shift = mlp([2 * width + 1, width, width], nn.SiLU), mlp([width, width, 1], nn.SiLU)
        self.node = mlp([2 * width, width, width], nn.SiLU)

    def forward(self, h: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, bodies, width] and [batch, bodies, 3] to the same."""
        between = at[:, :, None] - at[:, None]
        pairs = torch.broadcast_tensors(h[:, :, None], h[:, None])
        told = self.edge(torch.cat([*pairs, between.square().sum(3, keepdim=True)], 3))
        shifts = (between * self.shift(told)).mean(2)
        return h + self.node(torch.cat([h, told.sum(2)], 2)), at + shifts


@family("adamw", 1.2e-2, 150, supervised=True, continuous=True)
def guest_charges_in_flight() -> Task:
    """Five charges push and pull for a while; where they are then, by two equivariant layers, turned as you like."""

    class Flight(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.layers = nn.Linear(2, 16), nn.ModuleList(Bodies(16) for _ in range(2))
            self.speed = nn.Parameter(torch.zeros(()))

        def forward(self, state: Tensor) -> Tensor:
            at, speed, charge = state.split([3, 3, 1], 2)
            h, now = self.first(torch.cat([speed.norm(dim=2, keepdim=True), charge], 2)), at + self.speed * speed
            for layer in self.layers:
                h, now = layer(h, now)
            return now

    g = fixed()
    at, speed = torch.randn(1500, 5, 3, generator=g), 0.5 * torch.randn(1500, 5, 3, generator=g)
    charge = torch.randint(0, 2, (1500, 5, 1), generator=g) * 2.0 - 1
    now, going = at, speed
    for _ in range(20):
        between = now[:, :, None] - now[:, None]
        force = charge[:, :, None] * charge[:, None] * between / (between.square().sum(3, keepdim=True) + 0.3) ** 1.5
        going = going + 0.05 * force.sum(2)
        now = now + 0.05 * going
    return Task(Flight(), rows_of(32, torch.cat([at, speed, charge], 2), now), lambda n, b: F.mse_loss(n(b[0]), b[1]))


class Spectral(nn.Module):
    """A layer of a Fourier neural operator (Li et al. 2021): twelve waves, mixed by real and imaginary weights."""

    def __init__(self, width: int, waves: int = 12) -> None:
        super().__init__()
        self.waves, self.past = waves, nn.Conv1d(width, width, 1)
        self.real, self.imaginary = (nn.Parameter(torch.rand(width, width, waves) / width**2) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, width, places] to the same."""
        heard = torch.fft.rfft(x)[..., : self.waves]
        mixed = torch.einsum("bik,iok->bok", heard, torch.complex(self.real, self.imaginary))
        return torch.fft.irfft(mixed, x.shape[2]) + self.past(x)


@family("adam", 1e-2, 150, supervised=True, continuous=True, not_in=HALF)
def guest_waves_that_break() -> Task:
    """Burgers' equation on a ring, from its start to its end by a Fourier neural operator: relative errors."""

    class Operator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift, self.layers = nn.Conv1d(2, 12, 1), nn.ModuleList(Spectral(12) for _ in range(3))
            self.out = nn.Sequential(nn.Conv1d(12, 24, 1), nn.GELU(), nn.Conv1d(24, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            place = torch.linspace(0, 1, x.shape[1], dtype=x.dtype).expand_as(x)
            h = self.lift(torch.stack([x, place], 1))
            for layer in self.layers:
                h = F.gelu(layer(h))
            return self.out(h)[:, 0]  # type: ignore[no-any-return]

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        return ((net(batch[0]) - batch[1]).norm(dim=1) / batch[1].norm(dim=1)).mean()

    g = fixed()
    phase = 2 * math.pi * (torch.arange(48) / 48 * torch.arange(1, 4)[:, None] + torch.rand(600, 3, 1, generator=g))
    start = (torch.randn(600, 3, 1, generator=g) * phase.sin()).sum(1)
    end = start
    for _ in range(120):
        square, curve = end**2 / 2, end.roll(1, 1) - 2 * end + end.roll(-1, 1)
        end = end - 0.08 * (square.roll(-1, 1) - square.roll(1, 1)) + 0.15 * curve
    return Task(Operator(), rows_of(16, start, end), loss)


class SetBlock(nn.Module):
    """Attention of one set to another, and norms after, as in the set transformer (Lee et al. 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attend, self.body = nn.MultiheadAttention(width, 4, batch_first=True), nn.Linear(width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, asked: Tensor, seen: Tensor) -> Tensor:
        """[batch, n, width] and [batch, m, width] to the first shape."""
        h = self.first(asked + self.attend(asked, seen, seen)[0])
        return self.second(h + F.relu(self.body(h)))  # type: ignore[no-any-return]


@family("amsgrad", 3e-3, 200, supervised=True)
def guest_different_digits() -> Task:
    """How many different digits are in a set of eight, by attention through four learnt points; Poisson's likelihood."""

    class Count(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.look, self.points = nn.Linear(64, 24), nn.Parameter(torch.randn(1, 4, 24))
            self.gather, self.share, self.pool = (SetBlock(24) for _ in range(3))
            self.seed, self.out = nn.Parameter(torch.randn(1, 1, 24)), nn.Linear(24, 1)

        def forward(self, which: Tensor) -> Tensor:
            h = self.look(x.to(self.points.dtype)[which])
            h = self.share(h, self.gather(self.points.expand(len(h), -1, -1), h))
            return self.out(self.pool(self.seed.expand(len(h), -1, -1), h))[:, 0, 0]  # type: ignore[no-any-return]

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        return F.poisson_nll_loss(net(batch[0]), batch[1])

    x, y = digits()
    order = y.argsort()
    g = fixed()
    kinds = 1 + torch.randint(0, 8, (2000, 1), generator=g)
    chosen = torch.rand(2000, 10, generator=g).argsort(1).gather(1, torch.randint(0, 8, (2000, 8), generator=g) % kinds)
    sets = order[chosen * 174 + torch.randint(0, 170, (2000, 8), generator=g)]
    counts = torch.tensor([len(set(row.tolist())) for row in y[sets]]).float()
    return Task(Count(), rows_of(24, sets, counts), loss)


class Pointer(nn.Module):
    """An LSTM reads; another points, step by step, at what comes next (Vinyals et al. 2015)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.read, self.write = nn.LSTM(1, width, batch_first=True), nn.LSTM(1, width, batch_first=True)
        self.seen, self.asked, self.score = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 1)

    def forward(self, x: Tensor, order: Tensor) -> Tensor:
        """[batch, n, 1] and the right order to logits [batch, n, n]."""
        seen, state = self.read(x)
        before = F.pad(x[..., 0].gather(1, order)[:, :-1], (1, 0))[..., None]
        asked = self.write(before, state)[0]
        return self.score((self.seen(seen)[:, None] + self.asked(asked)[:, :, None]).tanh())[..., 0]  # type: ignore[no-any-return]


@family("rmsprop", 5e-3, 250, supervised=True, continuous=True, not_in=("bf16-mixed", "fp16"))
def guest_sorted_by_pointing() -> Task:
    """Six numbers in their order, each pointed at, the one before always told."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(net(*batch).transpose(1, 2), batch[1])

    x = torch.rand(4000, 6, 1, generator=fixed())
    return Task(Pointer(), rows_of(32, x, x[..., 0].argsort(1)), loss)


@family("nadam", 5e-3, 250)
def guest_licence_unmasked() -> Task:
    """Masked diffusion of this project's licence, letter by letter: any share is hidden, and few hidden count for more."""

    class Unmask(nn.Module):
        def __init__(self, width: int = 32) -> None:
            super().__init__()
            self.signs, self.places = nn.Embedding(97, width), nn.Parameter(0.02 * torch.randn(24, width))
            self.body = nn.TransformerEncoderLayer(width, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
            self.out = nn.Linear(width, 96)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.body(self.signs(x) + self.places))  # type: ignore[no-any-return]

    def draw(generator: Generator) -> Batch:
        text = codes[torch.randint(0, len(codes) - 24, (16, 1), generator=generator) + torch.arange(24)]
        share = 0.15 + 0.85 * torch.rand(16, 1, generator=generator)
        return text, torch.rand(text.shape, generator=generator) < share, share

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        text, hidden, share = batch
        each = F.cross_entropy(net(text.masked_fill(hidden, 96)).transpose(1, 2), text, reduction="none")
        return (each * hidden / share).mean()

    text = (Path(__file__).parents[4] / "LICENSE").read_text(encoding="utf-8")
    codes = torch.tensor([ord(c) - 31 if 32 <= ord(c) < 127 else 0 for c in " ".join(text.split())])
    return Task(Unmask(), draw, loss)


@family("adam", 0.05, 200, continuous=True)
def guest_spring_from_its_swing() -> Task:
    """A damped spring's stiffness, friction and start, from its noisy swing, through sixty steps of the simulation."""

    class Spring(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stiff, self.friction, self.start = (nn.Parameter(torch.tensor(v)) for v in (0.5, -1.0, 1.0))

        def forward(self, steps: int) -> Tensor:
            place, speed, told = self.start, torch.zeros_like(self.start), []
            for _ in range(steps):
                speed = speed - 0.1 * (self.stiff.exp() * place + self.friction.exp() * speed)
                place = place + 0.1 * speed
                told.append(place)
            return torch.stack(told)

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        return F.mse_loss(net(60).expand_as(batch[0]), batch[0])

    time = 0.1 * torch.arange(1, 61)
    swing = 1.8 * torch.exp(-0.12 * time) * (1.7 * time).cos()
    return Task(Spring(), rows_of(4, swing + 0.05 * torch.randn(200, 60, generator=fixed())), loss)


@family("momentum", 0.05, 200, supervised=True, continuous=True)
def guest_rare_defects() -> Task:
    """A scratch of three pixels in 256, by the focal loss and an output that begins at one in a hundred."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        out, truth = net(batch[0])[:, 0], batch[1]
        each = F.binary_cross_entropy_with_logits(out, truth, reduction="none")
        wrong = (truth - out.sigmoid()).abs()
        return (torch.where(truth > 0, 0.25, 0.75) * wrong**2 * each).sum() / truth.sum()

    g = fixed()
    at, way = 2 + torch.randint(0, 12, (600, 2, 1, 1), generator=g), torch.randint(0, 2, (600, 1, 1), generator=g)
    away = grid(16)[None] - at
    along, across = torch.where(way[:, None] == 1, away, away.flip(1)).abs().unbind(1)
    truth = (along + 9 * across < 2).float()
    x = (1.5 * truth + 0.5 * torch.randn(600, 16, 16, generator=g))[:, None]
    net = nn.Sequential(nn.Conv2d(1, 12, 5, 1, 2), nn.ReLU(), nn.Conv2d(12, 12, 3, 1, 1), nn.ReLU(), nn.Conv2d(12, 1, 1))
    with torch.no_grad():
        net[4].bias.fill_(-math.log(99))
    return Task(net, rows_of(16, x, truth), loss)


@family("adam", 2e-2, 200, continuous=True)
def guest_digits_in_pieces() -> Task:
    """A digit's four quarters, shuffled; a Sinkhorn matrix puts them back, and the picture is compared."""

    class Jigsaw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.look = mlp([16, 48, 4])

        def forward(self, pieces: Tensor) -> Tensor:
            scores = self.look(pieces)
            for dim in (1, 2) * 5:
                scores = scores.log_softmax(dim)
            return scores.exp().transpose(1, 2) @ pieces

    def draw(generator: Generator) -> Batch:
        true = pieces[torch.randint(0, len(pieces), (48,), generator=generator)]
        orders = every[torch.randint(0, 24, (48,), generator=generator)]
        return true.gather(1, orders[..., None].expand(-1, -1, 16)), true

    every = torch.tensor(list(itertools.permutations(range(4))))
    pieces = images()[0].view(-1, 2, 4, 2, 4).transpose(2, 3).reshape(-1, 4, 16)
    return Task(Jigsaw(), draw, lambda n, b: F.mse_loss(n(b[0]), b[1]))
