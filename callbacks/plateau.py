"""Lets the plateau schedule look at its metric whenever that is new. The helper attaches it."""

from __future__ import annotations

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_adam.errors import ConfigError
from lightning_adam.plateau import PlateauSchedule


class PlateauWatch(Callback):
    """After each validation, wherever they are; after each epoch where there is none, or the metric is a training one.

    Lightning's own interval looks at the end of epochs: in between, under manual optimization and with endless data it
    would see no validation, or one twice.
    """

    def __init__(self) -> None:
        self._watched: list[tuple[PlateauSchedule, str]] = []

    def expect(self, schedule: PlateauSchedule, monitor: str) -> None:
        """The helper has made an optimizer that is to watch this metric."""
        schedule.is_watched = True
        self._watched.append((schedule, monitor))

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Its metrics are complete."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._look(trainer, after_validation=True)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The training metrics are complete."""
        self._look(trainer, after_validation=False)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Hold nothing after the run."""
        self._watched = []

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hold nothing after the run."""
        self._watched = []

    def _look(self, trainer: Trainer, after_validation: bool) -> None:
        for schedule, monitor in self._watched:
            if schedule.is_watched and after_validation == (trainer.enable_validation and "train" not in monitor):
                schedule.looks += 1
                if schedule.looks % _frequency(trainer, schedule) == 0:
                    schedule.look(_value(trainer, monitor))


def _frequency(trainer: Trainer, schedule: PlateauSchedule) -> int:
    """As the user has it in Lightning's dict."""
    return next((c.frequency for c in trainer.lr_scheduler_configs if c.scheduler is schedule), 1)


def _value(trainer: Trainer, monitor: str) -> float:
    """The metric, the same on all ranks.

    Raises:
        ConfigError: it was not logged.
    """
    if monitor not in trainer.callback_metrics:
        logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
        raise ConfigError(
            f"schedule='plateau' watches monitor={monitor!r}, which was not logged up to here (logged: {logged}). Log it "
            f"with self.log({monitor!r}, ...) in validation_step, or name one of those with monitor=."
        )
    value = torch.as_tensor(trainer.callback_metrics[monitor], dtype=torch.float32, device=trainer.strategy.root_device)
    return float(trainer.strategy.reduce(value, reduce_op="mean"))
