"""Preflight in two forked processes, of a module that talks to all ranks in its step: run by test_preflight_ranks.py.

python -m tests.run_preflight_ranks OUT_FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from lightning_adam.callbacks import Preflight
from tests.benchmarks.preflight.data import clusters, loader
from tests.benchmarks.preflight.parts import Learner, perceptron


class Talking(Learner):
    """Its step gathers outputs and sums the loss over all ranks, by Lightning's way and by torch's own."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Each rank waits here for all others."""
        x, y = batch
        output = self(x)
        self.all_gather(output.detach())
        total = output.detach().mean().clone()
        dist.all_reduce(total)
        return self.loss_of(output, y) + 0 * total


class Failing(Talking):
    """No batch is ever read on it."""

    def train_dataloader(self) -> Any:
        """Yields nothing, though its length is not 0."""
        return Hollow()


class Hollow:
    """Batches that are announced and do not come."""

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Any:
        return iter(())


def fit(module: L.LightningModule, callbacks: list[Any], data: Any = None) -> str:
    """In two processes; what they raise."""
    trainer = L.Trainer(
        accelerator="cpu", devices=2, strategy="ddp_fork", max_steps=4, callbacks=callbacks, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    try:
        trainer.fit(module, data)
    except Exception as error:
        return str(error)
    return ""


class Written(L.Callback):
    """What each rank has at the end."""

    def __init__(self, folder: Path, name: str, preflight: Preflight | None) -> None:
        self.folder, self.name, self.preflight = folder, name, preflight

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Weights and findings."""
        codes = [f.rule for f in self.preflight.report.findings] if self.preflight and self.preflight.report else []
        weights = torch.cat([p.detach().flatten() for p in pl_module.parameters()])
        content = {"codes": codes, "weights": weights.tolist(), "world": dist.get_world_size(), "rank": dist.get_rank()}
        (self.folder / f"{self.name}{trainer.global_rank}.json").write_text(json.dumps(content))


def main(folder: Path) -> None:
    """With and without; a fault; and an exception in the first process alone."""
    errors = {}
    for name, preflight in (("without", None), ("with", Preflight())):
        L.seed_everything(0, verbose=False)
        callbacks = [Written(folder, name, preflight)] + ([preflight] if preflight else [])
        net = Talking(perceptron(12, 4), lambda o, y: F.cross_entropy(o.relu(), y))
        errors[name] = fit(net, callbacks, loader(*clusters()))
    L.seed_everything(0, verbose=False)
    doubled = Talking(perceptron(12, 4), lambda o, y: F.cross_entropy(o.softmax(1), y))
    errors["raises"] = fit(doubled, [Preflight(raise_on="critical")], loader(*clusters()))
    errors["fails"] = fit(Failing(perceptron(12, 4), F.cross_entropy), [Preflight()])
    (folder / "errors.json").write_text(json.dumps(errors))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
