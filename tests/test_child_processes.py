"""What a run in a child process found is there in its parent."""

from __future__ import annotations

from lightning_adam.callbacks import DivergenceMonitor
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
