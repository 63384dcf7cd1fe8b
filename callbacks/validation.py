"""What validation logs as its loss, on its way to the rules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer

from lightning_adam.monitoring.guard import Guard
from lightning_adam.monitoring.validation import loss_among

if TYPE_CHECKING:
    from lightning_adam.monitoring import Monitor


class ValidationLosses:
    """Handed over as they come; that of Lightning's check before training when training begins."""

    def __init__(self) -> None:
        self._untrained = math.nan
        self._before: dict[str, Any] = {}

    def start(self, trainer: Trainer) -> None:
        """Validation starts: what is logged by now is of an earlier one, or of training."""
        self._before = Guard().value("validation's loss", {}, lambda: dict(trainer.callback_metrics))

    def take(self, trainer: Trainer, monitor: Monitor | None) -> None:
        """Validation is over: nothing is evaluated again, what was logged is read."""
        guard, before = Guard() if monitor is None else monitor.guard, self._before
        self._before = {}
        loss = guard.value("validation's loss", math.nan, lambda: loss_among(_new(trainer.callback_metrics, before)))
        if trainer.sanity_checking:
            self._untrained = loss
        elif monitor is not None and math.isfinite(loss):
            monitor.validated(loss)

    def begin(self, monitor: Monitor | None) -> None:
        """Training begins."""
        untrained, self._untrained = self._untrained, math.nan
        if monitor is not None and math.isfinite(untrained):
            monitor.validated(untrained)


def _new(metrics: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Lightning keeps all that a fit has logged: what this validation did not log is the object that it was before."""
    return {name: value for name, value in metrics.items() if value is not before.get(name)}
