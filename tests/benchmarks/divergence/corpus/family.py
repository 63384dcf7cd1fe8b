"""What a family of runs is, and the register of all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

Batch = tuple[Tensor, ...]
"""Inputs first, the target last."""

OPTIMIZERS: dict[str, Callable[[Any, float], Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adam-gan": lambda p, lr: torch.optim.Adam(p, lr, betas=(0.5, 0.999)),
    "adamw-95": lambda p, lr: torch.optim.AdamW(p, lr, betas=(0.9, 0.95), weight_decay=0.1),
    "sgd": torch.optim.SGD,
    "momentum": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9),
    "nesterov": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9, nesterov=True, weight_decay=5e-4),
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "adamax": torch.optim.Adamax,
}


@dataclass(frozen=True)
class Task:
    """One run's parts.

    Attributes:
        net: the network.
        draw: draws a batch.
        loss: of the network on a batch.
    """

    net: nn.Module
    draw: Callable[[Generator], Batch]
    loss: Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True)
class Family:
    """Tasks that share data and architecture.

    Attributes:
        name: unique.
        make: the task; torch's generator is seeded before.
        optimizer: a key of ``OPTIMIZERS``.
        lr: a rate near the best; the grid around it is tried.
        steps: of one run.
        supervised: whether shuffled targets make it unlearnable.
        continuous: whether the inputs are floats that an upstream mistake may scale.
    """

    name: str
    make: Callable[[], Task]
    optimizer: str
    lr: float
    steps: int = 250
    supervised: bool = False
    continuous: bool = False

    @property
    def is_held_out(self) -> bool:
        """By the hash of the name, before anybody has seen a run: thresholds are looked at on the others only."""
        return hashlib.sha256(self.name.encode()).digest()[0] % 2 == 1


FAMILIES: dict[str, Family] = {}


def family(
    optimizer: str, lr: float, steps: int = 250, supervised: bool = False, continuous: bool = False
) -> Callable[[Callable[[], Task]], Callable[[], Task]]:
    """Register the function under its name."""

    def register(make: Callable[[], Task]) -> Callable[[], Task]:
        name = make.__name__.replace("_", "-")
        FAMILIES[name] = Family(name, make, optimizer, lr, steps, supervised, continuous)
        return make

    return register


def rows_of(size: int, *columns: Tensor) -> Callable[[Generator], Batch]:
    """Random rows of tensors of equal length."""

    def draw(generator: Generator) -> Batch:
        index = torch.randint(0, len(columns[0]), (size,), generator=generator)
        return tuple(c[index] for c in columns)

    return draw


def fixed(seed: int = 7) -> Generator:
    """The data are the same in every run."""
    return Generator().manual_seed(seed)
