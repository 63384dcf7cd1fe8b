"""Families that a lodger brought who had not read the rules: the plain models that people bring to a forum."""

from __future__ import annotations

import ast
import builtins
import datetime
import functools
import math
import sysconfig
import zlib
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_breast_cancer, load_wine
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from tests.benchmarks.divergence.corpus.family import Batch, Task, family, fixed, rows_of
from tests.benchmarks.divergence.corpus.strangers import over_all
from tests.benchmarks.divergence.corpus.supervised import images, table
from tests.benchmarks.divergence.models import mlp


def classes(net: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy; what comes before the label goes into the network."""
    return F.cross_entropy(net(*batch[:-1]), batch[-1])


def brick(inputs: int, outputs: int) -> list[nn.Module]:
    """Convolution, BatchNorm, rectifier."""
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def moved(pictures: Tensor, generator: Generator) -> Tensor:
    """Each picture by up to one pixel in either direction; its edge is repeated."""
    count, size = len(pictures), pictures.shape[-1]
    down, right = torch.randint(-1, 2, (2, count, 1), generator=generator)
    rows, columns = ((torch.arange(size) + by).clamp(0, size - 1) for by in (down, right))
    return pictures[torch.arange(count)[:, None, None], 0, rows[:, :, None], columns[:, None]][:, None]


@family("nesterov", 0.03, 120, supervised=True, continuous=True)
def lodger_moved_pictures() -> Task:
    """A small VGG with BatchNorm and dropout, Nesterov's momentum and weight decay, on digits that are moved about."""

    def draw(generator: Generator) -> Batch:
        rows = torch.randint(0, len(x), (32,), generator=generator)
        return moved(x[rows], generator), y[rows]

    x, y = images()
    net = nn.Sequential(
        *brick(1, 12), *brick(12, 12), nn.MaxPool2d(2), *brick(12, 24), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.3),
        nn.Linear(96, 10),
    )  # fmt: skip
    return Task(net, draw, classes)


@family("adam", 2e-2, 200, supervised=True, continuous=True)
def lodger_first_tutorial() -> Task:
    """Pixels from zero to one as ``ToTensor`` leaves them, two layers, ``log_softmax`` in the network and ``nll_loss``."""
    x, y = images()
    grey = (x - x.min()) / (x.max() - x.min())
    net = nn.Sequential(nn.Flatten(), *mlp([64, 64, 10]), nn.LogSoftmax(1))
    return Task(net, rows_of(64, grey, y), lambda net, batch: F.nll_loss(net(batch[0]), batch[1]))


@functools.cache
def packages() -> tuple[Tensor, Tensor, Tensor]:
    """Docstrings of four of Python's packages, as numbers of 14 words, their lengths, and whose they are."""
    rows, lengths, owners = [], [], []
    for owner, package in enumerate(("asyncio", "email", "unittest", "importlib")):
        for words in _documented(Path(sysconfig.get_path("stdlib")) / package):
            rows.append([1 + zlib.crc32(word.encode()) % 1499 for word in words] + [0] * (14 - len(words)))
            lengths.append(len(words))
            owners.append(owner)
    return torch.tensor(rows), torch.tensor(lengths), torch.tensor(owners)


def _documented(folder: Path) -> list[list[str]]:
    parts = [part for path in sorted(folder.glob("*.py")) for part in ast.walk(ast.parse(path.read_text("utf-8")))]
    owners = (part for part in parts if isinstance(part, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef))
    texts = [(ast.get_docstring(part) or "").lower().split()[:14] for part in owners]
    return [words for words in texts if len(words) > 3]


class Reader(nn.Module):
    """An LSTM in both directions over packed words; its last states are read."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.cell = nn.Embedding(1500, 24, padding_idx=0), nn.LSTM(24, 20, batch_first=True, bidirectional=True)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(40, 4))

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        """[batch, 14] and [batch] to [batch, 4]."""
        packed = pack_padded_sequence(self.words(words), lengths, batch_first=True, enforce_sorted=False)
        last = self.cell(packed)[1][0]
        out: Tensor = self.head(torch.cat([last[0], last[1]], 1))
        return out


@family("adam", 3e-2, 100, supervised=True)
def lodger_whose_docstring() -> Task:
    """Which package of Python's a docstring comes from, as sentiment is learnt: padded, packed, read from both ends."""
    return Task(Reader(), rows_of(16, *packages()), classes)


class Cells(nn.Module):
    """Two LSTM cells in a loop by hand, as PyTorch's example of sine waves has them."""

    def __init__(self, width: int = 20) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.LSTMCell(1, width), nn.LSTMCell(width, width), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length] to what comes next at each place."""
        a = b = (x.new_zeros(len(x), 20), x.new_zeros(len(x), 20))
        told = []
        for value in x.split(1, 1):
            a = self.first(value, a)
            b = self.second(a[0], b)
            told.append(self.out(b[0]))
        return torch.cat(told, 1)


@family("rmsprop", 8e-3, 100, supervised=True, continuous=True)
def lodger_next_of_a_sine() -> Task:
    """The next value of sine waves of one period and any phase: two LSTM cells, one step of the clock after another."""
    start = torch.randint(-80, 80, (600, 1), generator=fixed())
    waves = ((start + torch.arange(13)) / 4.0).sin()
    return Task(Cells(), rows_of(24, waves[:, :-1], waves[:, 1:]), lambda net, batch: F.mse_loss(net(batch[0]), batch[1]))


WAYS = ("%d %B %Y", "%B %d, %Y", "%d/%m/%y", "%a %d %b %Y", "%Y.%m.%d")


@functools.cache
def dates() -> tuple[Tensor, Tensor]:
    """Days of thirty years as people write them, in 20 characters, and as eight digits."""
    g = fixed()
    days = [datetime.date.fromordinal(730120 + int(k)) for k in torch.randint(0, 10950, (2500,), generator=g)]
    ways = torch.randint(0, len(WAYS), (2500,), generator=g).tolist()
    written = [day.strftime(WAYS[way]).ljust(20)[:20] for day, way in zip(days, ways, strict=True)]
    digits = [[int(sign) for sign in f"{day:%Y%m%d}"] for day in days]
    return torch.tensor([[ord(sign) % 96 for sign in text] for text in written]), torch.tensor(digits)


class Rewriter(nn.Module):
    """A GRU that reads, one that writes with the right digits told, and attention between the two (Luong et al. 2015)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.signs, self.digits = nn.Embedding(96, width), nn.Embedding(11, width)
        self.read, self.write = (nn.GRU(width, width, batch_first=True) for _ in range(2))
        self.look, self.mix, self.out = nn.Linear(width, width), nn.Linear(2 * width, width), nn.Linear(width, 10)

    def forward(self, text: Tensor, right: Tensor) -> Tensor:
        """[batch, 20] and the right [batch, 8] to logits of each digit."""
        seen, state = self.read(self.signs(text))
        told = self.write(self.digits(F.pad(right[:, :-1], (1, 0), value=10)), state)[0]
        weights = (self.look(told) @ seen.transpose(1, 2)).softmax(2)
        out: Tensor = self.out(self.mix(torch.cat([told, weights @ seen], 2)).tanh())
        return out


@family("adam", 1e-2, 120)
def lodger_dates_rewritten() -> Task:
    """Dates as people write them into eight digits: sequence to sequence with attention, the teacher always forced."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(net(batch[0], batch[1]).transpose(1, 2), batch[1])

    return Task(Rewriter(), rows_of(16, *dates()), loss)


class Houses(nn.Module):
    """Tables for the kinds of columns, BatchNorm for the numbers, and an output that begins at the mean price."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.kinds = nn.ModuleList(nn.Embedding(count, wide) for count, wide in ((40, 8), (6, 3), (12, 4)))
        self.norm, self.drop = nn.BatchNorm1d(4), nn.Dropout(0.1)
        self.body = mlp([19, 48, 24, 1])
        nn.init.constant_(self.body[-1].bias, start)  # type: ignore[arg-type]

    def forward(self, numbers: Tensor, kinds: Tensor) -> Tensor:
        """[batch, 4] and [batch, 3] to logarithms of prices."""
        told = [self.drop(embed(kinds[:, k])) for k, embed in enumerate(self.kinds)]
        out: Tensor = self.body(torch.cat([self.norm(numbers), *told], 1))[:, 0]
        return out


@family("adamw", 2e-2, 200, supervised=True, continuous=True)
def lodger_house_prices() -> Task:
    """Logarithms of prices near twelve, from square metres and years as they are and embedded streets: Huber's loss."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        return F.huber_loss(net(*batch[:2]), batch[2], delta=0.5)

    g = fixed()
    area, rooms = 40 + 200 * torch.rand(3000, generator=g), torch.randint(1, 8, (3000,), generator=g).float()
    year, plot = 1900 + 120 * torch.rand(3000, generator=g), 2000 * torch.rand(3000, generator=g)
    kinds = torch.stack([torch.randint(0, n, (3000,), generator=g) for n in (40, 6, 12)], 1)
    worth = 0.4 * torch.randn(40, generator=g)[kinds[:, 0]] + 0.2 * torch.randn(6, generator=g)[kinds[:, 1]]
    price = 10.2 + 0.4 * area.log() + 0.03 * rooms + ((year - 1960) / 100).square() + worth
    price = price + 0.1 * torch.randn(3000, generator=g)
    return Task(Houses(float(price.mean())), rows_of(64, torch.stack([area, rooms, year, plot], 1), kinds, price), loss)


class Passengers(nn.Module):
    """An LSTM over a year, whose last state tells the next month."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.LSTM(1, 16, batch_first=True), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 12] to [batch, 1]."""
        out: Tensor = self.out(self.cell(x[..., None])[0][:, -1])
        return out


@family("adam", 3e-2, 200, supervised=True, continuous=True, not_in=("bf16-mixed", "fp16"))
def lodger_monthly_passengers() -> Task:
    """Twelve years of passengers between zero and one, all windows of a year in each step: an LSTM for the next month."""
    month = torch.arange(144)
    season = 1 + 0.2 * (month * math.pi / 6 - 2).sin() + 0.08 * (month * math.pi / 3).sin()
    count = (110 + 2.4 * month) * season + 6 * torch.randn(144, generator=fixed())
    windows = ((count - count.min()) / (count.max() - count.min())).unfold(0, 13, 1)
    x, y = windows[:, :12], windows[:, 12:]
    return Task(Passengers(), lambda generator: (x, y), lambda net, batch: F.mse_loss(net(batch[0]), batch[1]))


@family("adam", 1e-2, 200, continuous=True)
def lodger_usual_vibration() -> Task:
    """What is usual of a machine: windows of its shaking through four numbers and back, to find what is not."""
    g = fixed()
    phase, speed = 6.3 * torch.rand(1500, 1, generator=g), 0.3 + 0.1 * torch.rand(1500, 1, generator=g)
    turn = phase + speed * torch.arange(64)
    windows = turn.sin() + 0.4 * (3 * turn).sin() + 0.1 * torch.randn(1500, 64, generator=g)
    net = nn.Sequential(
        nn.Conv1d(1, 12, 5, 2, 2), nn.ReLU(), nn.Conv1d(12, 16, 5, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4),
        nn.Linear(4, 256), nn.Unflatten(1, (16, 16)), nn.ReLU(), nn.ConvTranspose1d(16, 12, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose1d(12, 1, 4, 2, 1),
    )  # fmt: skip
    return Task(net, rows_of(32, windows[:, None]), lambda net, batch: F.mse_loss(net(batch[0]), batch[0]))


@family("adam", 3e-2, 200, supervised=True, continuous=True)
def lodger_card_fraud() -> Task:
    """Two payments of a hundred are fraud and weigh fifty times as much (``pos_weight``): 256 at a time."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        weight = torch.tensor(50.0, dtype=batch[1].dtype)
        return F.binary_cross_entropy_with_logits(net(batch[0])[:, 0], batch[1], pos_weight=weight)

    g = fixed()
    x = torch.randn(8000, 12, generator=g)
    y = ((x[:, 0] * x[:, 1] + x[:, 2] + 0.5 * torch.randn(8000, generator=g)) > 3.1).float()
    net = nn.Sequential(nn.Linear(12, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 1))
    return Task(net, rows_of(256, x, y), loss, over_all(loss, x, y))


@functools.cache
def named() -> list[list[Tensor]]:
    """Names of exceptions, of torch's functions, and of what strings can do, letter by letter."""
    errors = [name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException)]
    verbs = [name for name in dir(str) if not name.startswith("_")]
    calls = [name for name in dir(torch.nn.functional) if name[0].islower()][:80]
    return [[torch.tensor([[ord(sign) % 64 for sign in name]]) for name in sorted(some)] for some in (errors, verbs, calls)]


class Spelled(nn.Module):
    """An Elman network over the letters of a name."""

    def __init__(self) -> None:
        super().__init__()
        self.signs, self.cell, self.out = nn.Embedding(64, 16), nn.RNN(16, 32, batch_first=True), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[1, letters] to [1, 3]."""
        out: Tensor = self.out(self.cell(self.signs(x))[1][0])
        return out


@family("sgd", 0.05, 300, supervised=True, by_loss=False)
def lodger_one_name_at_a_time() -> Task:
    """Where a name comes from, by its letters: PyTorch's tutorial, one name in each step, of any length, by plain SGD."""

    def draw(generator: Generator) -> Batch:
        kind = torch.randint(0, 3, (1,), generator=generator)
        some = named()[int(kind)]
        return some[int(torch.randint(0, len(some), (1,), generator=generator))], kind

    def every_name(net: Any) -> float:
        each = [classes(net, (name, torch.tensor([kind]))) for kind, some in enumerate(named()) for name in some[::2]]
        return float(torch.stack(each).mean())

    return Task(Spelled(), draw, classes, every_name)


@family("rmsprop", 0.02, 250, supervised=True, continuous=True)
def lodger_cubic_for_a_sine() -> Task:
    """PyTorch's first example: a polynomial of the third degree becomes a sine; the same 2,000 points, errors summed."""
    x = torch.linspace(-math.pi, math.pi, 2000)
    powers, y = torch.stack([x, x**2, x**3], 1), x.sin()[:, None]
    net = nn.Linear(3, 1)
    return Task(net, lambda generator: (powers, y), lambda net, batch: ((net(batch[0]) - batch[1]) ** 2).sum())


@family("sgd", 0.5, 200, supervised=True, continuous=True)
def lodger_support_vectors() -> Task:
    """A linear machine between two kinds of tumours: hinges and a little of its weights' squares, plain SGD."""

    def loss(net: Any, batch: Batch) -> Tensor:
        return F.relu(1 - batch[1] * net(batch[0])[:, 0]).mean() + 1e-3 * net.weight.square().sum()

    x, y = table(load_breast_cancer())
    return Task(nn.Linear(30, 1), rows_of(16, x, 2.0 * y - 1), loss)


class Trees(nn.Module):
    """Twelve soft oblivious trees of four questions each (NODE, Popov et al. 2020, with sigmoids)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.choice, self.cut = nn.Parameter(torch.randn(12, 4, inputs)), nn.Parameter(torch.randn(12, 4) / 2)
        self.leaves = nn.Parameter(torch.randn(12, 16, outputs) / 4)
        self.register_buffer("sides", torch.tensor([[k >> d & 1 for d in range(4)] for k in range(16)], dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs] to [batch, outputs]."""
        asked = torch.einsum("bi,tdi->btd", x, self.choice.softmax(2))
        right = torch.sigmoid(3 * (asked - self.cut))[:, :, None]
        reached = torch.where(self.sides, right, 1 - right).prod(3)
        return torch.einsum("btl,tlo->bo", reached, self.leaves)


@family("radam", 0.3, 200, supervised=True, continuous=True)
def lodger_wine_by_soft_trees() -> Task:
    """Three vineyards by twelve trees whose questions are soft: products of chances, and no layer at all."""
    return Task(Trees(13, 3), rows_of(32, *table(load_wine())), classes)
