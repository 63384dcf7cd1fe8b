"""Two DDP processes of which one alone has a NaN loss, once for each action: run by test_distributed.py.

python -m tests.run_actions FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from lightning_adam.callbacks import DivergenceMonitor
from tests.digits import Digits, digits_loader, trainer
from tests.run_distributed import strategy

ACTIONS = ("stop", "rollback", "skip_step")


class OneSided(Digits):
    """Rank 1 has a NaN loss at step 30."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """All ranks get its gradient."""
        sick = self.global_rank == 1 and self.global_step == 30
        return super().training_step(batch, batch_idx) * (torch.nan if sick else 1.0)


def result(action: str, folder: Path) -> dict[str, Any]:
    """What this rank ended with."""
    module, monitor = OneSided(total_steps=50), DivergenceMonitor(on_divergence=action)
    logger = TensorBoardLogger(folder, name=action)
    options: dict[str, Any] = {"max_steps": 50, "use_distributed_sampler": False, "logger": logger, "callbacks": [monitor]}
    fit = trainer(**options, **strategy("ddp"))
    fit.fit(module, digits_loader())
    return {
        "steps": fit.global_step,
        "finite": all(bool(torch.isfinite(p).all()) for p in module.parameters()),
        "actions": [f.message for f in monitor.findings if f.message.startswith(action)],
        "weights": float(sum(p.double().sum() for p in module.parameters())),
        "rank": fit.global_rank,
    }


def main(folder: Path) -> None:
    """One file per rank."""
    torch.set_num_threads(1)
    results = {action: result(action, folder) for action in ACTIONS}
    (folder / f"rank{results['stop']['rank']}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
