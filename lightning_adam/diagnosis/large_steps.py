"""What the loss shows of steps that are too large although it has fallen."""

from __future__ import annotations

from lightning_adam.diagnosis.case import Case
from lightning_adam.diagnosis.course import LATE, LEARNT, STUCK

HOPELESS = 2.5
"""‖Δθ‖/‖θ‖ in a first step that no healthy run has."""
FALLEN = 0.25
"""Of its start: a loss that has fallen by so much was not ruined by the first steps; it may stand at a high floor."""
SHRINKING = frozenset({"sgd", "accumulated"})
"""Steps that shrink by themselves, with the gradient's size or as 1/√t: the first ones say little of the later ones."""


def lost_its_start(case: Case) -> bool:
    """The first steps moved the weights by more than their norm, some matrix by several times, and most is unlearnt yet.

    Nothing is left of the initialisation, and later steps are as large: what the loss has fallen from is what these steps
    had made of it. Weights, and not one of them: a head that begins near zero is moved by a multiple of that.
    """
    past, curve = case.past, case.curve
    if case.run.steps_like in SHRINKING or curve.signed or not past.early_lr > past.unit_rate:
        return False
    return past.early_ratio > HOPELESS and curve.now > LEARNT * min(curve.start, case.first_loss)


def never_recovered(case: Case) -> bool:
    """A first step moved weights by a multiple of their norm, and late in the run most of the loss is still there."""
    curve = case.curve
    is_high = not curve.signed and curve.start > 0 and curve.now > STUCK * curve.start
    return case.past.early_ratio > HOPELESS and case.progress > LATE and is_high


def fell_despite_large_steps(case: Case) -> bool:
    """Large steps: with them the loss has fallen by a quarter, and did not rise until one step threw it over its start."""
    curve = case.curve
    has_fallen = case.course != "rising" and not curve.signed and curve.best < (1 - FALLEN) * curve.start
    return has_fallen and case.now.loss > curve.start
