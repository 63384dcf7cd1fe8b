"""Small data of many kinds, the same each time, and loaders of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset


def generator(seed: int = 0) -> torch.Generator:
    """Its own random numbers for each case."""
    return torch.Generator().manual_seed(seed)


class Rows(Dataset[dict[str, Tensor]]):
    """Batches that are dicts."""

    def __init__(self, **columns: Tensor) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: column[index] for name, column in self.columns.items()}


def loader(*tensors: Tensor, size: int = 32, shuffle: bool = True) -> DataLoader[Any]:
    """Of tensors side by side."""
    return DataLoader(TensorDataset(*tensors), batch_size=size, shuffle=shuffle, drop_last=True)


def rows(size: int = 32, **columns: Tensor) -> DataLoader[Any]:
    """Of named columns."""
    return DataLoader(Rows(**columns), batch_size=size, shuffle=True, drop_last=True)


def clusters(n: int = 960, features: int = 12, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Points around centres, standardised."""
    g = generator()
    y = torch.randint(0, classes, (n,), generator=g)
    x = 1.5 * torch.randn(classes, features, generator=g)[y] + torch.randn(n, features, generator=g)
    return (x - x.mean(0)) / x.std(0), y


def curve(n: int = 960, features: int = 6) -> tuple[Tensor, Tensor]:
    """A smooth function with noise, standardised."""
    g = generator()
    x = torch.randn(n, features, generator=g)
    y = torch.sin(x[:, 0]) + 0.5 * x[:, 1] * x[:, 2] + 0.1 * torch.randn(n, generator=g)
    return x, (y - y.mean()) / y.std()


def pictures(n: int = 640, classes: int = 4, channels: int = 1, side: int = 12) -> tuple[Tensor, Tensor]:
    """Noisy patterns."""
    g = generator()
    y = torch.randint(0, classes, (n,), generator=g)
    return torch.randn(classes, channels, side, side, generator=g)[y] + 0.7 * torch.randn(
        n, channels, side, side, generator=g
    ), y


def chains(n: int = 480, length: int = 17, words: int = 24) -> Tensor:
    """Tokens of a Markov chain."""
    g = generator()
    moves = torch.softmax(2 * torch.randn(words, words, generator=g), -1)
    tokens = torch.zeros(n, length, dtype=torch.long)
    tokens[:, 0] = torch.randint(0, words, (n,), generator=g)
    for place in range(1, length):
        tokens[:, place] = torch.multinomial(moves[tokens[:, place - 1]], 1, generator=g)[:, 0]
    return tokens


def waves(n: int = 640, length: int = 16, features: int = 3) -> tuple[Tensor, Tensor]:
    """Sequences, and which of two kinds each is."""
    g = generator()
    x = torch.randn(n, length, features, generator=g)
    return x, (x[:, :, 0].mean(1) > 0).long() + 2 * (x[:, -1, 1] > 0).long()
