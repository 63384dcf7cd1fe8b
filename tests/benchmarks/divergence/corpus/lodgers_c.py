"""The last families of the lodger who had not read the rules: sound, bodies, graphs, rankings, tours, lives."""

from __future__ import annotations

import functools
import io
import keyword
import math
import sysconfig
import tokenize
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.divergence.corpus.family import Batch, Task, family, fixed, rows_of
from tests.benchmarks.divergence.corpus.guests import HALF
from tests.benchmarks.divergence.corpus.lodgers import classes
from tests.benchmarks.divergence.corpus.visitors import SINGLE_ONLY
from tests.benchmarks.divergence.data import diabetes, digits
from tests.benchmarks.divergence.models import mlp, pretrained


class Wave(nn.Module):
    """Five gated causal convolutions, ever wider apart, whose sums are read (WaveNet, van den Oord et al. 2016)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.levels = nn.Embedding(32, width)
        self.gates = nn.ModuleList(nn.Conv1d(width, 2 * width, 2, dilation=2**k) for k in range(5))
        self.mix = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(5))
        self.out = nn.Sequential(nn.ReLU(), nn.Conv1d(width, 32, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length] to [batch, 32, length]."""
        h = self.levels(x).transpose(1, 2)
        told = torch.zeros_like(h)
        for k, (gate, mix) in enumerate(zip(self.gates, self.mix, strict=True)):
            drive, amount = gate(F.pad(h, (2**k, 0))).chunk(2, 1)
            step = mix(drive.tanh() * amount.sigmoid())
            h, told = h + step, told + step
        out: Tensor = self.out(told)
        return out


@family("nadam", 1e-2, 150)
def lodger_plucked_strings() -> Task:
    """The next sample of plucked strings, as one of 32 levels that are finer near silence (μ-law): a small WaveNet."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(net(batch[0][:, :-1])[:, :, 8:], batch[0][:, 9:])

    g = fixed()
    time, pitch = torch.arange(65.0), 0.2 + 0.5 * torch.rand(800, 1, generator=g)
    tones = [
        torch.exp(-0.01 * k * time) * (k * pitch * time + 6 * torch.rand(800, 1, generator=g)).sin() / k for k in (1, 2, 3)
    ]
    sound = torch.stack(tones).sum(0) / 2 + 0.01 * torch.randn(800, 65, generator=g)
    pressed = sound.sign() * (1 + 31 * sound.abs().clamp(max=1)).log() / math.log(32)
    return Task(Wave(), rows_of(6, ((pressed + 1) * 15.5).round().long()), loss)


@functools.cache
def tokens() -> tuple[Tensor, Tensor]:
    """Characters of Python's own source, and of what kind of token each is; -100 for white space."""
    source = "".join(
        (Path(sysconfig.get_path("stdlib")) / f"{name}.py").read_text("utf-8") for name in ("heapq", "bisect", "copy")
    )
    lines = source.splitlines(keepends=True)
    starts = [0, *torch.tensor([len(line) for line in lines]).cumsum(0).tolist()]
    kinds = torch.full((len(source),), -100)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        begin, end = (starts[row - 1] + column for row, column in (token.start, token.end))
        if token.string.strip():
            kinds[begin:end] = _kind(token)
    return torch.tensor([ord(sign) % 128 for sign in source]), kinds


def _kind(token: tokenize.TokenInfo) -> int:
    kinds = {tokenize.NUMBER: 2, tokenize.OP: 3, tokenize.STRING: 4, tokenize.COMMENT: 5}
    return kinds.get(token.type, int(keyword.iskeyword(token.string)))


class Tagger(nn.Module):
    """A transformer that sees both ways, with norms first and learnt places."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.signs, self.places = nn.Embedding(128, width), nn.Parameter(0.02 * torch.randn(32, width))
        layer = nn.TransformerEncoderLayer(width, 4, 64, 0.1, "gelu", batch_first=True, norm_first=True)
        self.body, self.out = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(width, 6)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 32] to [batch, 6, 32]."""
        out: Tensor = self.out(self.body(self.signs(x) + self.places)).transpose(1, 2)
        return out


@family("schedule-free", 1e-2, 120)
def lodger_kinds_of_characters() -> Task:
    """Is a character of Python's source a name's, a number's, a comment's: a tag for each, white space left out (-100)."""

    def draw(generator: Generator) -> Batch:
        where = torch.randint(0, len(signs) - 32, (12, 1), generator=generator) + torch.arange(32)
        return signs[where], kinds[where]

    signs, kinds = tokens()
    return Task(Tagger(), draw, classes)


@family("adam", 1e-2, 200, supervised=True, continuous=True)
def lodger_hazards_by_quarter() -> Task:
    """In which of eight quarters an illness comes back, if it is seen at all: the chance in each quarter that is reached."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        lived, came = batch[1].unbind(1)
        quarter = torch.arange(8)
        reached, event = quarter <= lived[:, None], (quarter == lived[:, None]) & (came[:, None] > 0)
        each = F.binary_cross_entropy_with_logits(net(batch[0]), event.to(batch[0].dtype), reduction="none")
        return (each * reached).sum(1).mean()

    g, (x, y) = fixed(), diabetes()
    when = 6 * torch.empty(len(x)).exponential_(generator=g) * torch.exp(-0.8 * y)
    seen = 8 * torch.rand(len(x), generator=g)
    told = torch.stack([torch.minimum(when, seen).clamp(max=7).long(), (when < seen.clamp(max=7)).long()], 1)
    return Task(nn.Sequential(nn.Linear(10, 32), nn.ELU(), nn.Dropout(0.2), nn.Linear(32, 8)), rows_of(32, x, told), loss)


class Inducing(nn.Module):
    """A Gaussian process through sixteen points, whitened (Hensman et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.points, self.mean = nn.Parameter(torch.linspace(-2, 2, 16)[:, None]), nn.Parameter(torch.zeros(16))
        self.root, self.logs = nn.Parameter(torch.eye(16)), nn.Parameter(torch.zeros(3))

    def kernel(self, a: Tensor, b: Tensor) -> Tensor:
        """Squared exponential."""
        length, size, _ = self.logs.exp()
        return size * torch.exp(-((a - b.T) ** 2) / (2 * length**2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance, and the divergence of what is believed of the points."""
        lower = torch.linalg.cholesky(self.kernel(self.points, self.points) + 1e-3 * torch.eye(16, dtype=x.dtype))
        across = torch.linalg.solve_triangular(lower, self.kernel(self.points, x), upper=False)
        root = self.root.tril()
        spread = self.logs[1].exp() - across.square().sum(0) + (root.T @ across).square().sum(0)
        far = (root.square().sum() + self.mean.square().sum() - 16) / 2 - root.diagonal().abs().clamp(min=1e-6).log().sum()
        return across.T @ self.mean, spread, far


@family("adam", 5e-2, 200, supervised=True, continuous=True, not_in=HALF)
def lodger_inducing_points() -> Task:
    """A sparse variational Gaussian process on a bent line: likelihood per point, and its share of the divergence."""

    def loss(net: Any, batch: Batch) -> Tensor:
        mean, spread, far = net(batch[0])
        noise = net.logs[2]
        missed = ((batch[1] - mean) ** 2 + spread.clamp(min=0)) * torch.exp(-noise)
        out: Tensor = (missed + noise + math.log(2 * math.pi)).mean() / 2 + far / 1000
        return out

    x = 4 * torch.rand(1000, 1, generator=fixed()) - 2
    y = (4 * x[:, 0]).sin() * x[:, 0].abs() + 0.1 * torch.randn(1000, generator=fixed(8))
    return Task(Inducing(), rows_of(64, x, y), loss)


def lorenz(count: int, length: int) -> Tensor:
    """Lorenz's weather by small Runge–Kutta steps, from places where it has been for a while, about of size one."""

    def slope(s: Tensor) -> Tensor:
        x, y, z = s.unbind(-1)
        return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], -1)

    state, told = torch.randn(count, 3, generator=fixed()) + torch.tensor([0.0, 0.0, 25.0]), []
    for _ in range(200 + length):
        state = runge_kutta(slope, state, 0.02)
        told.append(state)
    return (torch.stack(told[-length:], 1) - torch.tensor([0.0, 0.0, 24.0])) / 8


def runge_kutta(slope: Any, state: Tensor, step: float) -> Tensor:
    """One step of the fourth order."""
    a = slope(state)
    b = slope(state + step / 2 * a)
    c = slope(state + step / 2 * b)
    out: Tensor = state + step / 6 * (a + 2 * b + 2 * c + slope(state + step * c))
    return out


@family("adamw", 3e-2, 120, continuous=True)
def lodger_butterfly() -> Task:
    """Lorenz's equations from where the weather went: four Runge–Kutta steps of a network, compared at each."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        state, apart = batch[0][:, 0], []
        for k in range(1, 5):
            state = runge_kutta(net, state, 0.02)
            apart.append((state - batch[0][:, k]).square().mean())
        return 10 * torch.stack(apart).mean()

    return Task(mlp([3, 48, 48, 3], nn.SiLU), rows_of(64, lorenz(1200, 5)), loss)


@family("adagrad", 5e-2, 200, supervised=True, continuous=True)
def lodger_results_in_order() -> Task:
    """ListNet: ten results to a question, grades of zero to four, and shares of attention that are to agree."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        return -(batch[1].softmax(1) * net(batch[0])[..., 0].log_softmax(1)).sum(1).mean()

    g = fixed()
    x = torch.randn(1500, 10, 12, generator=g)
    worth = x[..., 0] + x[..., 1] * x[..., 2] + (x[..., 3] > 0.5).float() + 0.5 * torch.randn(1500, 10, generator=g)
    return Task(mlp([12, 32, 1]), rows_of(24, x, (worth + 1.5).clamp(0, 4).round()), loss)


@family("adam", 1e-2, 200, continuous=True)
def lodger_arm_to_a_goal() -> Task:
    """Three angles that lead an arm's hand to a goal: nothing but the way from angles to places says what is right."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        angles = net(batch[0]).cumsum(1)
        hand = torch.stack([angles.cos().sum(1), angles.sin().sum(1)], 1)
        return (hand - batch[0]).square().sum(1).mean()

    g = fixed()
    angle, far = 6.3 * torch.rand(3000, generator=g), 0.6 + 2.2 * torch.rand(3000, generator=g)
    return Task(mlp([2, 48, 48, 3], nn.Tanh), rows_of(64, torch.stack([far * angle.cos(), far * angle.sin()], 1)), loss)


@family("adamw", 0.2, 200, supervised=True, continuous=True)
def lodger_offsets_alone() -> Task:
    """BitFit: of a trained network for digits only the offsets are trained, on digits that are mirrored and dark."""
    x, y = digits()
    changed = 0.6 * x.view(-1, 8, 8).flip(2).flatten(1) - 0.3
    net = pretrained()
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))
    return Task(net, rows_of(64, changed, y), classes)


class Tours(nn.Module):
    """Chooses one town after another by attention, at random, and tells how likely its choices were."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.place = nn.Linear(2, width)
        self.body = nn.TransformerEncoderLayer(width, 2, 48, 0.0, batch_first=True)
        self.ask, self.answer = nn.Linear(2 * width, width), nn.Linear(width, width)

    def forward(self, towns: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, 8, 2] to lengths of tours and logarithms of their chances."""
        h = self.body(self.place(towns))
        keys, rows = self.answer(h), torch.arange(len(h))
        gone, order, chance = torch.zeros(h.shape[:2], dtype=torch.bool), [rows * 0], h.new_zeros(len(h))
        for _ in range(7):
            gone = gone.scatter(1, order[-1][:, None], True)
            asked = self.ask(torch.cat([h[rows, order[0]], h[rows, order[-1]]], 1))
            scores = 10 * (torch.einsum("bw,btw->bt", asked, keys) / 5).tanh()
            shares = scores.masked_fill(gone, -1e9).log_softmax(1)
            order.append(torch.multinomial(shares.exp(), 1)[:, 0])
            chance = chance + shares[rows, order[-1]]
        way = towns[rows[:, None], torch.stack(order, 1)]
        return (way - way.roll(1, 1)).norm(dim=2).sum(1), chance


@family("adam", 2e-3, 130, continuous=True, by_loss=False, not_in=SINGLE_ONLY)
def lodger_short_tours() -> Task:
    """Tours of eight towns by policy gradient (Kool et al. 2019): lengths against the batch's mean; a loss without level."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        length, chance = net(batch[0])
        return ((length - length.mean()).detach() * chance).mean()

    def measure(net: Any) -> float:
        return float(net(torch.rand(200, 8, 2))[0].mean())

    return Task(Tours(), lambda g: (torch.rand(32, 8, 2, generator=g),), loss, measure)


class Tastes(nn.Module):
    """Factors that are multiplied, and others that go through layers (NeuMF, He et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(200, 24), nn.Embedding(300, 24)
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=0.05)
        self.body, self.out = mlp([32, 24, 8]), nn.Linear(16, 1)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """[batch] and [batch, k] to [batch, k]."""
        items = self.item(items)
        users = self.user(users)[:, None].expand_as(items)
        told = self.body(torch.cat([users[..., 8:], items[..., 8:]], 2)).relu()
        out: Tensor = self.out(torch.cat([users[..., :8] * items[..., :8], told], 2))[..., 0]
        return out


@family("adam", 1e-2, 250)
def lodger_seen_or_not() -> Task:
    """What people have watched, against four films drawn at random for each: neural collaborative filtering."""

    def draw(generator: Generator) -> Batch:
        pair = pairs[torch.randint(0, len(pairs), (96,), generator=generator)]
        return pair[:, 0], torch.cat([pair[:, 1:], torch.randint(0, 300, (96, 4), generator=generator)], 1)

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        scores = net(*batch)
        truth = torch.zeros_like(scores)
        truth[:, 0] = 1
        return F.binary_cross_entropy_with_logits(scores, truth)

    g = fixed()
    taste = torch.randn(200, 4, generator=g) @ torch.randn(4, 300, generator=g) + torch.randn(300, generator=g)
    pairs = (taste > 2.5).nonzero()
    return Task(Tastes(), draw, loss)


class Moves(nn.Module):
    """Convolutions over time, then a GRU, as watches have them (DeepConvLSTM)."""

    def __init__(self) -> None:
        super().__init__()
        self.hear = nn.Sequential(
            nn.Conv1d(3, 16, 5, 2), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 16, 5, 2), nn.BatchNorm1d(16), nn.ReLU(),
        )  # fmt: skip
        self.cell, self.out = nn.GRU(16, 20, batch_first=True), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 3, 64] to [batch, 5]."""
        out: Tensor = self.out(self.cell(self.hear(x).transpose(1, 2))[0][:, -1])
        return out


@family("adam", 1e-2, 120, supervised=True, continuous=True)
def lodger_worn_on_the_wrist() -> Task:
    """Five things that people do, from three accelerations of a wrist with gravity in them: smoothed labels."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(net(batch[0]), batch[1], label_smoothing=0.1)

    g = fixed()
    y = torch.randint(0, 5, (1500,), generator=g)
    pace, force = (
        torch.tensor([0.0, 0.25, 0.45, 0.3, 0.7])[y, None, None],
        torch.tensor([0.0, 0.4, 1.0, 0.7, 0.2])[y, None, None],
    )
    beat = pace * (1 + 0.1 * torch.randn(1500, 1, 1, generator=g)) * torch.arange(64) + 6.3 * torch.rand(
        1500, 3, 1, generator=g
    )
    down = F.normalize(torch.tensor([0.2, 0.5, 1.0]) + 0.3 * torch.randn(1500, 3, generator=g), dim=1)[..., None]
    return Task(Moves(), rows_of(32, down + force * beat.sin() + 0.3 * torch.randn(1500, 3, 64, generator=g), y), loss)
