"""What says that steps are too small although the loss falls and the weights go their way."""

from __future__ import annotations

import math

from lightning_adam.diagnosis.case import Case
from lightning_adam.diagnosis.course import LEARNT
from lightning_adam.diagnosis.history import median
from lightning_adam.diagnosis.theory import agreement

STRAIGHT_ON = 0.9
"""Cosine of a gradient with the momentum before it: noise gives 0, and what gets anywhere turns on the way."""
LONG = 0.65
"""Of the run: what still goes straight on then has not arrived."""
ALL_BUT_LEARNT = 0.15
"""Of its start, half of ``LEARNT``."""
OVER_PROMISED = 2
"""Times what gradients promise to first order: they may grow on the way."""


def goes_straight_on(case: Case) -> bool:
    """After two thirds of the run gradients point where all before them did, in each element, and not all is learnt.

    Eight passes long; healthy runs of the corpus turn by then, or are at a tenth of their start.
    """
    past, run = case.past, case.run
    cosines, rms = past.recent("alignment", 8), median(past.recent("normalised_rms", 8))
    if past.is_signed or run.optimizers > 1 or run.steps_like == "adapted" or len(cosines) < 8 or not case.progress >= LONG:
        return False
    is_straight = median(cosines) > STRAIGHT_ON and min(cosines) > STRAIGHT_ON - 0.1
    return is_straight and rms > agreement(case.now.beta1) and past.level > ALL_BUT_LEARNT * past.initial_loss


def promised(case: Case) -> float:
    """What a whole run of SGD would gain, to first order α·|g|² per step, times the steps that momentum adds up; NaN of
    other steps.

    By the larger one of the first gradients and the usual ones: where they have faded, the place is flat, whatever the rate.
    """
    norm, clipped = (median(values[-50:]) for values in (case.past.norms, case.past.clips))
    norm = max(norm, median(case.past.first_norms))
    added = 1 / max(1 - case.run.momentum, 1e-9) if case.run.momentum > 0 else 1.0
    gain = case.now.lr * norm * norm * (1.0 if math.isnan(clipped) else clipped) * added
    return gain * case.run.total_steps if case.run.steps_like == "sgd" else math.nan


def promises_too_little(case: Case) -> bool:
    """After 40 % of the run twice what gradients promise in all of it would not lead under 30 % of the start.

    However the loss falls: a step gains no more than its gradient's slope, and noise in it only promises more.
    """
    past = case.past
    if past.is_signed or case.run.optimizers > 1 or not case.progress >= 0.4:
        return False
    return OVER_PROMISED * promised(case) < past.level - LEARNT * past.initial_loss
