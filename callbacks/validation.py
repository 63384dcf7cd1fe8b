"""What validation logs as its loss, on its way to the rules."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lightning.pytorch import Trainer

from lightning_adam.monitoring.guard import Guard
from lightning_adam.monitoring.validation import loss_among

if TYPE_CHECKING:
    from lightning_adam.monitoring import Monitor


class ValidationLosses:
    """Handed over as they come; that of Lightning's check before training when training begins."""

    def __init__(self) -> None:
        self._untrained = math.nan

    def take(self, trainer: Trainer, monitor: Monitor | None) -> None:
        """Validation is over: nothing is evaluated again, what was logged is read."""
        guard = Guard() if monitor is None else monitor.guard
        loss = guard.value("validation's loss", math.nan, loss_among, trainer.callback_metrics)
        if trainer.sanity_checking:
            self._untrained = loss
        elif monitor is not None and math.isfinite(loss):
            monitor.validated(loss)

    def begin(self, monitor: Monitor | None) -> None:
        """Training begins."""
        untrained, self._untrained = self._untrained, math.nan
        if monitor is not None and math.isfinite(untrained):
            monitor.validated(untrained)
