"""Runs whose learning rates are compared: the helper's schedule, and torch's own scheduler on torch's own optimizer."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_adam as la
from tests.digits import trainer

EPOCH = 8
"""Batches of an epoch."""


def loader(batches: int = EPOCH) -> DataLoader[Any]:
    """A line to learn, four examples a batch."""
    inputs = torch.linspace(-1, 1, 4 * batches * 8).view(-1, 8)
    return DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), 4)


class Net(L.LightningModule):
    """A backbone and a head; ``options`` are the helper's."""

    def __init__(self, lr: float = 1e-2, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone, self.head = nn.Linear(8, 8), nn.Linear(8, 1)
        self.lr, self.options = lr, options

    def forward(self, inputs: Tensor) -> Tensor:
        """One number."""
        out: Tensor = self.head(torch.relu(self.backbone(inputs)))
        return out

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """The squared error."""
        return nn.functional.mse_loss(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        """One call."""
        return la.configure_optimizers(self, lr=self.lr, **self.options)


class Control(Net):
    """torch's scheduler, stepped after each update: ``make`` makes it for the optimizer."""

    def __init__(self, make: Any, lr: float = 1e-2) -> None:
        super().__init__(lr)
        self.make = make

    def configure_optimizers(self) -> Any:
        """Plain torch."""
        optimizer = torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=self.lr)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.make(optimizer), "interval": "step"}}


class Recorder(L.Callback):
    """The rates that each update used: of the first and of the last group."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen to every optimizer."""
        self.used: list[list[list[float]]] = [[] for _ in trainer.optimizers]
        for optimizer, used in zip(trainer.optimizers, self.used, strict=True):
            optimizer.register_step_post_hook(
                lambda o, a, k, used=used: used.append([float(o.param_groups[i]["lr"]) for i in (0, -1)])
            )


def fit(module: L.LightningModule, train: Any = None, validation: Any = None, **options: Any) -> list[list[float]]:
    """The rates of the first optimizer's updates; ``train=False`` where the module has its own loader."""
    return fit_all(module, train, validation, **options)[0]


def fit_all(module: L.LightningModule, train: Any = None, validation: Any = None, **options: Any) -> list[list[list[float]]]:
    """The rates of each optimizer's updates."""
    seen, checkpoint = Recorder(), options.pop("ckpt_path", None)
    run = trainer(**{**options, "callbacks": [*options.get("callbacks", []), seen]})
    data = () if train is False else (loader() if train is None else train,)
    run.fit(module, *data, val_dataloaders=validation, ckpt_path=checkpoint)
    return seen.used
