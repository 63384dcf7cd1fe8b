"""What is known of a run before it starts, and how a check makes a finding of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lightning_adam.diagnosis import Finding

if TYPE_CHECKING:
    from lightning_adam.preflight.additivity import Parts
    from lightning_adam.preflight.behaviour import Behaviour
    from lightning_adam.preflight.data import Data
    from lightning_adam.preflight.gradients import Gradients
    from lightning_adam.preflight.plan import Plan
    from lightning_adam.preflight.step import Step
    from lightning_adam.preflight.task import Task
    from lightning_adam.preflight.trial import Trial


@dataclass
class Facts:
    """Each part is None until it has been measured; ``missing`` says why one could not be."""

    task: Task
    data: Data | None = None
    step: Step | None = None
    gradients: Gradients | None = None
    behaviour: Behaviour | None = None
    trial: Trial | None = None
    plan: Plan | None = None
    parts: Parts | None = None
    missing: dict[str, str] = field(default_factory=dict)


Judge = Callable[[Facts], "Iterable[Finding]"]


@dataclass(frozen=True)
class Check:
    """One check: its code, the parts of the facts that it reads, and what it says of them."""

    code: str
    needs: tuple[str, ...]
    judge: Judge


def found(
    code: str,
    severity: str,
    message: str,
    remedy: str,
    evidence: dict[str, float | str] | None = None,
    parameters: Iterable[str] = (),
) -> Finding:
    """A finding of step 0."""
    return Finding(code, severity, 0, message, evidence or {}, tuple(parameters), remedy)  # type: ignore[arg-type]


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few of them, in words."""
    every = list(names)
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")
