"""Trains digits with every optimizer of the catalogue on two CPU processes that see other batches: run by
test_distributed.py.

Writes by how much the weights of the two differ, and how far they moved.

python -m tests.run_replicas OUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, distributed, nn

import lightning_adam as la
from tests.digits import Digits, digits_loader, trainer


class PerRank(Digits):
    """Its loss is rank 1's in another size, so that whatever follows one rank's loss drifts apart at once."""

    def __init__(self, name: str) -> None:
        options = {"patience": 4, "stagnation_period": 2} if name == "adamz" else {}
        super().__init__(optimizer=name, lr=None, warmup=0, **options)
        self.net = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Rank 1 has twice the loss, and more of it with each batch."""
        return super().training_step(batch, batch_idx) * (1 + self.global_rank * (1 + batch_idx))

    def on_train_end(self) -> None:
        """While the two can still talk."""
        mine = torch.cat([p.detach().flatten() for p in self.parameters()])
        both = [torch.empty_like(mine) for _ in range(2)]
        distributed.all_gather(both, mine)
        self.apart = float((both[0] - both[1]).abs().max())


def train(name: str) -> dict[str, float]:
    """Eight steps; a sampler gives each rank its own batches."""
    torch.manual_seed(0)
    module = PerRank(name)
    start = module.net[0].weight.detach().clone()
    strategy = DDPStrategy(process_group_backend="gloo")
    trainer(max_steps=8, devices=2, strategy=strategy, num_sanity_val_steps=0).fit(module, digits_loader())
    return {"apart": module.apart, "moved": float((module.net[0].weight.detach() - start).norm())}


def main(out: Path) -> None:
    """All optimizers in turn."""
    torch.set_num_threads(1)
    found = {row.name: train(row.name) for row in la.available_optimizers()}
    if distributed.get_rank() == 0:
        out.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
