"""Trains digits on two CPU processes (or one) with every clipping rule, watched: run by test_distributed.py.

Writes the weights, and what the monitor could not do.

python -m tests.run_distributed ddp|fsdp2|single OUT.pt
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

import lightning_adam as la
from lightning_adam.callbacks import DivergenceMonitor
from tests.digits import Digits, digits_loader, trainer

RULES: dict[str, Any] = {
    "norm": lambda: la.ClipNorm(0.2),
    "value": lambda: la.ClipValue(0.01),
    "adaptive": lambda: la.ClipAdaptive(0.02),
    "zclip": lambda: la.ZClip(z=0.5, warmup=3),
    "percentile": lambda: la.ClipPercentile(20.0),
}


class Sharded(Digits):
    """Its layers are sharded where the strategy has a mesh."""

    failed: list[str]

    def configure_model(self) -> None:
        """FSDP2 on each linear layer."""
        if self.device_mesh is None or hasattr(self.net[0].weight, "to_local"):
            return
        from torch.distributed.fsdp import fully_shard

        for layer in (self.net[0], self.net[2]):
            fully_shard(layer, mesh=self.device_mesh["data_parallel"])

    def on_train_end(self) -> None:
        """All ranks take part in putting the weights together."""
        self.final = {n: getattr(p, "full_tensor", lambda p=p: p)().detach().clone() for n, p in self.named_parameters()}


def strategy(kind: str) -> dict[str, Any]:
    """The trainer's options."""
    if kind == "single":
        return {}
    fsdp2 = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    return {"devices": 2, "strategy": fsdp2 if kind == "fsdp2" else DDPStrategy(process_group_backend="gloo")}


def train(kind: str, rule: Any, folder: Path) -> Sharded:
    """Twelve steps on the same batches in every process."""
    module = Sharded(clip=rule, weight_decay=0.1, warmup=3)
    monitor = DivergenceMonitor()
    logger = TensorBoardLogger(folder, name=kind)
    options = {"max_steps": 12, "use_distributed_sampler": False, "logger": logger, "callbacks": [monitor]}
    fit = trainer(**options, **strategy(kind))
    fit.fit(module, digits_loader())
    module.failed = sorted(monitor.failures)
    return module


def main(kind: str, out: Path) -> None:
    """All rules in turn."""
    torch.set_num_threads(1)
    results = {name: train(kind, make(), out.parent) for name, make in RULES.items()}
    if next(iter(results.values())).trainer.is_global_zero:
        failed = sorted({name for module in results.values() for name in module.failed})
        torch.save({**{name: module.final for name, module in results.items()}, "failed": failed}, out)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
