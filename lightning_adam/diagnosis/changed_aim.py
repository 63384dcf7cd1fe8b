"""A loss that rises although no step did it: what it measures has changed.

A task, a term's weight, a temperature, the labels' smoothing, a curriculum's next stage, or the data.
"""

from __future__ import annotations

import math

from lightning_adam.diagnosis.case import Case
from lightning_adam.diagnosis.course import STUCK
from lightning_adam.diagnosis.finding import Finding
from lightning_adam.diagnosis.history import median
from lightning_adam.diagnosis.theory import LARGE_RATIO
from lightning_adam.diagnosis.wording import number

FAR = 10
"""Times its start: what another task costs a model that was trained for the former one, or the same one by a larger weight,
is not that much more than what it costs an untrained one."""
SOON, BEFORE = 80, 10
"""Losses in which a jump is looked for, and those before it that tell the level."""
STANDS_OUT = 3
"""Times the usual gradient norm."""


def without_cause(finding: Finding, case: Case) -> Finding:
    """Information instead of a divergence that no other finding explains and that the steps cannot have made.

    To ruin a model a step has to move its weights far, and then ``LR-HIGH`` is told beside. What jumps, or what rises slowly
    without having lost all that was learnt, is most often measured by another scale from there on.
    """
    if finding.rule != "LOSS-DIVERGED":
        return finding
    level, best, first = (float(finding.evidence[name]) for name in ("level", "best", "first"))
    has_lost_all = not case.past.is_signed and best < STUCK * first < first < level
    is_unexplained = rose_at_once(case) or (_are_steps_usual(case) and not has_lost_all)
    if not is_unexplained or (not case.past.is_signed and median(case.past.losses[-5:]) > FAR * first):
        return finding
    return Finding(
        "LOSS-DIVERGED",
        "info",
        finding.step,
        f"the loss went from {number(best, 4)} (its best level) to {number(level, 4)}, and the steps before were of a usual "
        "size: what it measures may have changed.",
        dict(finding.evidence),
        remedy="Where a task, a weight of a term, a temperature or the data were meant to change here, nothing is wrong. "
        "Else look at the batches since then, and log the terms of the loss one by one.",
    )


def rose_at_once(case: Case) -> bool:
    """Whether half of the rise came in one step, and the steps before it were of a usual size, by gradients as usual.

    What comes after may be large, for the model has to learn anew: it is a consequence of the rise. A bad batch looks alike
    at first, and has a rule of its own.
    """
    past = case.past
    losses, norms = past.losses[-SOON - BEFORE :], past.norms[-SOON - 2 * BEFORE :]
    jump = max(range(1, len(losses)), key=lambda k: losses[k] - losses[k - 1], default=0)
    if jump < BEFORE or len(norms) < len(losses) or case.rate_was_raised:
        return False
    level, now = median(losses[:jump][-BEFORE:]), median(losses[-5:])
    is_jump = losses[jump] - losses[jump - 1] > 0.5 * (now - level) > 0
    since = len(losses) - jump
    is_calm = max(norms[-since - 3 : -since]) < STANDS_OUT * median(norms[:-since])
    return is_jump and is_calm and _ratio_before(case, since) < LARGE_RATIO


def _ratio_before(case: Case, since: int) -> float:
    """The median matrix' ‖Δθ‖/‖θ‖ on the last pass that is older than so many steps, else the average of all."""
    past = case.past
    pairs = zip(past.pass_counts, past.passes.get("update_ratio_p50", []), strict=False)
    return next((ratio for count, ratio in reversed(list(pairs)) if count < past.count - since), past.ratio_average)


def _are_steps_usual(case: Case) -> bool:
    """As far as the last passes tell; where none has, nobody knows."""
    largest = max(case.past.recent("update_ratio_p50", 3), default=math.nan)
    return largest < LARGE_RATIO and case.past.ratio_average < LARGE_RATIO and not case.rate_was_raised
