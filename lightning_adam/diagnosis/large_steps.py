"""What the loss shows of steps that are too large although it has fallen."""

from __future__ import annotations

from lightning_adam.diagnosis.case import Case
from lightning_adam.diagnosis.course import LATE, LEARNT, STUCK

HOPELESS = 2.5
"""‖Δθ‖/‖θ‖ in a first step that no healthy run has."""
BY_SIZE = "sgd"
"""Steps that follow the gradient's size: they shrink with it, and a single one says little of the later ones."""


def lost_its_start(case: Case) -> bool:
    """The first steps moved the weights by more than their norm, some matrix by several times, and most is unlearnt yet.

    Nothing is left of the initialisation, and later steps are as large: what the loss has fallen from is what these steps
    had made of it. Weights, and not one of them: a head that begins near zero is moved by a multiple of that.
    """
    past, curve = case.past, case.curve
    if case.run.steps_like == BY_SIZE or curve.signed or not past.early_lr > past.unit_rate:
        return False
    return past.early_ratio > HOPELESS and curve.now > LEARNT * min(curve.start, case.first_loss)


def never_recovered(case: Case) -> bool:
    """A first step moved weights by a multiple of their norm, and late in the run most of the loss is still there."""
    curve = case.curve
    is_high = not curve.signed and curve.start > 0 and curve.now > STUCK * curve.start
    return case.past.early_ratio > HOPELESS and case.progress > LATE and is_high
