"""A job outlives its terminal: what would be printed then is lost, and nothing else."""

from __future__ import annotations

import errno
import io
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lightning_adam as la
from lightning_adam.callbacks import DivergenceMonitor, Preflight
from lightning_adam.monitoring.monitor import Monitor
from tests.digits import Digits, digits_loader, trainer


class Gone(io.StringIO):
    """What a process has for a terminal whose window was closed."""

    def write(self, text: str) -> int:
        """As the kernel answers."""
        raise OSError(errno.EIO, "Input/output error")


def loop(watch: la.Watch, module: nn.Module, optimizer: Any, steps: int) -> None:
    """The last loss is NaN."""
    for step in range(steps):
        optimizer.zero_grad()
        loss = (module(torch.randn(8, 4)) - 1).square().mean() * (1.0 if step < steps - 1 else float("nan"))
        watch.loss(loss).backward()
        optimizer.step()


def made() -> tuple[nn.Module, torch.optim.Optimizer]:
    """A small model."""
    module = nn.Linear(4, 1)
    return module, torch.optim.AdamW(module.parameters())


def test_fit_ends_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """The callbacks after the monitor have their say, and the findings are there."""
    module, monitor = Digits(poison=(3,)), DivergenceMonitor()
    monkeypatch.setattr(sys, "stderr", Gone())
    fit = trainer(max_steps=6, callbacks=[monitor])
    fit.fit(module, digits_loader())

    assert fit.state.finished
    assert [finding.rule for finding in monitor.findings] == ["NON-FINITE"]


def test_a_loop_ends_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log is closed, and what was lost is known."""
    module, optimizer = made()
    monkeypatch.setattr(sys, "stderr", Gone())
    with la.watch(module, optimizer, log_dir=tmp_path) as watch:
        loop(watch, module, optimizer, 3)

    assert [finding.rule for finding in watch.findings] == ["NON-FINITE"]
    assert "the table of findings" in watch.failures


def test_a_report_that_cannot_be_printed_is_there_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of Latin-1 has no ✓: training begins all the same."""
    preflight = Preflight(budget=5)
    monkeypatch.setattr(sys, "stdout", Gone())
    fit = trainer(max_steps=1, callbacks=[preflight])
    fit.fit(Digits(), digits_loader())

    assert fit.global_step == 1 and preflight.report is not None


def test_a_state_that_cannot_be_taken_ends_no_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one that was known is given; at the end, too, and findings stay."""
    module, optimizer = made()

    def fails(monitor: Monitor) -> Any:
        raise RuntimeError

    with la.watch(module, optimizer) as watch:
        loop(watch, module, optimizer, 3)
        known = watch.state_dict()
        monkeypatch.setattr(Monitor, "state", fails)
        assert watch.state_dict() is known

    assert watch.state_dict() is known
    assert [finding.rule for finding in watch.findings] == ["NON-FINITE"]
