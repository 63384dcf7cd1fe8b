"""What a run in a child process found is there in its parent."""

from __future__ import annotations

import pytest

from lightning_adam.callbacks import DivergenceMonitor
from lightning_adam.callbacks.child_process import _path
from lightning_adam.callbacks.outcome import Outcome
from tests.children import CONTEXT
from tests.digits import Digits, digits_loader, trainer


def train(monitor: DivergenceMonitor) -> None:
    """Turns to NaN at step 20."""
    trainer(max_steps=25, callbacks=[monitor]).fit(Digits(poison=(20,)), digits_loader())


def test_findings_of_a_run_in_a_child_process_are_the_parents() -> None:
    """``ddp_spawn`` and ``ddp_fork`` train with copies of the callbacks, which end with their process."""
    monitor = DivergenceMonitor()
    process = CONTEXT.Process(target=train, args=(monitor,))
    process.start()
    process.join()

    assert [(found.rule, found.step) for found in monitor.findings] == [("NON-FINITE", 20)]
    assert [found.rule for found in monitor.findings] == ["NON-FINITE"], "asked once more"
    assert "NON-FINITE" in monitor.summary()


REPORT = '{"findings": [], "failures": ["a loss"]}'


def written(outcome: Outcome, content: str = REPORT) -> None:
    """As a child process leaves it."""
    _path(outcome._of_child._name).write_text(content, encoding="utf-8")


def test_a_child_that_runs_after_a_run_in_the_process_is_heard() -> None:
    outcome = Outcome()
    outcome.begin(0)
    written(outcome)

    assert outcome.latest().failures == outcome.latest().failures == {"a loss"}


def test_a_child_s_report_comes_before_a_copy_that_has_run_in_the_tuner() -> None:
    outcome, copied = Outcome(), Outcome()
    copied.begin(0)
    outcome.copies.append(copied)
    written(outcome)

    assert outcome.latest() is outcome
    assert outcome.latest() is outcome, "asked once more"


def test_a_run_in_the_process_follows_a_child_whose_report_nobody_asked_for() -> None:
    outcome = Outcome()
    written(outcome)
    outcome.begin(0)

    assert not outcome.latest().failures


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"findings"', '{"findings": 3, "failures": null}', '{"findings": [1, {}]}']
)
def test_a_damaged_report_of_a_child_raises_nothing(content: str) -> None:
    outcome = Outcome()
    written(outcome, content)

    assert outcome.latest().findings == []
