"""``lightning`` and ``pytorch_lightning`` are two packages with classes of their own: everything works in both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import pytorch_lightning as PL
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from pytorch_lightning.loggers import TensorBoardLogger as OldTensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

import lightning_adam as la
from lightning_adam.callbacks import DivergenceMonitor, OptimizerMonitor
from tests.digits import digits_loader

PACKAGES: dict[str, tuple[Any, Any]] = {"lightning": (L, TensorBoardLogger), "pytorch_lightning": (PL, OldTensorBoardLogger)}


def classifier(base: type, optimizer: str) -> Any:
    """The same module on either base class."""

    class Classifier(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Linear(64, 10)

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return la.configure_optimizers(self, optimizer, schedule="linear", warmup=4)

    return Classifier()


@pytest.mark.parametrize("optimizer", ["adamw", "adamz", "schedulefree_adamw"])
@pytest.mark.parametrize("package", PACKAGES)
def test_helper_monitors_and_companions_work(package: str, optimizer: str, tmp_path: Path) -> None:
    """A module, trainer and logger of that package: schedules run, companions attach, our tags are written."""
    pl, logger_type = PACKAGES[package]
    module = classifier(pl.LightningModule, optimizer)
    if optimizer == "schedulefree_adamw":
        module.configure_optimizers = lambda: la.configure_optimizers(module, optimizer, warmup=4)
    logger = logger_type(tmp_path, name="", version="run")
    fit = pl.Trainer(
        max_steps=12,
        accelerator="cpu",
        logger=logger,
        log_every_n_steps=4,
        callbacks=[OptimizerMonitor(), DivergenceMonitor()],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    fit.fit(module, digits_loader())

    scalars = EventAccumulator(logger.log_dir).Reload().Scalars("adam/log10_lr")
    assert [event.step for event in scalars] == [3, 7, 11]
    assert fit.optimizers[0].adam_schedule.last_epoch == 12
