"""What rates are suggested for: the families of the diagnosis's corpus, and the healthy models of the preflight's cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import lightning as L
import torch
from torch import Generator, Tensor

from tests.benchmarks.divergence.corpus import generative, representation, supervised  # noqa: F401
from tests.benchmarks.divergence.corpus.family import FAMILIES, Task
from tests.benchmarks.preflight.cases import HEALTHY

STEPS = 240
LEFT_OUT = {
    **dict.fromkeys(("gan_by_hand", "critic_with_penalty", "actor_and_critic", "accumulates_by_hand"), "steps by hand"),
    **dict.fromkeys(
        ("warmup_then_cosine", "cosine_by_epoch", "module_of_data", "with_the_helper"), "differs in its plan only"
    ),
    "lazy_layers": "has no weights yet",
    "compiled_inside": "compiles for minutes",
}
"""Models that are no task here, said before any was trained."""


class Module(L.LightningModule):
    """A family as a user would have it."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.net, self.task = task.net, task

    def training_step(self, batch: Any, index: int) -> Tensor:
        """The family's loss."""
        return self.task.loss(self.net, batch)

    def configure_optimizers(self) -> Any:
        """Replaced by each method's."""
        raise NotImplementedError


@dataclass(frozen=True)
class Course:
    """A module, and its batches.

    Attributes:
        module: with new weights, the same each time.
        batches: as many as a run has steps, the same each time.
    """

    module: L.LightningModule
    batches: Sequence[Any]


def of_family(name: str) -> Course:
    """Of the corpus."""
    torch.manual_seed(0)
    task, generator = FAMILIES[name].make(), Generator().manual_seed(1)
    return Course(Module(task), [task.draw(generator) for _ in range(STEPS)])


def of_case(name: str) -> Course:
    """Of the preflight's cases."""
    torch.manual_seed(0)
    module, data = HEALTHY[name]()[:2]
    torch.manual_seed(1)
    batches: list[Any] = []
    while len(batches) < STEPS:
        batches += data
    return Course(module, batches[:STEPS])


CORPUS = {f"corpus {name}": lambda name=name: of_family(name) for name in FAMILIES if FAMILIES[name].by_loss}
REPORTED = {name: lambda name=name: of_case(name) for name in HEALTHY if name not in LEFT_OUT}
TASKS: dict[str, Callable[[], Course]] = {**REPORTED, **CORPUS}
CHOSEN_ON = {name for name in REPORTED if crc32(name.encode()) % 2 == 0}
"""The half of them on which shares and weights were chosen."""
