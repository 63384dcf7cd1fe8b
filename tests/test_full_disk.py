"""A disk that is full: training goes on to its end, and what can be written again is."""

from __future__ import annotations

import logging
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn

from lightning_adam.callbacks import DivergenceMonitor, OptimizerMonitor
from lightning_adam.doctor.evidence import recorded
from lightning_adam.doctor.sources import read_runs
from lightning_adam.integrations.loop_run import LoopRun
from tests.digits import Digits, digits_loader, trainer

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


def largest_file(folder: Path) -> int:
    """Bytes."""
    return max((file.stat().st_size for file in folder.rglob("*") if file.is_file()), default=0)


@contextmanager
def may_restore_limit() -> Iterator[None]:
    """No signal at a file's limit but an error, as on a full disk; all as before afterwards."""
    limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)


class Full(Callback):
    """From one step on no file gets longer than the longest is, up to another."""

    def __init__(self, folder: Path, begin: int, end: int) -> None:
        self.folder, self.begin, self.end = folder, begin, end

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        """A soft limit may be lifted again."""
        if trainer.global_step in (self.begin, self.end):
            soft = largest_file(self.folder) + 3000 if trainer.global_step == self.begin else resource.RLIM_INFINITY
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))


def train_on_full_disk(logger: Any, folder: Path, end: int) -> tuple[Digits, OptimizerMonitor]:
    """Sixty steps, each logged."""
    module, monitor = Digits(poison=(50,)), OptimizerMonitor(1)
    callbacks = [monitor, DivergenceMonitor("skip_step"), Full(folder, 20, end)]
    with may_restore_limit():
        trainer(max_steps=60, callbacks=callbacks, logger=logger).fit(module, digits_loader())
    return module, monitor


@pytest.mark.parametrize("kind", [TensorBoardLogger, CSVLogger])
def test_full_disk_ends_no_fit(kind: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither at a step nor when the logger is closed; what is lost is told, each part once."""
    with caplog.at_level(logging.WARNING, logger="lightning_adam"):
        module, monitor = train_on_full_disk(kind(tmp_path), tmp_path, end=10_000)

    assert len(module.losses) == 60
    assert any("Sink" in part for part in monitor.failures)
    told = [r.getMessage() for r in caplog.records if "File too large" in r.getMessage()]
    assert told and len(told) == len(set(told))


def test_run_that_cannot_be_saved_stops_all_the_same(tmp_path: Path) -> None:
    """And says so: in a Trainer, and in a loop."""
    monitor = DivergenceMonitor("stop")
    with may_restore_limit():
        fit = trainer(max_steps=60, callbacks=[monitor, Full(tmp_path, 20, 10_000)], default_root_dir=tmp_path)
        fit.fit(Digits(poison=(30,)), digits_loader())

    assert fit.global_step == 31 and not (tmp_path / "adam_stopped_step_31.ckpt").exists()
    assert "stopped at step 31, but nothing could be saved in" in monitor.findings[-1].message

    run = LoopRun(nn.Linear(60, 60), (), None, None, None, 50, 1, None)
    run.folder, run.steps = tmp_path, [8]
    with may_restore_limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        told = run.stop()
    assert run.should_stop and "stop at step 9" in told and "nothing could be saved in" in told


def test_what_follows_a_full_disk_is_logged(tmp_path: Path) -> None:
    """TensorBoard's writer never writes again after an error: a new file is begun, and the doctor reads both."""
    train_on_full_disk(TensorBoardLogger(tmp_path), tmp_path, end=40)
    (run,) = read_runs(tmp_path)

    assert len(list(tmp_path.rglob("*tfevents*"))) > 1
    assert [int(run.scalars["adam/log10_lr"].steps[-1]), recorded(run, "adam")[-1].step] == [59, 59]  # type: ignore[union-attr]
