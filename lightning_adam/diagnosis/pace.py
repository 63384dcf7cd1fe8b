"""How fast the loss falls, and where it would end at that pace."""

from __future__ import annotations

import math

from lightning_adam.diagnosis.case import Case
from lightning_adam.diagnosis.course import LATE, LEARNT
from lightning_adam.diagnosis.history import median

TOO_SLOW = 0.6
"""Of its start: where a loss would end at its pace so far."""
AGREE = 0.5
"""Cosine of a gradient with the momentum before it: 0 in noise, 1 on a slope that has no end in sight."""
STRAIGHT = 0.6
"""The newer half's fall over the older half's: 1 of a line, under 0.4 of what decays to a third in the run."""


def is_slow(case: Case) -> bool:
    """It stands still, or would at its present pace end at over 60 % of its start."""
    curve = case.curve
    if case.course == "standing":
        return not (curve.signed and curve.stands_at_its_best)
    return not curve.signed and curve.start > 0 and ends_at(case, pace_of(case)) > TOO_SLOW * curve.start


def would_show(case: Case) -> bool:
    """Whether a loss on its way to 30 % of its start at the run's end would be seen to fall through its noise by now.

    The fall from the older half of the last losses to the newer one, in standard errors as :func:`has_fallen` counts them.
    Where no length, or no start above zero, says how fast it ought to fall, it is taken to show.
    """
    curve, total = case.curve, case.run.total_steps
    if curve.signed or not curve.start > 0 or not math.isfinite(total) or total <= 0:
        return True
    half = min(len(case.past.losses), 200) // 2
    expected = (1 - LEARNT) * curve.start * half / total
    return expected > 3 * 1.25 * curve.noise * math.sqrt(2 / half)


def falls_short(case: Case) -> bool:
    """After 60 % of the run it is not learnt, and will not be at its pace; or it goes on as it began."""
    curve = case.curve
    late = case.progress > LATE and not curve.signed and curve.start > 0
    return (late and ends_at(case, pace_of(case)) > LEARNT * curve.start) or goes_on_as_it_began(case)


def pace_of(case: Case) -> float:
    """What one step gains, over the last 50."""
    losses = case.past.losses
    half = min(25, len(losses) // 2)
    return (median(losses[-2 * half : -half]) - median(losses[-half:])) / max(1, half)


def ends_at(case: Case, pace: float) -> float:
    """The loss at the run's end, at this pace per step; of a run whose length is not known, after four times as many."""
    seen, total = case.past.finite, case.run.total_steps
    left = max(0.0, total - seen) if math.isfinite(total) else 4.0 * seen
    return case.curve.now - max(0.0, pace) * left


def goes_on_as_it_began(case: Case) -> bool:
    """After 40 % of the run gradients still agree with the steps before, and the loss falls as a straight line.

    A run that gets anywhere bends: the first steps gain most, and gradients turn. One whose steps are too small only begins,
    for as long as it lasts: it is slow unless the line leads under 30 % of its start. Of a signed loss no end is known.
    """
    curve = case.curve
    agree = median(case.past.recent("alignment", 5)) > AGREE
    if not (agree and not case.progress < 0.4 and falls_straight(case)):
        return False
    pace = (curve.start - case.past.levels[-1]) / max(1, case.past.finite)
    return curve.signed or ends_at(case, pace) > LEARNT * curve.start


def falls_straight(case: Case) -> bool:
    """In the newer half of the run by nearly as much as in the older one."""
    levels = case.past.levels
    if len(levels) < 4:
        return False
    middle = levels[len(levels) // 2 - 1]
    return middle - levels[-1] > STRAIGHT * (case.curve.start - middle)
