"""What the module's own hook behind each batch leaves of the optimizer's step."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

import torch
from torch import Tensor

from lightning_adam.preflight.task import OutOfTimeError, Task, own_hook

STEPS = 3
"""That the hook is called behind: it may well write to a log."""


class Left:
    """Weights before a step, after it, and after ``on_train_batch_end``, where the module has one."""

    def __init__(self, task: Task) -> None:
        self._task, self._hook = task, own_hook(task.module, "on_train_batch_end")
        self._before: list[Tensor] = []
        self._shares: list[float] = []

    @property
    def share(self) -> float:
        """How much of a usual step stays."""
        return median(self._shares) if self._shares else 1.0

    def begin(self) -> None:
        """Before the step."""
        if self._hook is not None and len(self._shares) < STEPS:
            self._before = self._weights()

    def end(self, loss: float, batch: Any, index: int) -> None:
        """After it: the hook is called as Lightning does."""
        if self._hook is None or index >= STEPS:
            return
        stepped = self._weights()
        try:
            self._hook({"loss": torch.tensor(loss)}, batch, index)
        except OutOfTimeError:
            raise
        except Exception:  # a hook may ask for what only a run has
            self._hook = None
            return
        moved = _distance(stepped, self._before)
        if moved > 0:
            self._shares.append(_distance(self._weights(), self._before) / moved)

    def _weights(self) -> list[Tensor]:
        return [p.detach().clone() for p in self._task.trainable().values()]


def _distance(one: list[Tensor], other: list[Tensor]) -> float:
    return math.sqrt(sum(float((a - b).float().square().sum()) for a, b in zip(one, other, strict=True)))
