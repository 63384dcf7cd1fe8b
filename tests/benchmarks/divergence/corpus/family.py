"""What a family of runs is, and the register of all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

Batch = tuple[Tensor, ...]
"""Inputs first, the target last."""
Loss = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True)
class Task:
    """One run's parts.

    Attributes:
        net: the network.
        draw: draws a batch.
        loss: of the network on a batch; of several that train against each other, by their names in the network, in turn,
            each with an optimizer of its own.
        measure: how badly the network does, where the loss does not tell.
    """

    net: nn.Module
    draw: Callable[[Generator], Batch]
    loss: Loss | Mapping[str, Loss]
    measure: Callable[[nn.Module], float] | None = None

    @property
    def turns(self) -> Mapping[str, Loss]:
        """One for each optimizer; the empty name is the whole network."""
        return self.loss if isinstance(self.loss, Mapping) else {"": self.loss}


@dataclass(frozen=True)
class Family:
    """Tasks that share data and architecture.

    Attributes:
        name: unique.
        make: the task; torch's generator is seeded before.
        optimizer: a key of :data:`tests.benchmarks.divergence.corpus.optimizers.OPTIMIZERS`.
        lr: a rate near the best; the grid around it is tried.
        steps: of one run.
        supervised: whether shuffled targets make it unlearnable.
        continuous: whether the inputs are floats that an upstream mistake may scale.
        by_loss: whether its loss tells how well it does; else the task has a measure.
        not_in: precisions in which torch cannot compute it: an operation is missing, or constants are of 32 bits; and
            ``clip`` where it cannot take the gradients' norm.
    """

    name: str
    make: Callable[[], Task]
    optimizer: str
    lr: float
    steps: int = 250
    supervised: bool = False
    continuous: bool = False
    by_loss: bool = True
    not_in: tuple[str, ...] = ()

    @property
    def is_held_out(self) -> bool:
        """By the hash of the name, before anybody has seen a run: thresholds are looked at on the others only."""
        return hashlib.sha256(self.name.encode()).digest()[0] % 2 == 1


FAMILIES: dict[str, Family] = {}


def family(
    optimizer: str,
    lr: float,
    steps: int = 250,
    supervised: bool = False,
    continuous: bool = False,
    by_loss: bool = True,
    not_in: tuple[str, ...] = (),
) -> Callable[[Callable[[], Task]], Callable[[], Task]]:
    """Register the function under its name."""

    def register(make: Callable[[], Task]) -> Callable[[], Task]:
        name = make.__name__.replace("_", "-")
        FAMILIES[name] = Family(name, make, optimizer, lr, steps, supervised, continuous, by_loss, not_in)
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
