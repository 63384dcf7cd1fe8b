"""Where the loss is going: what an alarm has to agree with.

Nothing here asks for a scale: noise is measured from step to step, so that a slope is none, and a loss that is negative,
near zero or signed is read against its own range.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from lightning_adam.diagnosis.history import History, median

Course = Literal["falling", "standing", "rising", "unknown"]

STUCK = 0.6
"""Of its start: a loss that stands still above it has learnt little, or only how often each class comes."""
LATE = 0.6
"""Share of the run after which what has not been learnt is late."""
LEARNT = 0.3
"""Under so much of its start a loss that stands still is no harm: it has been learnt, or this is the data's own noise."""
LOST = 0.12
"""A loss that has given back so much of its fall is rising."""
NEAR_ZERO = 0.05
"""Of the start: what the loss does below that is not seen in anything that a user measures."""
SOON, MUCH_WORSE = 20, 0.5
"""In so few losses a rise is one by half the start: healthy runs, too, get somewhat worse before they learn."""
ENOUGH = 40
"""Losses before "it stands still" is said."""


@dataclass(frozen=True)
class Curve:
    """The loss so far, smoothed.

    Attributes:
        count: finite losses that are remembered.
        start: median of the first five.
        best: lowest level so far.
        now: median of the last ones, a third of all and at most 25.
        noise: standard deviation of one loss around the curve.
        error: standard error of ``now``.
        signed: whether a loss was negative: then zero is no floor, and rising is no proof (rewards, likelihoods).
    """

    count: int
    start: float
    best: float
    now: float
    noise: float
    error: float
    signed: bool

    @property
    def progress(self) -> float:
        """How far it has fallen from its start at its best."""
        return max(0.0, self.start - self.best)

    @property
    def stands_at_its_best(self) -> bool:
        """It has gained more than noise and kept it: without a floor that is known, it may have arrived."""
        return self.progress > 4 * self.noise and self.now < self.best + self.noise


def curve_of(past: History) -> Curve:
    """All NaN where no loss is known."""
    losses, count = past.losses, len(past.losses)
    width = min(25, max(3, count // 3))
    noise = noise_of(losses[-2 * width :])
    error = 1.25 * noise / math.sqrt(width)
    start, best = past.initial_loss, past.best_loss
    if not math.isfinite(best):
        best = min((median(losses[max(0, i - 4) : i + 1]) for i in range(min(4, count), count)), default=start)
    return Curve(count, start, min(best, start), median(losses[-width:]), noise, error, past.is_signed)


def noise_of(values: Sequence[float]) -> float:
    """Standard deviation of one value around a smooth curve, from the differences of neighbours; 0 for fewer than three."""
    steps = [abs(b - a) for a, b in pairwise(values)]
    return 1.4826 * median(steps) / math.sqrt(2) if len(steps) > 1 else 0.0


def loss_course(past: History) -> Course:
    """Whether the smoothed loss falls, stands still or rises; unknown while there are too few losses to tell.

    Falling: the newer half of the last 50, 100 or 200 losses is lower than the older one by three standard errors, and lies
    under the start; or the loss is learnt. Rising: see :func:`rises`.
    """
    if not past.losses:
        return "unknown"
    curve = curve_of(past)
    if rises(curve, past.losses):
        return "rising"
    if curve.count < 10:
        return "unknown"
    if is_learnt(curve) or falls(curve, past.losses):
        return "falling"
    return "standing" if curve.count >= ENOUGH else "unknown"


def rises(curve: Curve, losses: Sequence[float]) -> bool:
    """The level, or each of the last five losses, lies over the best level by more than noise and a third of the progress.

    Of a signed loss, over its start by three times all progress.
    """
    if curve.count < 5:
        return _explodes(curve, losses)
    if curve.signed:
        margin = max(3 * curve.progress, 6 * curve.error, 4 * curve.noise)
        return min(curve.now, *losses[-5:]) > curve.start + margin
    share = NEAR_ZERO if curve.count >= SOON else MUCH_WORSE
    margin = max(LOST * curve.progress, share * abs(curve.start))
    level = min(curve.now, median(losses[-5:]))  # on a steep slope the last third lies over the last five
    is_above = level > curve.best + max(margin, 6 * curve.error)
    return is_above or min(losses[-5:]) > curve.best + max(margin, 4 * curve.noise)


def _explodes(curve: Curve, losses: Sequence[float]) -> bool:
    """Within the first steps: ten times the first loss, twice in a row, for one step too far may be taken back by the next.

    Not from zero, where a signed loss may begin.
    """
    return curve.count > 2 and not curve.signed and min(losses[-2:]) > 10 * losses[0] > 0


def is_learnt(curve: Curve) -> bool:
    """Under 30 % of where it began; of a signed loss nobody knows."""
    return not curve.signed and curve.start > 0 and curve.now <= LEARNT * curve.start


def falls(curve: Curve, losses: Sequence[float]) -> bool:
    """Under its start, and lower in the newer half of the last 50, 100 or 200 losses than in the older one."""
    if not curve.now < curve.start - 2 * curve.error:
        return False
    return any(has_fallen(losses[-length:]) for length in (50, 100, 200) if length <= 50 or len(losses) > length // 2)


def has_fallen(losses: Sequence[float]) -> bool:
    """The newer half is lower than the older one by three standard errors."""
    half = len(losses) // 2
    older, newer = losses[:half], losses[half:]
    error = 1.25 * noise_of(losses) * math.sqrt(2 / half)
    return median(older) - median(newer) > 3 * error
