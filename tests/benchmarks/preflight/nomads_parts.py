"""Data and nets of the fourteenth round: shops, tones, molecules, streams, and nets that have been trained before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from tests.benchmarks.preflight.data import generator


class Data(L.LightningDataModule):
    """A training and a validation loader."""

    def __init__(self, train: DataLoader[Any], val: DataLoader[Any]) -> None:
        super().__init__()
        self.train, self.val = train, val

    def train_dataloader(self) -> DataLoader[Any]:
        """As given."""
        return self.train

    def val_dataloader(self) -> DataLoader[Any]:
        """As given."""
        return self.val


class Made(Dataset[Any]):
    """What a function makes of each index."""

    def __init__(self, make: Callable[[int], Any], n: int = 640) -> None:
        self.make, self.n = make, n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Any:
        return self.make(index)


class Stream(IterableDataset[Any]):
    """What a function yields, anew each epoch."""

    def __init__(self, make: Callable[[], Iterator[Any]]) -> None:
        self.make = make

    def __iter__(self) -> Iterator[Any]:
        return self.make()


def in_order(*tensors: Tensor, size: int = 32) -> DataLoader[Any]:
    """One after another."""
    return DataLoader(TensorDataset(*tensors), batch_size=size)


def pretrained(net: nn.Module, x: Tensor, y: Tensor, loss: Any = F.cross_entropy, steps: int = 150) -> nn.Module:
    """As somebody else has trained it."""
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    g = generator()
    for _ in range(steps):
        some = torch.randint(0, len(x), (64,), generator=g)
        optimizer.zero_grad()
        loss(net(x[some]), y[some]).backward()
        optimizer.step()
    return net


def sales(n: int = 960) -> dict[str, Tensor]:
    """Shop, weekday, three standardised columns, and how many pieces were sold."""
    g = generator()
    shop, day = torch.randint(0, 12, (n,), generator=g), torch.randint(0, 7, (n,), generator=g)
    x = torch.randn(n, 3, generator=g)
    log_rate = 1.0 + 0.5 * torch.randn(12, generator=g)[shop] + 0.3 * (day > 4) + 0.5 * x[:, 0] - 0.3 * x[:, 1] * x[:, 2]
    return {"shop": shop, "day": day, "x": x, "sold": torch.poisson(log_rate.exp(), generator=g)}


def houses(n: int = 960) -> tuple[Tensor, Tensor]:
    """Six standardised columns, and a price in dollars: 50,000 to a million."""
    g = generator()
    x = torch.randn(n, 6, generator=g)
    log_price = 12.3 + 0.4 * x[:, 0] + 0.2 * x[:, 1] - 0.15 * x[:, 2] * x[:, 3] + 0.1 * torch.randn(n, generator=g)
    return x, log_price.exp()


def tones(n: int = 480, length: int = 512, kinds: int = 5) -> tuple[Tensor, Tensor]:
    """Short noisy sounds between -1 and 1, and which of five pitches each has."""
    g = generator()
    y = torch.randint(0, kinds, (n,), generator=g)
    phase, loud = 6.3 * torch.rand(n, 1, generator=g), 0.3 + 0.4 * torch.rand(n, 1, generator=g)
    wave = torch.sin(0.15 * (1.5 ** y[:, None]) * torch.arange(length) + phase)
    return loud * wave + 0.1 * torch.randn(n, length, generator=g), y


def spectrogram(x: Tensor) -> Tensor:
    """Power over frequency and time."""
    return torch.stft(x, 64, 32, window=torch.hann_window(64), return_complex=True).abs().square()


def molecules(n: int = 480, atoms: int = 9) -> dict[str, Tensor]:
    """Atoms of four kinds, who is bound to whom, which atoms are there, and whether two of the first kind are bound."""
    g = generator()
    kind = torch.randint(0, 4, (n, atoms), generator=g)
    there = torch.arange(atoms) < torch.randint(5, atoms + 1, (n, 1), generator=g)
    bound = (torch.rand(n, atoms, atoms, generator=g) < 0.25).triu(1)
    bound = ((bound | bound.transpose(1, 2)) & there[:, None] & there[:, :, None]).float()
    first = (kind == 0).float() * there
    label = (torch.einsum("ni,nij,nj->n", first, bound, first) > 0).long()
    return {"kind": kind, "bound": bound, "there": there.float(), "label": label}


def papers(n: int = 160) -> dict[str, Tensor]:
    """One graph: what is in each paper, who cites whom (normalised), its field, and which papers are for training."""
    g = generator()
    y = torch.randint(0, 4, (n,), generator=g)
    x = 0.8 * torch.randn(4, 16, generator=g)[y] + torch.randn(n, 16, generator=g)
    same = (y[:, None] == y).float()
    cites = (torch.rand(n, n, generator=g) < 0.01 + 0.06 * same).float()
    cites = ((cites + cites.T + torch.eye(n)) > 0).float()
    degree = cites.sum(1).rsqrt()
    return {"x": x, "a": degree[:, None] * cites * degree, "y": y, "train": torch.rand(n, generator=g) < 0.6}


def liked(n: int = 1280, users: int = 60, things: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """Who, what, and one to five stars."""
    g = generator()
    who, what = torch.randint(0, users, (n,), generator=g), torch.randint(0, things, (n,), generator=g)
    taste, kind = torch.randn(users, 3, generator=g), torch.randn(things, 3, generator=g)
    stars = 3.4 + 0.7 * (taste[who] * kind[what]).sum(1) + 0.3 * torch.randn(n, generator=g)
    return who, what, stars.round().clamp(1, 5)


def sums(n: int = 640, words: int = 12, length: int = 7) -> tuple[Tensor, Tensor]:
    """A sequence of digits padded with 0, and the same reversed between 10 and 11, padded with 0."""
    g = generator()
    long = torch.randint(3, length + 1, (n,), generator=g)
    source = torch.randint(1, words - 2, (n, length), generator=g) * (torch.arange(length) < long[:, None])
    target = torch.zeros(n, length + 2, dtype=torch.long)
    for row, size in enumerate(long.tolist()):
        target[row, : size + 2] = torch.cat([torch.tensor([10]), source[row, :size].flip(0), torch.tensor([11])])
    return source, target


def padded_text(n: int = 480, words: int = 24, length: int = 14) -> dict[str, Tensor]:
    """Tokens from 2 on, 0 where a sentence is over, and which are real; each word follows from the one before."""
    g = generator()
    after = torch.randint(2, words, (words, 2), generator=g)
    tokens = torch.randint(2, words, (n, length), generator=g)
    for place in range(1, length):
        pick = (torch.rand(n, generator=g) < 0.8).long()
        tokens[:, place] = after[tokens[:, place - 1], pick]
    real = torch.arange(length) < torch.randint(6, length + 1, (n, 1), generator=g)
    return {"input_ids": tokens * real, "attention_mask": real.long()}


def episodes(n: int = 640) -> dict[str, Tensor]:
    """States, what was done by a policy of before, its log-probability, what came of it, and how much that is better."""
    g = generator()
    obs = torch.randn(n, 4, generator=g)
    action = torch.randint(0, 3, (n,), generator=g)
    gain = (obs @ torch.randn(4, 3, generator=g)).gather(1, action[:, None])[:, 0]
    value = gain + 0.3 * torch.randn(n, generator=g)
    return {
        "obs": obs,
        "action": action,
        "logp": torch.full((n,), -1.0986),
        "returns": value,
        "advantage": (value - value.mean()) / value.std(),
    }


class Block(nn.Module):
    """A residual block of two convolutions with batch norms."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """ReLU behind the sum."""
        return F.relu(x + self.norm2(self.second(F.relu(self.norm1(self.first(x))))))


def resnet(outputs: int = 10, width: int = 16, last: nn.Module | None = None) -> nn.Sequential:
    """A stem, two blocks, an average over all pixels."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), Block(width), nn.MaxPool2d(2),
        Block(width), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, outputs), last or nn.Identity(),
    )  # fmt: skip
