"""The checks that cost next to nothing, on the first training step that a monitor sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.overrides import _get_current_function_mode

from lightning_adam.monitoring.guard import Guard

if TYPE_CHECKING:
    from lightning_adam.monitoring import Monitor
    from lightning_adam.preflight.cheap import FirstStep

WHOLE = ("DDPStrategy", "SingleDeviceStrategy", "DataParallelStrategy")
"""Strategies in which the module's parameters are those that the optimizer steps."""


class FirstStepChecks:
    """Records the calls of one ``training_step``, from the start of the first batch until its loss goes backward.

    With manual optimization the loss goes backward in the middle of the user's own contexts, and where something is
    compiled, it would be compiled twice: there the first loss alone is looked at, by its autograd graph. In a run that is
    resumed nothing is.

    Args:
        guard: that catches what goes wrong; None where nothing is to be checked.
    """

    def __init__(self, guard: Guard | None = None) -> None:
        self._guard, self._is_over = guard or Guard(), guard is None
        self._watched: FirstStep | None = None  # while it records
        self._batch: Any = None
        self._reads_graph = False

    def begin(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        """A batch begins; only the first one is of interest."""
        if not self._is_over:
            self._is_over = True
            self._reads_graph = _is_whole(trainer) and not _is_suitable(module)
            if _is_whole(trainer) and _is_suitable(module):
                self._guard.run("the checks of the first step", self._record, batch)

    def _record(self, batch: Any) -> None:
        from lightning_adam.preflight.cheap import FirstStep

        watched = FirstStep()
        watched.begin(batch)
        self._batch, self._watched = batch, watched

    def end(self, trainer: Trainer, module: LightningModule, monitor: Monitor, loss: Tensor) -> None:
        """The loss is there: what its making shows goes to the monitor."""
        if self._watched is not None or self._reads_graph:
            self._guard.run("the checks of the first step", self._judge, trainer, module, monitor, loss)

    def _judge(self, trainer: Trainer, module: LightningModule, monitor: Monitor, loss: Tensor) -> None:
        from lightning_adam.preflight.cheap import first_step_of
        from lightning_adam.preflight.graph import step_of

        watched, batch = self._watched, self._batch
        self._batch, self._watched, self._reads_graph = None, None, False
        step = step_of(loss) if watched is None else watched.end()
        with torch.no_grad():
            monitor.know(first_step_of(module, trainer.optimizers, batch, step, loss))

    def stop(self) -> None:
        """The step gave no loss, or the run is over."""
        if (watched := self._watched) is not None:
            self._batch = self._watched = None
            self._guard.run("the checks of the first step", watched.end)


def _is_whole(trainer: Trainer) -> bool:
    return type(trainer.strategy).__name__ in WHOLE and trainer.global_step == 0


def _is_suitable(module: LightningModule) -> bool:
    return module.automatic_optimization and not _compiles()


def _compiles() -> bool:
    """Whether anything has been compiled, or runs under somebody else's function mode."""
    import torch._dynamo.eval_frame as dynamo

    compiled = any(backend is not None for backend in dynamo.cached_backends.values())
    return compiled or _get_current_function_mode() is not None  # type: ignore[no-untyped-call]
