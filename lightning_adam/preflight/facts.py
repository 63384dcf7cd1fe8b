"""What is known of a run before it starts, and how a check makes a finding of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lightning_adam.diagnosis import Finding
from lightning_adam.diagnosis.finding import Severity

if TYPE_CHECKING:
    from lightning_adam.preflight.additivity import Parts
    from lightning_adam.preflight.behaviour import Behaviour
    from lightning_adam.preflight.data import Data
    from lightning_adam.preflight.gradients import Gradients
    from lightning_adam.preflight.plan import Plan
    from lightning_adam.preflight.step import Step
    from lightning_adam.preflight.task import Task
    from lightning_adam.preflight.trial import Trial


class NotMeasuredError(LookupError):
    """A part of the facts is asked for that is not there."""


@dataclass
class Facts:
    """Part by part, as they are measured; ``missing`` says why one could not be."""

    task: Task
    missing: dict[str, str] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)

    def has(self, part: str) -> bool:
        """Whether it has been measured; ``optimizers`` is whether there are any."""
        return bool(self.task.optimizers) if part == "optimizers" else self.measured.get(part) is not None

    def __getitem__(self, part: str) -> Any:
        if not self.has(part):
            raise NotMeasuredError(part)
        return self.measured[part]

    @property
    def data(self) -> Data:
        """What the batches show."""
        value: Data = self["data"]
        return value

    @property
    def step(self) -> Step:
        """What the first training step shows."""
        value: Step = self["step"]
        return value

    @property
    def gradients(self) -> Gradients:
        """Of the first batches."""
        value: Gradients = self["gradients"]
        return value

    @property
    def behaviour(self) -> Behaviour:
        """What the prediction depends on."""
        value: Behaviour = self["behaviour"]
        return value

    @property
    def trial(self) -> Trial:
        """The short runs."""
        value: Trial = self["trial"]
        return value

    @property
    def plan(self) -> Plan:
        """The rates of the run."""
        value: Plan = self["plan"]
        return value

    @property
    def parts(self) -> Parts:
        """The loss of a batch and of its parts."""
        value: Parts = self["parts"]
        return value


@dataclass(frozen=True)
class Check:
    """One check: its code, the parts of the facts that it reads, and what it says of them."""

    code: str
    needs: tuple[str, ...]
    judge: Callable[[Facts], Iterable[Finding]]


def found(
    code: str,
    severity: Severity,
    message: str,
    remedy: str,
    evidence: Mapping[str, float | str] | None = None,
    parameters: Iterable[str] = (),
) -> Finding:
    """A finding of step 0."""
    return Finding(code, severity, 0, message, evidence or {}, tuple(parameters), remedy)


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few of them, in words."""
    every = list(names)
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")
