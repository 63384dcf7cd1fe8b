"""Real data that needs no download: scikit-learn's digits and diabetes, the standard library's source as text."""

from __future__ import annotations

import functools
import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from torch import Generator, Tensor

Batch = tuple[Tensor, Tensor]
Draw = Callable[[Generator], Batch]
"""Draws one batch."""


@functools.cache
def digits() -> Batch:
    """1797 images of 8×8 as standardised vectors, and their labels."""
    loaded = load_digits()
    x = torch.tensor(loaded.data, dtype=torch.float32)
    return (x - x.mean()) / x.std(), torch.tensor(loaded.target)


@functools.cache
def diabetes(raw: bool = False) -> Batch:
    """442 patients: ten features, a score; standardised, or as they were measured."""
    loaded = load_diabetes(scaled=False)
    x, y = torch.tensor(loaded.data, dtype=torch.float32), torch.tensor(loaded.target, dtype=torch.float32)
    return (x, y) if raw else ((x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std())


@functools.cache
def table(name: str) -> Batch:
    """``wine`` (13 features, 3 classes) or ``cancer`` (30 features, 2 classes), standardised."""
    loaded = {"wine": load_wine, "cancer": load_breast_cancer}[name]()
    x = torch.tensor(loaded.data, dtype=torch.float32)
    return (x - x.mean(0)) / x.std(0), torch.tensor(loaded.target)


@functools.cache
def text() -> tuple[Tensor, int]:
    """The standard library's first modules as character codes, and how many characters there are."""
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:40]
    characters = "".join(p.read_text(encoding="utf-8", errors="replace") for p in paths)[:1_000_000]
    points = np.frombuffer(characters.encode("utf-32-le"), np.uint32).astype(np.int64)
    return torch.from_numpy(np.where((points >= 32) & (points < 127), points - 31, 0)), 97


def rows(data: Batch, size: int, first: int | None = None, whole: bool = False) -> Draw:
    """Batches of random rows; of the ``first`` ones only; or all of them, always."""
    x, y = data[0][:first], data[1][:first]

    def draw(generator: Generator) -> Batch:
        if whole:
            return x, y
        index = torch.randint(0, len(x), (size,), generator=generator)
        return x[index], y[index]

    return draw


def windows(size: int, length: int = 32) -> Draw:
    """Windows of text, and the same one character later."""
    codes, _ = text()

    def draw(generator: Generator) -> Batch:
        starts = torch.randint(0, len(codes) - length - 1, (size,), generator=generator).tolist()
        both = torch.stack([codes[s : s + length + 1] for s in starts])
        return both[:, :-1].contiguous(), both[:, 1:].contiguous()

    return draw


def rare_words(size: int, vocabulary: int = 2000) -> Draw:
    """Six tokens by Zipf's law; the label depends on the rarest: gradients of most rows are rare, and healthy."""
    odds = 1.0 / torch.arange(1, vocabulary + 1).float()
    labels = torch.randint(0, 4, (vocabulary,), generator=Generator().manual_seed(5))

    def draw(generator: Generator) -> Batch:
        x = torch.multinomial(odds, size * 6, replacement=True, generator=generator).view(size, 6)
        return x, labels[x.max(1).values]

    return draw
