"""Both monitors under the modes of torch that change what every tensor is, or what an operation may do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from lightning_adam.callbacks import DivergenceMonitor, OptimizerMonitor
from tests.digits import Digits, digits_loader, trainer

Mode = Callable[[], Iterator[None]]


def default_dtype(dtype: torch.dtype) -> Mode:
    """What new tensors are made of."""

    def mode() -> Iterator[None]:
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)

    return mode


def deterministic() -> Iterator[None]:
    """Operations that have no deterministic kernel raise."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def anomalies() -> Iterator[None]:
    """Each operation is recorded; a NaN in a backward raises, so that it is left to the loss to show one."""
    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        yield


MODES: dict[str, Mode] = {
    "default float64": default_dtype(torch.float64),
    "default bfloat16": default_dtype(torch.bfloat16),
    "deterministic algorithms": deterministic,
    "anomaly detection": anomalies,
}


class InItsOwnDtype(Digits):
    """Takes the images as its weights are."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return super().training_step((batch[0].to(self.net[0].weight.dtype), batch[1]), batch_idx)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_every_step_is_logged_and_a_nan_stops_the_run(mode: Mode, tmp_path: Path) -> None:
    """Six logged steps, and a NaN in the seventh."""
    with contextmanager(mode)():
        logger = TensorBoardLogger(tmp_path, name="", version="run")
        monitor = DivergenceMonitor(on_divergence="stop")
        fit = trainer(max_steps=20, logger=logger, callbacks=[monitor, OptimizerMonitor(every_n_steps=1)])
        fit.fit(InItsOwnDtype(poison=(6,)), digits_loader())
    events = EventAccumulator(logger.log_dir, size_guidance={"tensors": 0}).Reload().Tensors("adam_matrix/update_ratio")

    assert monitor.failures == frozenset()
    assert fit.global_step == 7
    assert [f.rule for f in monitor.findings if f.severity == "critical"] == ["NON-FINITE"]
    assert [event.step for event in events][:6] == [*range(6)]
