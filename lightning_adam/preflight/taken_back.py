"""What the module's own hooks between two batches leave of the optimizer's step."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

import torch
from torch import Tensor

from lightning_adam.preflight.task import OutOfTimeError, Task, own_hook

STEPS = 3
"""That the hooks are called behind: they may well write to a log."""


class Left:
    """Weights before a step, after it, and after ``on_train_batch_end`` and ``on_train_batch_start`` of the module."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._ends, self._begins = (own_hook(task.module, f"on_train_batch_{at}") for at in ("end", "start"))
        self._before: list[Tensor] = []
        self._shares: list[float] = []

    @property
    def share(self) -> float:
        """How much of a usual step stays."""
        return median(self._shares) if self._shares else 1.0

    @property
    def _is_asked(self) -> bool:
        return self._ends is not None or self._begins is not None

    def begin(self) -> None:
        """Before the step."""
        if self._is_asked and len(self._shares) < STEPS:
            self._before = self._weights()

    def end(self, loss: float, batch: Any, index: int) -> None:
        """After it: the hooks are called as Lightning does."""
        if not self._is_asked or index >= STEPS:
            return
        stepped = self._weights()
        try:
            if self._ends is not None:
                self._ends({"loss": torch.tensor(loss)}, batch, index)
            if self._begins is not None:
                self._begins(batch, index + 1)
        except OutOfTimeError:
            raise
        except Exception:  # a hook may ask for what only a run has
            self._ends = self._begins = None
            return
        moved = _distance(stepped, self._before)
        if moved > 0:
            self._shares.append(_distance(self._weights(), self._before) / moved)

    def _weights(self) -> list[Tensor]:
        return [p.detach().clone() for p in self._task.trainable().values()]


def _distance(one: list[Tensor], other: list[Tensor]) -> float:
    return math.sqrt(sum(float((a - b).float().square().sum()) for a, b in zip(one, other, strict=True)))
