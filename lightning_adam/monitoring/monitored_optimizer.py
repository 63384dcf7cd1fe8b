"""One optimizer of a run with everything that is known of it."""

from __future__ import annotations

from torch.optim import Optimizer

from lightning_adam.monitoring.guard import Guard
from lightning_adam.monitoring.optimizer_diagnosis import OptimizerDiagnosis
from lightning_adam.monitoring.optimizer_statistics import OptimizerStatistics
from lightning_adam.monitoring.signal_reader import StepInputs


class MonitoredOptimizer:
    """Hands each moment of the optimizer's steps to its statistics and its diagnosis; what one loses, the other keeps.

    Args:
        optimizer: itself, without wrappers.
        prefix: first part of its tags.
        statistics: what it logs; None for nothing.
        diagnosis: what is wrong with it; None for nobody who asks.
        guard: that catches what they raise.

    Attributes:
        attempts: steps whose gradients are complete, and which did not happen yet.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        prefix: str,
        statistics: OptimizerStatistics | None,
        diagnosis: OptimizerDiagnosis | None,
        guard: Guard,
    ) -> None:
        self.optimizer, self.prefix = optimizer, prefix
        self.statistics, self.diagnosis = statistics, diagnosis
        self.attempts = 0
        self._guard = guard
        self._logged_step, self._signals = f"a logged step of {prefix}", f"the signals of a step of {prefix}"

    def before_closure(self) -> None:
        """A closure is about to compute the gradients."""
        if self.diagnosis is not None:
            self._guard.run(self._signals, self.diagnosis.reader.before_closure)

    def before_clipping(self, inputs: StepInputs) -> None:
        """Gradients are complete and not yet clipped."""
        self.attempts += 1
        if self.statistics is not None:
            self._guard.run(self._logged_step, self.statistics.before_clipping)
        if self.diagnosis is not None:
            self._guard.run(self._signals, self.diagnosis.reader.before_clipping, inputs.losses)

    def before_step(self) -> None:
        """Right before the optimizer's step."""
        if self.statistics is not None:
            self._guard.run(self._logged_step, self.statistics.before_step)

    def after_step(self, inputs: StepInputs) -> None:
        """Right after it; the learning rate is still the one that the step used."""
        self.attempts = max(0, self.attempts - 1)
        if self.statistics is not None:
            self._guard.run(self._logged_step, self.statistics.after_step)
        if self.diagnosis is not None:
            self._guard.run(self._signals, self.diagnosis.reader.after_step, inputs)

    def skipped(self, inputs: StepInputs, by_scaler: bool) -> None:
        """What was attempted did not happen.

        Args:
            inputs: of the step.
            by_scaler: whether a gradient scaler is there to have left it out.
        """
        attempts, self.attempts = self.attempts, 0
        for _ in range(attempts if by_scaler and self.statistics is not None else 0):
            assert self.statistics is not None
            self._guard.run(self._logged_step, self.statistics.skipped)
        if self.diagnosis is not None:
            self._guard.run(self._signals, self.diagnosis.reader.after_skip, inputs)

    def end(self) -> None:
        """The run is over: write what is left, and let go of the optimizer."""
        if self.statistics is not None:
            self._guard.run(f"the last pictures of {self.prefix}", self.statistics.end)
        if self.diagnosis is not None:
            self._guard.run(f"the last signals of {self.prefix}", self.diagnosis.end)
