"""Whether a step is worth asking the rules: what no rule could speak of without is looked up in constant time.

Rules that read the pass over all tensors, and whatever is exact (NaN, skipped steps, gradients that are missing or were not
cleared, a gradient or a loss that stands out), are asked in the very step that shows it. What changes over hundreds of steps
is looked at in every fifth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning_adam.diagnosis.history import EARLY, USUAL, History, median
from lightning_adam.diagnosis.signals import RunSignals, StepSignals

LOOKED_AT = 5
"""Steps between two looks at what changes slowly; what the rules look at by themselves is in multiples of it."""
SOON = 5 * EARLY
"""Steps in each of which a suspicion may be confirmed, or found to be none; later, in those looked at."""
HEAVY = 20
"""Times the median of 50 gradient norms. Healthy: 95th percentile 15; sick: 540 and more."""
WITHOUT_GRADIENT = (3, 5, 10)
"""Steps in a row after which rules speak of parameters without a gradient."""
LARGE_LOGIT = 100.0
"""Healthy models stay under 17."""
PLUNGE = 100
"""Times its start that a loss may fall under zero."""
SUDDEN = 5
"""Times the usual gradient norm from which a step is worth a pass."""
ROUNDING = 1e-5
"""Of a limit, more than a signal is rounded by."""


def is_due(now: StepSignals, past: History, run: RunSignals) -> bool:
    """Whether any rule may have something to say.

    Args:
        now: the step.
        past: the steps before it, with the counters of this one.
        run: what is known of the run.
    """
    if now.heavy is not None or past.count % LOOKED_AT == 0 or past.count < SOON:
        return True
    if _is_wrong(now, past) or _stands_out(now, past) or _exceeds_peak(now.lr, past, run):
        return True
    return run.optimizers == 1 and _has_left_its_range(now.loss, past)


def _is_wrong(now: StepSignals, past: History) -> bool:
    """What is exact."""
    return (
        now.non_finite is not None
        or now.skipped
        or now.not_zeroed
        or now.scale < 1
        or now.gradient_norm == 0
        or past.without_gradient in WITHOUT_GRADIENT
        or now.logit_max > LARGE_LOGIT
    )


def _stands_out(now: StepSignals, past: History) -> bool:
    """A gradient far over the usual ones, or a loss."""
    return now.gradient_norm > HEAVY * past.usual_norm or now.loss > 3 * past.usual_loss


def _exceeds_peak(lr: float, past: History, run: RunSignals) -> bool:
    """The learning rate, beyond any before, other than by the helper's warmup."""
    return lr > 1.05 * past.former_peak and lr > 2 * min(past.rates) and not run.warmup > past.count


def _has_left_its_range(loss: float, past: History) -> bool:
    """The last ten losses lie over twice the best level, or over the start; or the loss plunges far under zero."""
    if len(past.losses) < 25:
        return False
    first = past.initial_loss
    if past.is_signed and past.losses[-1] < -PLUNGE * max(1.0, abs(first)):
        return True
    last, limit = [*past.losses[-9:], loss], first if past.is_signed else min(2 * past.best_loss, first)
    if not math.isfinite(loss):
        return math.inf > limit
    return max(last) > limit and median(last) > limit


@dataclass(frozen=True)
class Calm:
    """What some steps may show, and :func:`is_due` says of none of them that it is due, but of those looked at anyway.

    Attributes:
        norm: largest gradient norm.
        loss: largest loss.
        least_loss: smallest loss.
        lr: largest learning rate.
    """

    norm: float
    loss: float
    least_loss: float
    lr: float

    def holds(self, loss: float, norm: float, lr: float) -> bool:
        """Of one of these steps."""
        return 0 < norm <= self.norm and self.least_loss <= loss <= self.loss and lr <= self.lr


def calm(past: History, run: RunSignals) -> Calm | None:
    """Limits for the steps before the next one that is looked at, the steps before them known.

    Each of these, fewer than :data:`LOOKED_AT`, moves a median by one place at most: limits are taken from as many places
    lower. At most four of the last nine losses may lie over the limit: the median of ten then does not.

    Returns:
        None while too little is known, or where the loss lies over its limit now.
    """
    usual_norm, usual_loss, level = (window.at_least(LOOKED_AT) for window in past.windows)
    first = past.initial_loss
    limit = min(3 * usual_loss, first if past.is_signed else min(2 * min(past.best_loss, level), first))
    limit -= ROUNDING * abs(limit)
    least = -PLUNGE * max(1.0, abs(first)) * (1 - ROUNDING)
    is_known = len(past.losses) >= USUAL and math.isfinite(limit) and past.losses[-1] >= least
    if not is_known or sum(loss > limit for loss in past.losses[-9:]) > 4:
        return None
    is_planned = run.warmup > past.count + LOOKED_AT
    rate = math.inf if is_planned else 1.05 * past.former_peak * (1 - ROUNDING)
    return Calm(SUDDEN * usual_norm * (1 - ROUNDING), limit, least, rate)
