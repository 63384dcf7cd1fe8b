"""What a Trainer's loggers take: the sinks of the monitors, and the hyper-parameters that runs are sorted by."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_adam.callbacks._lightning import hyperparameters_of_user, optimizers_of
from lightning_adam.describe import hyperparameters
from lightning_adam.monitoring import Sink
from lightning_adam.monitoring.guard import Guard
from lightning_adam.monitoring.signals import signals_wait
from lightning_adam.sinks import merged_hyperparameters, sinks_of


def guarded_sinks(trainer: Trainer) -> list[Sink]:
    """Of all loggers on the main rank; one that fails to open loses itself only."""
    found: list[Sink] = []
    for logger in trainer.loggers if trainer.is_global_zero else ():
        Guard().run(f"the log of {type(logger).__name__}", _open, logger, found)
    return found


def _open(logger: Any, found: list[Sink]) -> None:
    found += sinks_of([logger])


def log_hyperparameters(trainer: Trainer, module: LightningModule) -> None:
    """Of all optimizers, to every logger that sorts runs by them, together with the user's: TensorBoard takes them once.

    Lightning logs the user's right after ``on_fit_start``.
    """
    if not (trainer.is_global_zero and getattr(trainer, "enable_autolog_hparams", True)):
        return
    theirs = hyperparameters_of_user(trainer, module)
    values = merged_hyperparameters(theirs, hyperparameters(optimizers_of(trainer)))
    with signals_wait():
        for sink in guarded_sinks(trainer):
            sink.hyperparameters(values, trainer_follows=bool(theirs))
