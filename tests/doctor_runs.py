"""Logs for the doctor: real runs, and event files with a loss or a finding."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from lightning_adam.tensorboard import TensorBoardWriter
from tests.digits import Digits, digits_loader, trainer


class Plain(Digits):
    """Logs as people do: the loss, and the total gradient norm."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Log it."""
        loss = super().training_step(batch, batch_idx)
        self.log("train_loss", loss)
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Before clipping."""
        self.log("grad_norm", torch.nn.utils.get_total_norm([p.grad for p in self.parameters() if p.grad is not None]))


def train(module: Digits, logger: Any, callbacks: list[Any], **options: Any) -> None:
    """A real run that logs at every fifth step."""
    defaults = {"max_steps": 60, "log_every_n_steps": 5, "logger": logger, "callbacks": callbacks}
    trainer(**{**defaults, **options}).fit(module, digits_loader())


def event_run(folder: Path, loss: list[float], tag: str = "train_loss") -> Path:
    """A run that only has a loss, in an event file."""
    writer = SummaryWriter(folder)
    for step, value in enumerate(loss):
        writer.add_scalar(tag, value, step)
    writer.close()
    return folder


def finding_event(folder: Path, **changes: Any) -> Path:
    """A run with one finding that the live monitor wrote."""
    stored = {
        "rule": "NON-FINITE",
        "severity": "critical",
        "step": 3,
        "message": "the loss became NaN.",
        "evidence": {"loss": math.nan, "first": "loss"},
        "parameters": ["w"],
        "remedy": "Look at the batch.",
    }
    writer = SummaryWriter(folder)
    for at, value in enumerate(falling(10)):
        writer.add_scalar("train_loss", value, at)
    TensorBoardWriter(writer).write_events(3, [stored | changes])
    writer.close()
    return folder


def falling(count: int = 60) -> list[float]:
    """A healthy loss."""
    return [2.3 * math.exp(-step / 30) + 0.1 for step in range(count)]
