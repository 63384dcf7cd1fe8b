"""A run with both monitors that is ended from outside, or resumed: a child process of test_killed_runs.py.

python -m tests.run_killed FOLDER LAST_STEP
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_adam.callbacks import DivergenceMonitor, OptimizerMonitor
from tests.digits import Digits, digits_loader, trainer


class Paced(Callback):
    """Tells whoever waits how far it is, and leaves it the time to act."""

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        """One line per step."""
        print(trainer.global_step, flush=True)
        time.sleep(0.01)


def main(folder: Path, last_step: int) -> None:
    """Goes on from the last checkpoint, if there is one."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    saved = ModelCheckpoint(folder / "checkpoints", every_n_train_steps=10, save_last=True, save_top_k=1)
    monitor = DivergenceMonitor()
    logger = TensorBoardLogger(folder, name="log", version=f"until_{last_step}")
    options: dict[str, Any] = {"logger": logger, "enable_checkpointing": True, "log_every_n_steps": 1, "max_epochs": -1}
    fit = trainer(max_steps=last_step, callbacks=[OptimizerMonitor(1), monitor, saved, Paced()], **options)
    last = folder / "checkpoints" / "last.ckpt"
    fit.fit(Digits(total_steps=400), digits_loader(), ckpt_path=last if last.exists() else None)
    print("ended", fit.global_step, sorted(monitor.failures), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
