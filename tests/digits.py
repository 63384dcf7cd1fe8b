"""scikit-learn's handwritten digits in a small Lightning module: real data that needs no download."""

from __future__ import annotations

import functools
from typing import Any

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_adam as la


def digits_loader(batch_size: int = 64, examples: int = 1792) -> DataLoader[Any]:
    """Digits scaled to [0, 1], always in the same order; the tensors are the caller's own."""
    images, labels = (part[:examples].clone() for part in _digits())
    return DataLoader(InBatches(images, labels), batch_size, collate_fn=list)


class InBatches(TensorDataset):
    """Examples that a loader with ``collate_fn=list`` takes a batch at a time: one by one they take four times as long."""

    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        """The batch."""
        return [tensor[indices] for tensor in self.tensors]


@functools.cache
def _digits() -> tuple[Tensor, Tensor]:
    """Read once: scikit-learn takes 30 ms to parse its file, and some tests ask a hundred times."""
    data = load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)


class Digits(L.LightningModule):
    """A two-layer classifier whose optimizer the helper makes.

    Args:
        poison: steps at which the loss is multiplied (by ``poison_factor``).
        poison_factor: what by.
        options: for ``la.configure_optimizers``.
    """

    def __init__(self, poison: tuple[int, ...] = (), poison_factor: float = float("nan"), **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        self.poison, self.poison_factor, self.options = poison, poison_factor, options
        self.losses: list[float] = []
        self.seen = 0

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy."""
        images, labels = batch
        loss = nn.functional.cross_entropy(self.net(images), labels)
        if self.seen in self.poison:
            loss = loss * self.poison_factor
        self.seen += 1
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> Any:
        """One call."""
        return la.configure_optimizers(self, **{"lr": 3e-3, **self.options})


def trainer(**options: Any) -> L.Trainer:
    """A quiet CPU trainer."""
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": False,
        "max_epochs": -1,
    }
    return L.Trainer(**{**quiet, **options})
