"""The rate that a model can bear, from what its first step did to it: the same number for every rule that advises one."""

from __future__ import annotations

import math

from lightning_adam.diagnosis.case import Case
from lightning_adam.diagnosis.facts import known_facts
from lightning_adam.diagnosis.history import median
from lightning_adam.diagnosis.pace import falls_straight
from lightning_adam.diagnosis.theory import good_first_step

POLYAK = 0.3
"""Of L/‖g‖² at the start (Polyak 1987, Introduction to optimization, section 5.3), for plain SGD: tuned families of the
corpus have 0.16 to 0.56."""
MOST_OF_NORM = 0.15
"""Of a weight matrix' norm, by a first step of plain SGD, or by all that momentum makes of it: 32 tuned runs of the corpus
have 0.16 in the median, 57 with a momentum of 0.9 have 0.09. It holds where the first gradient is small, and Polyak's step
is too long for what comes after: recurrent and convolutional nets gain their curvature as they learn."""
OF_ADAMS = {"sign": 1 / 7, "accumulated": 8.0}
"""Of the step that Adam's first one may take. A sign's later steps are no smaller, and agree for longer (Chen et al. 2023,
arXiv:2302.06675, use a third to a tenth of AdamW's rate); Adagrad's shrink as 1/√t, to an eighth in the mean of 250."""
FAR_BELOW, UNFADED = 30, 0.5
"""Times, and of its first norm: tuned families lie within 2 of :data:`POLYAK`, and their gradients fade as they learn."""
UNCORRECTED = {"RMSprop": 10.0, "RAdam": math.nan}
"""The first step over the rate, where it is not 1: RMSprop's average of g² starts at zero and stays uncorrected, which makes
it 1/√(1-α) at its α of 0.99; RAdam's first steps follow the gradient's size and tell nothing."""


def bearable_rate(case: Case) -> float:
    """A rate near the best one for the run's length; NaN where the first steps do not tell, as after a resume."""
    if case.run.steps_like == "sgd":
        return _by_slope(case)
    return good_unit_step(case) * UNCORRECTED.get(case.run.optimizer, 1.0) * case.past.unit_rate


def good_unit_step(case: Case) -> float:
    """‖Δθ‖/‖θ‖ that a good rate gives where each element moves by the rate."""
    return good_first_step(case.run.total_steps) * OF_ADAMS.get(case.run.steps_like, 1.0)


def creeps(case: Case) -> bool:
    """After half of the run plain descent still falls in a straight line, and its gradient has not faded.

    And its steps are under a thirtieth of what the first one could have been: whatever share of the weights they are.

    Weights that begin near zero, as those of a linear model, move by a usual share however short the steps. Not where layers
    are left out of training: what is left of the model is slow for that.
    """
    past = case.past
    if case.run.steps_like != "sgd" or past.is_signed or not case.progress >= 0.5 or not falls_straight(case):
        return False
    if case.run.misses_untrained or any(fact.rule == "FROZEN" for fact in known_facts(case)):
        return False
    usual = median(past.norms[-50:])
    is_steep = usual > UNFADED * median(past.first_norms)
    return is_steep and past.peak_lr * FAR_BELOW < min(bearable_rate(case), _polyaks_step(case, past.level, usual))


def _by_slope(case: Case) -> float:
    """SGD's step is in proportion to the gradient. Momentum adds up 1/(1-μ) steps, of which noise leaves √ of it.

    At most what moves matrices by a share of their norm, with the steps that momentum adds.
    """
    loss, norm, momentum = case.first_loss, case.first_norm, case.run.momentum
    if case.past.is_signed or not (0 < loss < math.inf and 0 < norm < math.inf):
        return math.nan
    by_loss, most = _polyaks_step(case, loss, norm), MOST_OF_NORM * _left_of(momentum) * case.past.unit_rate
    return min(by_loss, most) if most > 0 else by_loss


def _polyaks_step(case: Case, loss: float, norm: float) -> float:
    """At a loss and a gradient norm: a plateau's small gradient at the start says nothing of the slope that follows it."""
    clipped = min(1.0, case.run.clip / norm) if case.run.clip > 0 else 1.0
    return POLYAK * math.sqrt(_left_of(case.run.momentum)) * loss / norm / (norm * clipped)


def _left_of(momentum: float) -> float:
    return 1 - min(momentum, 0.999) if momentum > 0 else 1.0
