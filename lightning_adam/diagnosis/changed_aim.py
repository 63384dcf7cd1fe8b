"""A loss that rises although no step did it: what it measures has changed.

A task, a term's weight, a temperature, the labels' smoothing, a curriculum's next stage, or the data.
"""

from __future__ import annotations

from lightning_adam.diagnosis.case import Case
from lightning_adam.diagnosis.finding import Finding
from lightning_adam.diagnosis.history import median
from lightning_adam.diagnosis.theory import LARGE_RATIO
from lightning_adam.diagnosis.wording import number, percent

FAR = 10
"""Times its start: what another task costs a model that was trained for the former one, or the same one by a larger weight,
is not that much more than what it costs an untrained one."""


def without_cause(finding: Finding, case: Case) -> Finding:
    """Information instead of a divergence that no other finding explains and that the steps cannot have made.

    To ruin a model a step has to move its weights far, and then ``LR-HIGH`` is told beside. What rises under steps of a
    usual size, at a rate that nobody has raised, is most often measured by another scale from there on.
    """
    if finding.rule != "LOSS-DIVERGED" or not _are_steps_usual(case):
        return finding
    level, best, first = (float(finding.evidence[name]) for name in ("level", "best", "first"))
    if not case.past.is_signed and median(case.past.losses[-5:]) > FAR * first:
        return finding
    return Finding(
        "LOSS-DIVERGED",
        "info",
        finding.step,
        f"the loss went from {number(best, 4)} (its best level) to {number(level, 4)}, under steps of a usual size "
        f"({percent(_largest_ratio(case))} of the weights' norm): what it measures may have changed.",
        dict(finding.evidence),
        remedy="Where a task, a weight of a term, a temperature or the data were meant to change here, nothing is wrong. "
        "Else look at the batches since then, and log the terms of the loss one by one.",
    )


def _are_steps_usual(case: Case) -> bool:
    """As far as the last passes tell; where none has, nobody knows."""
    return _largest_ratio(case) < LARGE_RATIO and case.past.ratio_average < LARGE_RATIO and not case.rate_was_raised


def _largest_ratio(case: Case) -> float:
    """The median matrix' ‖Δθ‖/‖θ‖ on the last three passes, the highest of them."""
    return max(case.past.recent("update_ratio_p50", 3), default=float("nan"))
