"""More families of the boarder's: texts, sounds, series, equations and what is adapted."""

from __future__ import annotations

import functools
import itertools
import math
import string
import sysconfig
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.divergence.corpus.boarders import classes
from tests.benchmarks.divergence.corpus.family import Batch, Task, family, fixed, rows_of
from tests.benchmarks.divergence.corpus.strangers import over_all
from tests.benchmarks.divergence.corpus.supervised import images
from tests.benchmarks.divergence.models import mlp


@functools.cache
def source(name: str = "argparse.py") -> Tensor:
    """The characters of a module of Python's, as numbers below 96."""
    text = (Path(sysconfig.get_path("stdlib")) / name).read_text("utf-8")[:60_000]
    return torch.tensor([0 if sign == "\n" else min(95, max(1, ord(sign) - 31)) for sign in text])


def windows(length: int, size: int) -> object:
    """Draws pieces of the source: all but the last character, and all but the first."""
    text = source()

    def draw(generator: Generator) -> Batch:
        start = torch.randint(0, len(text) - length - 1, (size, 1), generator=generator)
        piece = text[start + torch.arange(length + 1)]
        return piece[:, :-1], piece[:, 1:]

    return draw


def next_sign(net: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy over all places."""
    return F.cross_entropy(net(batch[0]).flatten(0, 1), batch[1].flatten())


class Gated(nn.Module):
    """A block as Llama's: RMSNorm, causal attention, and a gated network."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.first, self.second = heads, nn.RMSNorm(width), nn.RMSNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.gate, self.up = nn.Linear(width, 2 * width, bias=False), nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, width]."""
        parts = self.mix(self.first(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(*parts, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        inner = self.second(x)
        out: Tensor = x + self.down(F.silu(self.gate(inner)) * self.up(inner))
        return out


class Speaker(nn.Module):
    """Gated blocks over characters and places; the embedding is the last layer too."""

    def __init__(self, width: int = 32, length: int = 48) -> None:
        super().__init__()
        self.signs, self.places = nn.Embedding(96, width), nn.Embedding(length, width)
        self.blocks, self.norm = nn.Sequential(Gated(width), Gated(width)), nn.RMSNorm(width)
        nn.init.normal_(self.signs.weight, std=0.05)
        nn.init.normal_(self.places.weight, std=0.05)

    def forward(self, signs: Tensor) -> Tensor:
        """[batch, length] to [batch, length, 96]."""
        x = self.signs(signs) + self.places(torch.arange(signs.shape[1]))
        out: Tensor = self.norm(self.blocks(x)) @ self.signs.weight.T
        return out


@family("adamw-95", 5e-3, 150, supervised=True)
def boarder_gated_blocks() -> Task:
    """Python's source, character by character, by blocks as Llama's with tied embeddings."""
    return Task(Speaker(), windows(48, 8), next_sign)  # type: ignore[arg-type]


class Stacked(nn.Module):
    """Two layers of LSTM over characters, with dropout between them."""

    def __init__(self) -> None:
        super().__init__()
        self.signs, self.cells = nn.Embedding(96, 24), nn.LSTM(24, 48, 2, dropout=0.1, batch_first=True)
        self.head = nn.Linear(48, 96)

    def forward(self, signs: Tensor) -> Tensor:
        """[batch, length] to [batch, length, 96]."""
        out: Tensor = self.head(self.cells(self.signs(signs))[0])
        return out


@family("adam", 1e-2, 150, supervised=True, not_in=("fp16",))
def boarder_two_layers_of_cells() -> Task:
    """Python's source, character by character, by two layers of LSTM."""
    return Task(Stacked(), windows(32, 12), next_sign)  # type: ignore[arg-type]


class Translator(nn.Module):
    """A GRU reads, another writes what it is told of its own past, with additive attention (Bahdanau et al. 2015)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.signs, self.told = nn.Embedding(11, 16), nn.Embedding(11, 16)
        self.reader, self.writer = nn.GRU(16, width, batch_first=True), nn.GRU(16, width, batch_first=True)
        self.key, self.query, self.score = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 1)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, signs: Tensor, past: Tensor) -> Tensor:
        """[batch, length] twice to [batch, length, 10]."""
        read, last = self.reader(self.signs(signs))
        written, _ = self.writer(self.told(past), last)
        weight = self.score((self.key(read)[:, None] + self.query(written)[:, :, None]).tanh()).softmax(2)
        out: Tensor = self.head(torch.cat([(weight * read[:, None]).sum(2), written], -1))
        return out


@family("adam", 1e-2, 250)
def boarder_sorted_by_reading() -> Task:
    """Six digits in their order, the right past shown to the writer."""

    def draw(generator: Generator) -> Batch:
        digits = torch.randint(0, 10, (24, 6), generator=generator)
        return digits, digits.sort(1).values

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        past = F.pad(batch[1][:, :-1], (1, 0), value=10)
        return F.cross_entropy(net(batch[0], past).flatten(0, 1), batch[1].flatten())

    return Task(Translator(), draw, loss)


@functools.cache
def rung() -> tuple[Tensor, Tensor]:
    """Four tones of six heights one after another, each of any length, as 24 frames of a spectrum; the heights from 1 on."""
    g = fixed()
    heights = torch.randint(0, 6, (500, 4), generator=g)
    lengths = torch.randint(3, 7, (500, 4), generator=g)
    frames = torch.zeros(500, 24, 16)
    for row in range(500):
        tones = heights[row].repeat_interleave(lengths[row])
        frames[row, torch.arange(len(tones)), 2 + 2 * tones] = 1.0
    return frames + 0.2 * torch.randn(frames.shape, generator=g), heights + 1


class Listener(nn.Module):
    """A convolution over time and a GRU in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.near, self.cells = nn.Conv1d(16, 24, 3, padding=1), nn.GRU(24, 16, bidirectional=True, batch_first=True)
        self.head = nn.Linear(32, 7)

    def forward(self, frames: Tensor) -> Tensor:
        """[batch, frames, 16] to [batch, frames, 7]."""
        near = self.near(frames.transpose(1, 2)).relu().transpose(1, 2)
        out: Tensor = self.head(self.cells(near)[0])
        return out


@family("adam", 1e-2, 200, supervised=True, continuous=True, not_in=("bf16", "fp16"))
def boarder_bells_in_a_row() -> Task:
    """Which bells were rung, without being told when, by CTC; equal bells in a row are among them."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        said = net(batch[0]).log_softmax(-1).transpose(0, 1)
        rows = len(batch[1])
        return F.ctc_loss(said, batch[1], torch.full((rows,), 24), torch.full((rows,), 4), zero_infinity=True)

    return Task(Listener(), rows_of(16, *rung()), loss)


@functools.cache
def hummed() -> tuple[Tensor, Tensor]:
    """256 samples of a tone with two overtones, and its height in octaves, standardised."""
    g = fixed()
    octave, phase = torch.rand(600, 1, generator=g) * 3, torch.rand(600, 1, generator=g) * 6.28
    angle = 2 * math.pi * 2**octave * 4 * torch.linspace(0, 1, 256) + phase
    strength = torch.rand(600, 2, generator=g)
    wave = angle.sin() + strength[:, :1] * (2 * angle).sin() + strength[:, 1:] * (3 * angle).sin()
    return wave[:, None] + 0.1 * torch.randn(600, 1, 256, generator=g), (octave[:, 0] - 1.5) / 0.87


@family("adam", 3e-3, 150, supervised=True, continuous=True)
def boarder_height_of_a_tone() -> Task:
    """How high a tone is, from its samples, by strided convolutions and Huber's loss."""
    body = [nn.Conv1d(1, 12, 9, stride=4), nn.ReLU(), nn.Conv1d(12, 16, 7, stride=3), nn.ReLU(), nn.AdaptiveMaxPool1d(4)]
    net = nn.Sequential(*body, nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
    return Task(net, rows_of(32, *hummed()), lambda net, batch: F.huber_loss(net(batch[0]), batch[1]))


class Chooser(nn.Module):
    """An LSTM, attention over what it saw and a gate that may leave it out (Lim et al. 2021, in small)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.enter, self.cells = nn.Linear(3, width), nn.LSTM(width, width, batch_first=True)
        self.look = nn.MultiheadAttention(width, 2, batch_first=True)
        self.gate, self.norm, self.head = nn.Linear(width, 2 * width), nn.LayerNorm(width), nn.Linear(width, 3 * 6)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 30, 3] to quantiles [batch, 6, 3]."""
        seen = self.cells(self.enter(x))[0]
        looked = self.look(seen[:, -1:], seen, seen, need_weights=False)[0][:, 0]
        out: Tensor = self.head(self.norm(seen[:, -1] + F.glu(self.gate(looked), -1)))
        return out.view(len(x), 6, 3)


@functools.cache
def visitors_per_hour() -> tuple[Tensor, Tensor]:
    """Of a shop over 100 days: 30 hours with their time of day as an angle, and the next six."""
    g, hour = fixed(), torch.arange(2400)
    level = (2 * math.pi * hour / 24).sin().clamp(min=-0.5) * (1 + 0.5 * (hour // 24 % 7 > 4)) + 0.1 * torch.randn(
        2400, generator=g
    )
    angle = 2 * math.pi * hour / 24
    rows = torch.stack([level, angle.sin(), angle.cos()], 1).unfold(0, 36, 1).transpose(1, 2)
    return rows[:, :30].contiguous(), rows[:, 30:, 0].contiguous()


@family("adam", 5e-3, 150, supervised=True, continuous=True)
def boarder_hours_of_a_shop() -> Task:
    """Three quantiles of the next six hours."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        error = batch[1][..., None] - net(batch[0])
        levels = torch.tensor([0.1, 0.5, 0.9], dtype=error.dtype)
        return torch.maximum(levels * error, (levels - 1) * error).sum(-1).mean()

    return Task(Chooser(), rows_of(24, *visitors_per_hour()), loss)


class Bag(nn.Module):
    """The mean of the embeddings of some pieces of words, whose gradient is sparse (Joulin et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces = nn.EmbeddingBag(2000, 8 * 5, sparse=True)

    def forward(self, pieces: Tensor) -> Tensor:
        """[batch, 10] to [batch, 5]: each piece has eight opinions on each answer."""
        out: Tensor = self.pieces(pieces).view(-1, 5, 8).sum(-1)
        return out


@functools.cache
def letters_of_modules() -> tuple[Tensor, Tensor]:
    """Lines of five modules as ten hashed pairs of letters, and of which module they are."""
    rows, owners = [], []
    for owner, name in enumerate(("argparse.py", "decimal.py", "turtle.py", "tarfile.py", "typing.py")):
        lines = (Path(sysconfig.get_path("stdlib")) / name).read_text("utf-8").split("\n")
        text = [[c for c in line if c in string.ascii_letters + " _."] for line in lines]
        for signs in (line for line in text if len(line) > 30):
            pairs = [(ord(a) * 97 + ord(b)) % 2000 for a, b in itertools.pairwise(signs[10:21])]
            rows.append(pairs)
            owners.append(owner)
    return torch.tensor(rows), torch.tensor(owners)


@family("sparse-adam", 1e-2, 200, supervised=True, not_in=("fp16", "clip"))
def boarder_sparse_pairs_of_letters() -> Task:
    """Which module a line is from, by an embedding with sparse gradients and SparseAdam."""
    return Task(Bag(), rows_of(64, *letters_of_modules()), classes)


class Weighted(nn.Module):
    """Two embeddings and two biases per sign (Pennington et al. 2014)."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.word, self.context = nn.Embedding(96, width), nn.Embedding(96, width)
        self.first, self.second = nn.Embedding(96, 1), nn.Embedding(96, 1)
        for table in (self.word, self.context, self.first, self.second):
            nn.init.uniform_(table.weight, -0.05, 0.05)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Two [batch] to [batch]."""
        out: Tensor = (self.word(a) * self.context(b)).sum(-1) + self.first(a)[:, 0] + self.second(b)[:, 0]
        return out


@family("adagrad", 0.1, 250, supervised=True)
def boarder_signs_that_meet() -> Task:
    """How often characters stand near each other, in logarithms, as GloVe has it, by Adagrad."""
    text, counts = source(), torch.zeros(96, 96)
    for apart in range(1, 5):
        counts.index_put_((text[:-apart], text[apart:]), torch.tensor(1.0 / apart), accumulate=True)
    pairs = counts.nonzero()
    rows = pairs[:, 0], pairs[:, 1], counts[pairs[:, 0], pairs[:, 1]].log()

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        weight = (batch[2].exp() / 100).clamp(max=1) ** 0.75
        return (weight * (net(batch[0], batch[1]) - batch[2]).square()).mean()

    return Task(Weighted(), rows_of(128, *rows), loss, over_all(loss, *rows))


@functools.cache
def adding() -> tuple[Tensor, Tensor]:
    """20 numbers, two of them marked, and the sum of those two (Hochreiter and Schmidhuber 1997)."""
    g = fixed()
    numbers = torch.rand(3000, 20, generator=g)
    marks = torch.zeros(3000, 20).scatter_(1, torch.rand(3000, 20, generator=g).topk(2).indices, 1.0)
    return torch.stack([numbers, marks], -1), (numbers * marks).sum(1)


class Adder(nn.Module):
    """A GRU and what it says in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.GRU(2, 32, batch_first=True), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, 2] to [batch]."""
        out: Tensor = self.head(self.cells(x)[0][:, -1])[:, 0]
        return out


@family("adam", 1e-2, 300, supervised=True, continuous=True)
def boarder_two_numbers_added() -> Task:
    """The sum of two marked numbers: the loss stands at the variance before it falls."""
    return Task(Adder(), rows_of(64, *adding()), lambda net, batch: F.mse_loss(net(batch[0]), batch[1]))


@functools.cache
def taught() -> tuple[dict[str, Tensor], ...]:
    """Weights of a network that has learnt the first five digits."""
    x, y = images()
    rows = (y < 5).nonzero()[:, 0]
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(3)
        net = mlp([64, 48, 48, 5])
        optimizer = torch.optim.Adam(net.parameters(), 3e-3)
        for _ in range(150):
            some = rows[torch.randint(0, len(rows), (64,))]
            optimizer.zero_grad()
            F.cross_entropy(net(x[some].flatten(1)), y[some]).backward()
            optimizer.step()
    return ({name: value.detach().clone() for name, value in net.state_dict().items()},)


class Adapted(nn.Module):
    """Frozen layers, after each of which a narrow one that begins at zero adds something (Houlsby et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp([64, 48, 48, 5])
        self.body.load_state_dict(taught()[0])
        self.body.requires_grad_(False)
        self.adapters = nn.ModuleList(mlp([48, 8, 48], nn.GELU) for _ in range(2))
        for adapter in self.adapters:
            nn.init.zeros_(adapter[2].weight)  # type: ignore[index,arg-type]
        self.head = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 1, 8, 8] to [batch, 5]."""
        x = x.flatten(1)
        for place, adapter in enumerate(self.adapters):
            x = self.body[2 * place : 2 * place + 2](x)
            x = x + adapter(x)
        out: Tensor = self.head(x)
        return out


@family("adamw", 5e-3, 120, supervised=True, continuous=True)
def boarder_adapters_for_new_digits() -> Task:
    """A network that knows zero to four learns five to nine by adapters."""
    x, y = images()
    rows = (y >= 5).nonzero()[:, 0]
    return Task(Adapted(), rows_of(32, x[rows], y[rows] - 5), classes)
