"""SLURM jobs that are told in mid-run that their time is nearly over: a child process of test_requeued_runs.py.

python -m tests.run_requeued FOLDER [PLACE...]

For each place in a step, a job in a folder of that name sends itself SIGUSR1 there, which Lightning answers with a
checkpoint and a requeue, and SIGTERM some steps later; then the requeued job goes on, and a line says how it went. Without a
place there is one job that prints its steps and waits for signals from outside.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.environments import SLURMEnvironment

from lightning_adam.callbacks import DivergenceMonitor, OptimizerMonitor
from tests.digits import Digits, digits_loader, trainer

WARNED, ENDED, LAST = 12, 16, 30
"""The steps at which SIGUSR1 and SIGTERM come, and how many the requeued job has."""


class Signalled(Callback):
    """Stands for SLURM, whose signal comes wherever the program happens to be."""

    def __init__(self, place: str) -> None:
        self.due = {(place, WARNED): signal.SIGUSR1, ("the batch's end", ENDED): signal.SIGTERM}

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Right before the optimizer's step, right after it, and while an event is handed to the thread that writes it."""
        optimizer, events = trainer.optimizers[0], trainer.logger.experiment._get_file_writer().event_writer
        optimizer.register_step_pre_hook(lambda *_: self._at("before the step", trainer.global_step))
        optimizer.register_step_post_hook(lambda *_: self._at("after the step", trainer.global_step))
        waiting = events._async_writer._byte_queue
        waiting.put = _then(waiting.put, lambda: self._at("a write to the log", trainer.global_step))

    def on_before_backward(self, trainer: Any, module: Any, loss: Any) -> None:
        """Nothing of this step is done."""
        self._at("the backward", trainer.global_step)

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        """All of it is."""
        self._at("the batch's end", trainer.global_step)

    def _at(self, place: str, step: int) -> None:
        if (number := self.due.pop((place, step), None)) is not None:
            os.kill(os.getpid(), number)


class Paced(Callback):
    """Tells whoever waits how far it is, and leaves it the time to act."""

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        """One line per step."""
        print(trainer.global_step, flush=True)
        time.sleep(0.01)


def _then(function: Callable[..., None], first: Callable[[], None]) -> Callable[..., None]:
    def both(*args: Any) -> None:
        first()
        function(*args)

    return both


def job(folder: Path, last_step: int, *others: Callback) -> None:
    """Goes on from SLURM's own checkpoint where there is one: Lightning looks for it."""
    monitor, logger = DivergenceMonitor(), TensorBoardLogger(folder, name="log")
    options: dict[str, Any] = {"logger": logger, "log_every_n_steps": 1, "default_root_dir": folder}
    callbacks = [*others, OptimizerMonitor(1), monitor]
    fit = trainer(max_steps=last_step, callbacks=callbacks, plugins=[SLURMEnvironment(auto_requeue=True)], **options)
    fit.fit(Digits(total_steps=400), digits_loader())
    found = [finding.rule for finding in monitor.findings if finding.severity != "info"]
    print(f"{folder.name}: ended {fit.global_step} {sorted(monitor.failures)} {found}", flush=True)


def main(folder: Path, *places: str) -> None:
    """One job after the other."""
    torch.set_num_threads(1)
    if not places:
        job(folder, 200, Paced())
    for place in places:
        try:
            job(folder / place, LAST, Signalled(place))
        except SystemExit:  # Lightning's answer to SIGTERM
            job(folder / place, LAST)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
