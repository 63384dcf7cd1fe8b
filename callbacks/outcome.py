"""What is left of a monitor after its run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_adam.callbacks.child_process import ChildReport
from lightning_adam.monitoring.state import MonitorState

if TYPE_CHECKING:
    from lightning_adam.diagnosis import Finding
    from lightning_adam.monitoring import Monitor


class Outcome:
    """What is left of a monitor after the run: plain data, and no trainer, module, optimizer or batch.

    Attributes:
        state: of the last run, or of the checkpoint that the next one goes on from.
        findings: of the last run, or of that checkpoint.
        failures: what the monitor of the last run could not do.
        has_run: whether a run has begun under it.
        fits_again: whether the last run began where an earlier one had ended, with new optimizers.
        copies: outcomes of the callback's copies.
    """

    def __init__(self) -> None:
        self.state, self.has_run, self.fits_again = MonitorState(), False, False
        self.findings: list[Finding] = []
        self.failures = frozenset[str]()
        self.copies: list[Outcome] = []
        self._of_child = ChildReport()
        self._is_resumed = False

    def resume(self, state: MonitorState) -> None:
        """The next run goes on from this."""
        self.state, self.findings, self._is_resumed = state, state.findings, True

    def begin(self, global_step: int) -> MonitorState:
        """What a run begins with: a checkpoint's state; where a trainer fits once more, its counters and findings stay."""
        self._of_child.read_once()  # of an earlier run, which nobody asked for
        is_resumed, self._is_resumed = self._is_resumed, False
        self.fits_again, self.has_run = self.has_run and not is_resumed and global_step > 0, True
        return self.state if is_resumed else self.state.of_earlier_fit() if global_step else MonitorState()

    def keep(self, monitor: Monitor) -> None:
        """What is known now, for a checkpoint or for the time after the run."""
        self.findings, self.failures = monitor.findings, frozenset(monitor.guard.failures)
        self.state = monitor.state()

    def end(self, monitor: Monitor, is_main: bool) -> None:
        """The run is over: what is left is written, kept and, on the main rank, printed, whatever raises."""
        try:
            monitor.end()
        finally:
            monitor.guard.run("its state after the run", self.keep, monitor)
            if is_main:
                monitor.guard.run("its findings for the parent process", self._of_child.write, self.findings, self.failures)
            if self.findings and is_main:
                from lightning_adam.monitoring.console import print_findings

                monitor.guard.run("the table of findings", print_findings, self.findings)

    def __getstate__(self) -> dict[str, Any]:
        """A copy shows its own copies, not the original's."""
        return {**self.__dict__, "copies": []}

    def latest(self) -> Outcome:
        """Its own, here or in a child process, or that of the latest copy that has run: some libraries train with one."""
        if (of_child := self._of_child.read_once()) is not None:
            (self.findings, self.failures), self.has_run = of_child, True
            return self
        others = [copied.latest() for copied in reversed(self.copies)]
        return self if self.has_run else next((other for other in others if other.has_run), self)
