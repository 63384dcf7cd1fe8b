"""Trains the same small model on one process or on two: ``python -m tests.sharded_run FOLDER MODE…``.

With two, start it twice as torchrun does (RANK, WORLD_SIZE, …): the processes share one gloo group.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_adam as la
from lightning_adam.callbacks import OptimizerMonitor
from lightning_adam.statistics import (
    copy_parameters,
    flat_shards,
    is_sharded,
    read_optimizer,
    take_sharded_snapshot,
    take_snapshot,
)
from tests.digits import trainer

STEPS, BATCH = 6, 32


class Scale(nn.Module):
    """One number that its input is multiplied by."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))

    def forward(self, inputs: Tensor) -> Tensor:
        """Scales."""
        return inputs * self.factor


class Model(L.LightningModule):
    """Large and small matrices, rows that two ranks cannot share evenly, and a scalar that only one can hold."""

    def __init__(self, optimizer: str, sharded: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.scale = nn.Linear(64, 97), nn.Linear(97, 5), Scale()
        self.optimizer, self.sharded = optimizer, sharded

    def configure_model(self) -> None:
        """FSDP2 shards each layer."""
        if self.sharded:
            from torch.distributed.fsdp import fully_shard

            mesh = self.device_mesh["data_parallel"]  # type: ignore[index]
            for module in (self.one, self.two, self.scale):
                fully_shard(module, mesh=mesh)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Squares: every parameter gets a gradient."""
        return ((self.scale(self.two(torch.tanh(self.one(batch[0])))) - batch[1]) ** 2).mean()

    def train_dataloader(self) -> DataLoader[Any]:
        """In order, the same examples per step however many processes share them."""
        generator = torch.Generator().manual_seed(1)
        rank, world = self.trainer.global_rank, self.trainer.world_size
        inputs = torch.randn(STEPS * BATCH, 64, generator=generator)[rank::world]
        return DataLoader(TensorDataset(inputs, inputs[:, :5].sin()), BATCH // world)

    def configure_optimizers(self) -> Any:
        """One call."""
        return la.configure_optimizers(self, self.optimizer, lr=1e-2, weight_decay=0.1, warmup=2, clip=0.5, total_steps=20)


class Weights(L.Callback):
    """Saves the whole weights at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """All ranks gather, rank zero writes."""
        whole = {
            name: p.detach().full_tensor() if hasattr(p, "full_tensor") else p.detach()
            for name, p in pl_module.named_parameters()
        }
        if trainer.is_global_zero:
            torch.save(whole, self.path)


def run(folder: Path, mode: str) -> None:
    """``single``, ``ddp`` or ``fsdp2``, then the optimizer's name, as in ``ddp-adamw``; ``bare`` without monitors."""
    strategy, optimizer, *rest = mode.split("-")
    logger = TensorBoardLogger(folder, name="", version=mode)
    watchers = [] if rest else [OptimizerMonitor(2)]
    chosen: dict[str, Any] = {}
    if strategy == "ddp":
        chosen = {"devices": 2, "strategy": "ddp"}
    if strategy == "fsdp2":
        chosen = {"devices": 2, "strategy": ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)}
    callbacks = [*watchers, Weights(folder / f"{mode}.pt")]
    chosen |= {"use_distributed_sampler": False}
    trainer(max_steps=STEPS, logger=logger, callbacks=callbacks, **chosen).fit(Model(optimizer, strategy == "fsdp2"))
    assert [watcher.failures for watcher in watchers] == [set()] * len(watchers)


def run_flat(folder: Path, world: int) -> None:
    """FSDP1 with ``use_orig_params`` in plain torch (Lightning's strategy refuses a CPU), or the same on one process."""
    import torch.distributed as dist
    from torch.distributed.fsdp import FullyShardedDataParallel

    rank = dist.get_rank() if world > 1 else 0
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(nn.Linear(64, 97), nn.Tanh(), nn.Linear(97, 5))
    names = [name for name, _ in model.named_parameters()]
    if world > 1:
        model = FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    by_identity = dict(zip(map(id, model.parameters()), names, strict=True))
    inputs = torch.randn(STEPS * BATCH, 64, generator=torch.Generator().manual_seed(1))[rank::world]
    for batch in inputs.split(BATCH // world):
        optimizer.zero_grad()
        ((model(batch) - batch[:, :5].sin()) ** 2).mean().backward()
        optimizer.step()
    shards = flat_shards(optimizer) if world > 1 else None
    readings = read_optimizer(optimizer, by_identity, None, None, shards)
    snapshot = (take_sharded_snapshot if world > 1 else take_snapshot)(0, readings)
    if rank == 0:
        torch.save({"names": snapshot.names, "table": torch.from_numpy(snapshot.table)}, folder / f"flat{world}.pt")


def run_mixed(folder: Path, world: int) -> None:
    """DTensors cut by rows, cut by columns, and whole on every rank, under one optimizer; or the same uncut."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    placements = (Shard(0), Shard(1), Replicate())
    mesh = init_device_mesh("cpu", (2,)) if world > 1 else None

    def placed(tensors: list[Tensor]) -> list[Tensor]:
        if mesh is None:
            return tensors
        return [distribute_tensor(t, mesh, [how]) for t, how in zip(tensors, placements, strict=True)]

    torch.manual_seed(0)
    shapes = ((7, 10), (6, 9), (5, 4))
    parameters = [nn.Parameter(t) for t in placed([torch.randn(shape) for shape in shapes])]
    optimizer = torch.optim.RMSprop(parameters, lr=1e-2, foreach=False)
    for _ in range(3):
        before = copy_parameters(optimizer)
        for parameter, gradient in zip(parameters, placed([torch.randn(shape) for shape in shapes]), strict=True):
            parameter.grad = gradient
        optimizer.step()
    readings = read_optimizer(optimizer, {id(p): str(i) for i, p in enumerate(parameters)}, before)
    assert is_sharded(optimizer) == (world > 1)
    snapshot = (take_sharded_snapshot if world > 1 else take_snapshot)(0, readings)
    if world == 1 or dist.get_rank() == 0:
        found = {"table": torch.from_numpy(snapshot.table), "histograms": torch.from_numpy(snapshot.histograms)}
        torch.save({"names": snapshot.names, **found}, folder / f"mixed{world}.pt")


PLAIN_TORCH = {"flat": run_flat, "mixed": run_mixed}


if __name__ == "__main__":
    for name in sys.argv[2:]:
        PLAIN_TORCH[name](Path(sys.argv[1]), 2) if name in PLAIN_TORCH else run(Path(sys.argv[1]), name)
