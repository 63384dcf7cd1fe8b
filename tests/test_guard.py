"""A monitor that fails costs the training nothing, whichever of its methods raises, at its first call or its last."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_adam.callbacks import DivergenceMonitor, OptimizerMonitor
from lightning_adam.callbacks.lightning_run import LightningRun
from lightning_adam.diagnosis import Diagnosis, StepSignals
from lightning_adam.monitoring import Record
from lightning_adam.monitoring.actions import Actions
from lightning_adam.monitoring.counters import StepCounters
from lightning_adam.monitoring.heatmap import Heatmap
from lightning_adam.monitoring.monitor import Monitor
from lightning_adam.monitoring.monitored_optimizer import MonitoredOptimizer
from lightning_adam.monitoring.optimizer_diagnosis import OptimizerDiagnosis
from lightning_adam.monitoring.optimizer_statistics import OptimizerStatistics
from lightning_adam.monitoring.signal_reader import SignalReader
from lightning_adam.monitoring.zeroing import ZeroingWatch
from tests.digits import Digits, digits_loader, trainer

KINDS = (
    LightningRun,
    Monitor,
    MonitoredOptimizer,
    OptimizerStatistics,
    OptimizerDiagnosis,
    SignalReader,
    StepCounters,
    Heatmap,
    ZeroingWatch,
    Diagnosis,
    Actions,
)
OUTSIDE = {"begin", "begin_batch", "loss", "before_clipping", "_before_step", "_after_step", "after_batch", "end", "detach"}
OUTSIDE |= {"findings", "forget_losses", "_raise"}
"""Of Monitor: what only hands over to the guard, and what is asked by the user."""
AUTOGRADS = {"_before_addition", "_after_addition"}
"""Of ZeroingWatch: the same."""
STEPS = 10


def targets() -> Iterator[tuple[type, str]]:
    """Every method and property that the guard reaches."""
    for kind in KINDS:
        for name, member in vars(kind).items():
            is_code = inspect.isfunction(member) or isinstance(member, property)
            hands_over = (kind is Monitor and name in OUTSIDE) or name in AUTOGRADS
            if is_code and not name.startswith("__") and not hands_over:
                yield kind, name


class Injected(Exception):
    """The fault."""


def failing(kind: type, name: str, at: Collection[int], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have it raise at these of its calls, and count the calls of a run."""
    member, calls = vars(kind)[name], [0]
    original: Callable[..., Any] = member.fget if isinstance(member, property) else member

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] in at:
            raise Injected(f"{kind.__name__}.{name}")
        return original(*args, **kwargs)

    monkeypatch.setattr(kind, name, property(wrapped) if isinstance(member, property) else wrapped)
    return calls


def weights(callbacks: list[Any]) -> tuple[list[Tensor], list[float]]:
    """After some steps, and the losses on the way."""
    module = Digits()
    trainer(max_steps=STEPS, callbacks=callbacks, log_every_n_steps=5).fit(module, digits_loader())
    return [p.detach().clone() for p in module.parameters()], module.losses


@pytest.fixture(scope="module")
def undisturbed() -> tuple[list[Tensor], list[float]]:
    """Without monitors."""
    return weights([])


@pytest.fixture(scope="module")
def calls() -> dict[tuple[type, str], int]:
    """How often each is called in a run that nothing disturbs."""
    with pytest.MonkeyPatch.context() as patch:
        counted = {target: failing(*target, (), patch) for target in targets()}
        weights([OptimizerMonitor(3), DivergenceMonitor()])
    return {target: count[0] for target, count in counted.items()}


@pytest.mark.parametrize("target", list(targets()), ids=lambda target: f"{target[0].__name__}.{target[1]}")
def test_an_exception_in_a_monitor_does_not_touch_the_training(
    target: tuple[type, str],
    calls: dict[tuple[type, str], int],
    undisturbed: tuple[list[Tensor], list[float]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The weights are bit for bit those without monitors; no loss is left behind; each failure is told once."""
    count, reached = calls[target], 0
    for at in ((1, count), (count,)):
        if count and reached < count:  # after a first failure it may not be called as often
            monitors = [OptimizerMonitor(3), DivergenceMonitor()]
            caplog.clear()
            with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, logger="lightning_adam"):
                counted = failing(*target, at, patch)
                trained, losses = weights(monitors)
            reached = counted[0]

            assert all(torch.equal(one, other) for one, other in zip(trained, undisturbed[0], strict=True))
            assert losses == undisturbed[1]
            assert sum("Injected" in record.getMessage() for record in caplog.records) <= len(set(at))


FOUND = [
    (SignalReader, "after_step"),
    (SignalReader, "before_clipping"),
    (OptimizerStatistics, "after_step"),
    (Diagnosis, "observe"),
]


@pytest.mark.parametrize("target", FOUND, ids=lambda target: f"{target[0].__name__}.{target[1]}")
def test_after_a_failure_the_next_steps_are_watched_as_ever(
    target: tuple[type, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A NaN that comes later is found where it is; no loss of the step that failed enters a later one's."""
    told: list[StepSignals] = []

    class Recording(DivergenceMonitor):
        def on_record(self, position: int, record: Record) -> None:
            told.extend([record] if isinstance(record, StepSignals) else [])

    failing(*target, (8,), monkeypatch)
    module, monitor = Digits(poison=(30,)), Recording()
    trainer(max_steps=36, callbacks=[OptimizerMonitor(3), monitor], log_every_n_steps=5).fit(module, digits_loader())

    assert [(finding.rule, finding.step) for finding in monitor.findings] == [("NON-FINITE", 30)]
    assert {signals.step: signals.loss for signals in told} == pytest.approx(
        {signals.step: module.losses[signals.step] for signals in told}, rel=1e-5, nan_ok=True
    )
    assert len(told) >= 35


def test_what_fails_at_every_step_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One tensor kept per step would slow the run down for ever."""
    kept: list[int] = []

    class Measured(DivergenceMonitor):
        def on_train_batch_end(self, *args: Any) -> None:
            super().on_train_batch_end(*args)
            assert self._monitor is not None
            kept.append(len(self._monitor._inputs.losses))

    def broken(*args: Any) -> None:
        raise Injected("always")

    monkeypatch.setattr(SignalReader, "after_step", broken)
    trainer(max_steps=30, callbacks=[Measured()]).fit(Digits(), digits_loader())

    assert kept == [0] * 30
