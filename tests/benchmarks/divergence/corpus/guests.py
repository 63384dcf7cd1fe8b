"""Families that a guest wrote who had not read the rules: tables, forecasts, texts of Python itself, preferences."""

from __future__ import annotations

import builtins
import copy
import functools
import inspect
import math
import zlib
from typing import Any

import torch
from sklearn.datasets import load_breast_cancer, load_linnerud
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.divergence.corpus.family import Batch, Task, family, fixed, rows_of
from tests.benchmarks.divergence.corpus.strangers import over_all
from tests.benchmarks.divergence.corpus.supervised import table
from tests.benchmarks.divergence.data import digits
from tests.benchmarks.divergence.models import mlp, pretrained

HALF = ("bf16", "bf16-mixed", "fp16")
"""Precisions of 16 bits."""


class Gated(nn.Module):
    """A gated residual unit of the temporal fusion transformer (Lim et al. 2021, equations 2 to 4)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body, self.norm = (
            nn.Sequential(nn.Linear(width, width), nn.ELU(), nn.Linear(width, 2 * width)),
            nn.LayerNorm(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[…, width] to the same."""
        return self.norm(x + F.glu(self.body(x)))  # type: ignore[no-any-return]


class Fusion(nn.Module):
    """The past, the house and the days to come: an LSTM each, attention, gates; three quantiles per hour."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.past, self.coming, self.house = nn.Linear(2, width), nn.Linear(2, width), nn.Embedding(12, width)
        self.encode, self.decode = (nn.LSTM(width, width, batch_first=True) for _ in range(2))
        self.attend, self.gate, self.again = nn.MultiheadAttention(width, 2, batch_first=True), Gated(width), Gated(width)
        self.out = nn.Linear(width, 3)

    def forward(self, past: Tensor, house: Tensor, coming: Tensor) -> Tensor:
        """[batch, 24, 2], [batch] and [batch, 8, 2] to [batch, 8, 3]."""
        start = self.house(house)
        seen, state = self.encode(self.past(past), (start[None], torch.zeros_like(start)[None]))
        ahead = self.gate(self.decode(self.coming(coming), state)[0])
        return self.out(self.again(ahead + self.attend(ahead, seen, seen)[0]))  # type: ignore[no-any-return]


@family("adamw", 6e-3, 120, supervised=True, continuous=True)
def guest_power_of_houses() -> Task:
    """A day of a house's power and a calendar that is known beforehand: three quantiles of the next eight hours."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        apart = batch[3][..., None] - net(*batch[:3])
        levels = torch.tensor([0.1, 0.5, 0.9], dtype=apart.dtype)
        return torch.maximum(levels * apart, (levels - 1) * apart).sum(2).mean()

    g = fixed()
    hour = torch.arange(32) + torch.randint(0, 24, (1500, 1), generator=g)
    house, holiday = torch.randint(0, 12, (1500,), generator=g), (torch.rand(1500, 1, generator=g) < 0.3).float()
    level, phase = torch.randn(12, generator=g)[house, None], 6 * torch.rand(12, generator=g)[house, None]
    power = level + (1 - 0.7 * holiday) * (hour * math.pi / 12 + phase).sin() + 0.15 * torch.randn(1500, 32, generator=g)
    calendar = torch.stack([(hour * math.pi / 12).sin(), holiday.expand(-1, 32)], 2)
    past = torch.stack([power[:, :24], calendar[:, :24, 0]], 2)
    return Task(Fusion(), rows_of(16, past, house, calendar[:, 24:], power[:, 24:]), loss)


class Columns(nn.Module):
    """Each column a token (FT-Transformer): numbers times a vector, kinds by a table, and one token that is read."""

    def __init__(self, kinds: int, width: int = 16) -> None:
        super().__init__()
        self.slopes, self.offsets = nn.Parameter(torch.randn(4, width) / 4), nn.Parameter(torch.zeros(4, width))
        self.kinds, self.first = nn.Embedding(kinds, width), nn.Parameter(torch.zeros(1, 1, width))
        self.body = nn.TransformerEncoder(nn.TransformerEncoderLayer(width, 2, 32, 0.1, "gelu", batch_first=True), 2)
        self.out = nn.Linear(width, 1)

    def forward(self, numbers: Tensor, kinds: Tensor) -> Tensor:
        """[batch, 4] numbers and [batch, 3] kinds to a logit."""
        tokens = torch.cat([numbers[..., None] * self.slopes + self.offsets, self.kinds(kinds)], 1)
        return self.out(self.body(torch.cat([self.first.expand(len(tokens), -1, -1), tokens], 1))[:, 0])[:, 0]  # type: ignore[no-any-return]


@family("adamw", 6e-3, 120, supervised=True, continuous=True)
def guest_census_rows() -> Task:
    """Who earns more: four numbers with long tails and three columns of kinds, a token each; a fifth says yes."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        return F.binary_cross_entropy_with_logits(net(*batch[:2]), batch[2])

    g = fixed()
    numbers = torch.randn(3000, 4, generator=g).exp() - 1.6
    kinds = torch.stack([torch.randint(0, n, (3000,), generator=g) for n in (5, 9, 15)], 1) + torch.tensor([0, 5, 14])
    worth = torch.randn(29, generator=g)[kinds].sum(1) + numbers.clamp(max=2) @ torch.tensor([1.0, -0.7, 0.0, 0.4])
    y = (worth * torch.where(kinds[:, 0] == 2, -1, 1) - 1.6 > 0.5 * torch.randn(3000, generator=g)).float()
    return Task(Columns(29), rows_of(48, numbers, kinds, y), loss)


@family("nesterov", 0.03, 250, supervised=True, continuous=True)
def guest_twenty_athletes() -> Task:
    """Linnerud's twenty men: weight, waist and pulse from what they can do, all of them each time, errors summed."""
    loaded = load_linnerud()
    x, y = (torch.tensor(part, dtype=torch.float32) for part in (loaded.data, loaded.target))
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean(0)) / y.std(0)
    net = mlp([3, 16, 3], nn.Tanh)
    return Task(net, lambda generator: (x, y), lambda n, b: ((n(b[0]) - b[1]) ** 2).sum(1).mean())


@functools.cache
def ancestors() -> Tensor:
    """The built-in exceptions and all that they descend from, as pairs of numbers."""
    kinds = [k for k in vars(builtins).values() if inspect.isclass(k) and issubclass(k, BaseException)]
    names = sorted({kind.__name__ for kind in kinds})
    lines = [(k.__name__, a.__name__) for k in kinds for a in k.__mro__[1:-1]]
    return torch.tensor([[names.index(child), names.index(parent)] for child, parent in sorted(set(lines))])


@family("adagrad", 0.05, 250, not_in=HALF)
def guest_exceptions_in_a_disc() -> Task:
    """Python's exceptions on Poincaré's disc: who descends from whom, against ten others, begun at a thousandth."""

    class Disc(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places = nn.Parameter(2e-3 * torch.rand(int(pairs.max()) + 1, 4) - 1e-3)

        def forward(self, which: Tensor) -> Tensor:
            at = self.places[which]
            return at / at.norm(dim=-1, keepdim=True).clamp(min=1) * 0.999

    def apart(a: Tensor, b: Tensor) -> Tensor:
        inner = (1 - (a**2).sum(-1)) * (1 - (b**2).sum(-1))
        return torch.acosh(1 + 2 * ((a - b) ** 2).sum(-1) / inner + 1e-6)

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        far = apart(net(batch[0][:, :1]), net(batch[0][:, 1:]))
        return -(-far).log_softmax(1)[:, 0].mean()

    def draw(generator: Generator) -> Batch:
        pair = pairs[torch.randint(0, len(pairs), (32,), generator=generator)]
        return (torch.cat([pair, torch.randint(0, int(pairs.max()) + 1, (32, 10), generator=generator)], 1),)

    pairs = ancestors()
    return Task(Disc(), draw, loss)


def trigrams(text: str, length: int) -> list[int]:
    """The first three-letter pieces as numbers below 1000 (0 for none), the same in every process."""
    pieces = [1 + zlib.crc32(text[k : k + 3].lower().encode()) % 999 for k in range(min(length, len(text) - 2))]
    return pieces + [0] * (length - len(pieces))


@functools.cache
def documented() -> tuple[Tensor, Tensor]:
    """Names of functions of torch and of the built-in types, and the beginnings of what is written about them."""
    owners = (torch, torch.nn.functional, math, str, bytes, list, dict, set, int, float, inspect, functools)
    found = {(o.__name__, n): getattr(o, n).__doc__ for o in owners for n in dir(o) if callable(getattr(o, n))}
    told = [(n, " ".join(d.split())) for (_, n), d in sorted(found.items()) if isinstance(d, str) and len(d) > 80]
    return torch.tensor([trigrams(n, 16) for n, _ in told]), torch.tensor([trigrams(d, 60) for _, d in told])


@family("adamw-95", 1.5e-2, 150)
def guest_docstrings_by_name() -> Task:
    """Which docstring belongs to a name: two towers over three-letter pieces, the batch's others, a learnt sharpness."""

    class Search(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.name, self.text = (nn.EmbeddingBag(1000, 32, padding_idx=0) for _ in range(2))
            self.ask, self.answer = mlp([32, 32, 16], nn.GELU), nn.Linear(32, 16)
            self.sharpness = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

        def forward(self, names: Tensor, texts: Tensor) -> Tensor:
            asked, answers = self.ask(self.name(names)), self.answer(self.text(texts))
            return self.sharpness.exp() * F.normalize(asked, dim=1) @ F.normalize(answers, dim=1).T  # type: ignore[no-any-return]

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        scores, right = net(*batch), torch.arange(len(batch[0]))
        return (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2

    return Task(Search(), rows_of(48, *documented()), loss)


@family("adam", 1.5e-2, 150, continuous=True)
def guest_corrupted_rows() -> Task:
    """VICReg on a table: two versions of a patient, three columns of ten another's; a loss that begins at 35."""

    def spread(h: Tensor) -> Tensor:
        centred = h - h.mean(0)
        covered = centred.T @ centred / (len(h) - 1)
        wide = F.relu(1 - (covered.diagonal() + 1e-4).sqrt()).mean()
        return 25 * wide + (covered - covered.diag().diag()).pow(2).sum() / h.shape[1]

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        a, b = net(batch[0]), net(batch[1])
        return 25 * F.mse_loss(a, b) + spread(a) + spread(b)

    def draw(generator: Generator) -> Batch:
        rows, others = (x[torch.randint(0, len(x), (128,), generator=generator)] for _ in range(2))
        changed = torch.rand(rows.shape, generator=generator) < 0.3
        return torch.where(changed, others, rows), rows

    x = table(load_breast_cancer())[0]
    net = nn.Sequential(nn.Linear(30, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 32))
    return Task(net, draw, loss)


@family("adam", 1e-2, 150, continuous=True)
def guest_shocks_to_come() -> Task:
    """When the next earthquake comes: an LSTM over gaps that a shock makes shorter, log-normal mixtures as its answer."""

    class Gaps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.out = nn.GRU(1, 24, batch_first=True), nn.Linear(24, 9)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.cell(x)[0])  # type: ignore[no-any-return]

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        gaps = batch[0].clamp(min=1e-6).log()
        share, centre, width = net(gaps[:, :-1, None]).chunk(3, 2)
        apart = (gaps[:, 1:, None] - centre) * torch.exp(-width)
        each = share.log_softmax(2) - 0.5 * apart**2 - width - 0.919 - gaps[:, 1:, None]
        return -each.logsumexp(2).mean()

    g = fixed()
    excited, gaps = torch.zeros(600), []
    for _ in range(16):
        gaps.append(torch.empty(600).exponential_(generator=g) / (0.2 + excited))
        excited = (excited + 0.9) * torch.exp(-1.3 * gaps[-1])
    return Task(Gaps(), rows_of(16, torch.stack(gaps, 1)), loss)


class Sign(torch.autograd.Function):
    """Plus or minus one, with the slope of a line that is cut off at one (Hubara et al. 2016)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """The sign; zero counts as positive."""
        ctx.save_for_backward(x)
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        """Nothing where it is cut off."""
        return slopes[0] * (ctx.saved_tensors[0].abs() <= 1)


class BinaryLinear(nn.Linear):
    """Inputs and weights of one bit."""

    def forward(self, input: Tensor) -> Tensor:
        """[…, in] to […, out]."""
        return F.linear(Sign.apply(input), Sign.apply(self.weight)) / math.sqrt(self.in_features)


@family("adam", 1.5e-2, 150, supervised=True, continuous=True)
def guest_one_bit_digits() -> Task:
    """Digits by weights and activations of one bit, with BatchNorm between, and squared hinges against all others."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        out = net(batch[0])
        signs = 2 * F.one_hot(batch[1], 10).to(out.dtype) - 1
        return F.relu(1 - signs * out).square().mean()

    net = nn.Sequential(
        nn.BatchNorm1d(64), BinaryLinear(64, 128), nn.BatchNorm1d(128), BinaryLinear(128, 128), nn.BatchNorm1d(128),
        BinaryLinear(128, 10), nn.BatchNorm1d(10),
    )  # fmt: skip
    return Task(net, rows_of(64, *digits()), loss)


class Speaker(nn.Module):
    """How likely it holds a text of twelve signs, by a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.signs, self.cell, self.out = nn.Embedding(20, 24), nn.GRU(24, 24, batch_first=True), nn.Linear(24, 20)

    def forward(self, x: Tensor) -> Tensor:
        """[…, 12] to log-probabilities of the whole."""
        told = self.out(self.cell(self.signs(x[:, :-1]))[0]).log_softmax(2)
        return told.gather(2, x[:, 1:, None])[..., 0].sum(1)  # type: ignore[no-any-return]


@family("rmsprop", 4e-3, 150, not_in=("bf16",))
def guest_preferred_answers() -> Task:
    """DPO: which of two answers was liked, against the model as it was; the loss begins at log 2 exactly."""

    def loss(net: Any, batch: Batch) -> Tensor:
        liked, other = net["new"](batch[0]), net["new"](batch[1])
        with torch.no_grad():
            before = net["old"](batch[0]) - net["old"](batch[1])
        return -F.logsigmoid(0.1 * (liked - other - before)).mean()

    g = fixed()
    both = torch.randint(0, 20, (3000, 2, 12), generator=g)
    worth = torch.randn(20, generator=g)[both].sum(2) + 1.5 * torch.randn(3000, 2, generator=g)
    both = torch.where((worth[:, 0] > worth[:, 1])[:, None, None], both, both.flip(1))
    new = Speaker()
    net = nn.ModuleDict({"new": new, "old": copy.deepcopy(new).requires_grad_(False)})
    return Task(net, rows_of(16, both[:, 0], both[:, 1]), loss)


@family("adam", 0.05, 150, supervised=True, continuous=True)
def guest_cooler_answers() -> Task:
    """A trained network's overconfidence: one temperature and ten offsets are all that is learnt."""

    class Cooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heat, self.offsets = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(10))

        def forward(self, x: Tensor) -> Tensor:
            return x * torch.exp(-self.heat) + self.offsets

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(net(batch[0]), batch[1])

    x, y = digits()
    logits = 4 * pretrained()(x + 0.8 * torch.randn(x.shape, generator=fixed())).detach()
    return Task(Cooled(), rows_of(128, logits[900:], y[900:]), loss, over_all(loss, logits[900:], y[900:]))
