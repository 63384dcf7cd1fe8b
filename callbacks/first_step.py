"""The checks that cost next to nothing, on the first training step that a monitor sees."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.overrides import _get_current_function_mode

from lightning_adam.monitoring import Monitor
from lightning_adam.monitoring.guard import Guard
from lightning_adam.preflight.cheap import FirstStep, cheap_checks

WHOLE = ("DDPStrategy", "SingleDeviceStrategy", "DataParallelStrategy")
"""Strategies in which the module's parameters are those that the optimizer steps."""


class FirstStepChecks:
    """Records the calls of one ``training_step``, from the start of the first batch until its loss goes backward.

    Not with manual optimization, where the loss goes backward in the middle of the user's own contexts; not where
    something is compiled, which would be compiled twice; not in a run that is resumed.

    Args:
        guard: that catches what goes wrong; None where nothing is to be checked.
    """

    def __init__(self, guard: Guard | None = None) -> None:
        self._guard, self._watched = guard or Guard(), FirstStep()
        self._is_over, self._is_recording = guard is None, False
        self._batch: Any = None

    def begin(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        """A batch begins; only the first one is of interest."""
        if not self._is_over:
            self._is_over = True
            if _is_suitable(trainer, module):
                self._guard.run("the checks of the first step", self._record, batch)

    def _record(self, batch: Any) -> None:
        self._watched.begin(batch)
        self._batch, self._is_recording = batch, True

    def end(self, trainer: Trainer, module: LightningModule, monitor: Monitor) -> None:
        """The loss is there: what its making shows goes to the monitor."""
        if self._is_recording:
            self._guard.run("the checks of the first step", self._judge, trainer, module, monitor)

    def _judge(self, trainer: Trainer, module: LightningModule, monitor: Monitor) -> None:
        batch, self._batch, self._is_recording = self._batch, None, False
        step = self._watched.end()
        with torch.no_grad():
            monitor.know(cheap_checks(module, trainer.optimizers, batch, step))

    def stop(self) -> None:
        """The step gave no loss, or the run is over."""
        if self._is_recording:
            self._batch, self._is_recording = None, False
            self._guard.run("the checks of the first step", self._watched.end)


def _is_suitable(trainer: Trainer, module: LightningModule) -> bool:
    is_whole = type(trainer.strategy).__name__ in WHOLE
    return is_whole and module.automatic_optimization and trainer.global_step == 0 and not _compiles()


def _compiles() -> bool:
    """Whether anything has been compiled, or runs under somebody else's function mode."""
    import torch._dynamo.eval_frame as dynamo

    compiled = any(backend is not None for backend in dynamo.cached_backends.values())
    return compiled or _get_current_function_mode() is not None  # type: ignore[no-untyped-call]
