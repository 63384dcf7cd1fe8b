"""What the sixth round of cases is built of: forecasters, agents, detectors, two towers, and the data that they get."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import generator


class Lit(L.LightningModule):
    """What most people write: parts in ``__init__`` of a subclass, Adam at 1e-3, and a step of one's own."""

    lr = 1e-3

    def configure_optimizers(self) -> Any:
        """Of what is to be trained."""
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=self.lr)


class ByHand(Lit):
    """With manual optimization."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


def series(n: int = 640, length: int = 25) -> Tensor:
    """Noisy sums of two waves, one value for each time."""
    g = generator()
    t = torch.arange(length)
    slow, fast, phase = (
        low + (high - low) * torch.rand(n, 1, generator=g) for low, high in ((0.1, 0.3), (0.6, 0.9), (0.0, 6.0))
    )
    return torch.sin(slow * t + phase) + 0.5 * torch.sin(fast * t) + 0.1 * torch.randn(n, length, generator=g)


def masks(n: int = 320, side: int = 16) -> tuple[Tensor, Tensor]:
    """Noisy pictures of a bright rectangle, and where it is."""
    g = generator()
    rows, columns = torch.arange(side)[:, None], torch.arange(side)
    top, left = (torch.randint(0, side - 8, (n, 1, 1), generator=g) for _ in range(2))
    inside = (rows >= top) & (rows < top + 8) & (columns >= left) & (columns < left + 8)
    return (inside.float() + 0.5 * torch.randn(n, side, side, generator=g))[:, None], inside.float()


def lives(n: int = 960) -> tuple[Tensor, Tensor, Tensor]:
    """Patients, how long each was seen, and whether the end was seen."""
    g = generator()
    x = torch.randn(n, 8, generator=g)
    life = torch.distributions.Exponential(torch.exp(x[:, 0] - 0.5 * x[:, 1])).icdf(
        torch.rand(n, generator=g).clamp_max(0.999)
    )
    seen = 2 * torch.rand(n, generator=g)
    return x, torch.minimum(life, seen), (life <= seen).float()


def moves(n: int = 960) -> dict[str, Tensor]:
    """What an agent remembers: states, actions, rewards, next states, and whether the game was over."""
    g = generator()
    state, action = torch.randn(n, 4, generator=g), torch.randint(0, 3, (n,), generator=g)
    push = torch.eye(4)[action]
    following = 0.8 * state + 0.5 * push + 0.1 * torch.randn(n, 4, generator=g)
    reward = 1.0 - following.square().mean(1).clamp_max(2.0)
    return {
        "obs": state,
        "action": action,
        "reward": reward,
        "next_obs": following,
        "done": (torch.rand(n, generator=g) < 0.1).float(),
    }


def captions(n: int = 480, words: int = 24, length: int = 10) -> tuple[Tensor, Tensor]:
    """A vector, and a sentence that starts with 1, follows from it, and ends in zeros."""
    g = generator()
    x = torch.randn(n, 12, generator=g)
    start = torch.argmax(x[:, :6], 1)
    said = (start[:, None] * 3 + torch.arange(length) * (1 + (x[:, 6:7] > 0).long())) % (words - 2) + 2
    ends = torch.randint(6, length + 1, (n, 1), generator=g)
    return x, torch.cat([torch.ones(n, 1, dtype=torch.long), said.masked_fill(torch.arange(length) >= ends, 0)], 1)


def views_of_things(n: int = 640) -> tuple[Tensor, Tensor]:
    """The same thing as a picture sees it and as words tell it."""
    g = generator()
    hidden = torch.randn(n, 8, generator=g)
    first, second = (torch.randn(8, width, generator=g) for width in (20, 14))
    return (hidden @ first / 3 + 0.2 * torch.randn(n, 20, generator=g)), (
        hidden @ second / 3 + 0.2 * torch.randn(n, 14, generator=g)
    )


def tracks(n: int = 320, seed: int = 0) -> Iterator[tuple[Tensor, int]]:
    """Sequences of many lengths, one after another, and which of three kinds each is."""
    g = generator(seed)
    for _ in range(n):
        kind, length = int(torch.randint(0, 3, (1,), generator=g)), int(torch.randint(6, 20, (1,), generator=g))
        yield torch.randn(length, 5, generator=g) + 0.8 * torch.eye(5)[kind], kind


class Seq2Seq(nn.Module):
    """A vector sets the decoder's first state; its words are forced upon it; what it gives passes ``last``."""

    def __init__(self, words: int = 24, last: Callable[[Tensor], Tensor] = lambda scores: scores) -> None:
        super().__init__()
        self.encoder, self.table = nn.Linear(12, 32), nn.Embedding(words, 32, padding_idx=0)
        self.cell, self.head, self.last = nn.GRU(32, 32, batch_first=True), nn.Linear(32, words), last

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        """Scores of the next word at each place."""
        states, _ = self.cell(self.table(words), torch.tanh(self.encoder(x))[None])
        return self.last(self.head(states))


class Unet(nn.Module):
    """Down once and up once."""

    def __init__(self, outputs: int = 1, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), norm(8), nn.ReLU())
        self.deep = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), norm(16), nn.ReLU())
        self.up, self.head = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(16, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """A map of scores."""
        first = self.down(x)
        return self.head(torch.cat([first, self.up(self.deep(first))], 1))


class Towers(nn.Module):
    """Two encoders into one space, and how sharply likeness is read; ``dim`` is what is normalised."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.picture = nn.Sequential(nn.Linear(20, 32), nn.GELU(), nn.Linear(32, 16))
        self.words = nn.Sequential(nn.Linear(14, 32), nn.GELU(), nn.Linear(32, 16))
        self.scale, self.dim = nn.Parameter(torch.tensor(2.0)), dim

    def forward(self, picture: Tensor, words: Tensor) -> Tensor:
        """How like each picture is to each text."""
        a, b = F.normalize(self.picture(picture), dim=self.dim), F.normalize(self.words(words), dim=self.dim)
        return self.scale.exp() * a @ b.T


class LowRank(nn.Module):
    """A layer that stays, and what is learnt beside it (Hu et al. 2021)."""

    def __init__(self, layer: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.a, self.b = (
            nn.Parameter(0.1 * torch.randn(rank, layer.in_features)),
            nn.Parameter(torch.zeros(layer.out_features, rank)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Both together."""
        return self.layer(x) + x @ self.a.T @ self.b.T


class Causal(nn.Module):
    """Convolutions over time whose padding is on the left alone, or on both sides."""

    def __init__(self, left: bool = True) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(1, 16, 3, dilation=1), nn.Conv1d(16, 16, 3, dilation=2)
        self.head, self.left = nn.Conv1d(16, 1, 1), left

    def forward(self, x: Tensor) -> Tensor:
        """A forecast at each time."""
        h = x[:, None]
        for layer in (self.first, self.second):
            reach = 2 * layer.dilation[0]
            h = F.relu(layer(F.pad(h, (reach, 0) if self.left else (reach // 2, reach // 2))))
        return self.head(h)[:, 0]


def cox(risk: Tensor, time: Tensor, event: Tensor) -> Tensor:
    """The partial log-likelihood (Cox 1972) of each patient whose end was seen, negated: those who live longest first."""
    order = time.argsort(descending=True)
    risk, event = risk[order], event[order]
    return -((risk - risk.logcumsumexp(0)) * event).sum() / event.sum().clamp_min(1)
