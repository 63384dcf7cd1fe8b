"""What the loss on unseen data shows, where validation tells one."""

from __future__ import annotations

import math

from lightning_adam.diagnosis.case import KNOWS_MORE, Case
from lightning_adam.diagnosis.finding import Finding
from lightning_adam.diagnosis.history import PASSES, median
from lightning_adam.diagnosis.wording import number

LOOKED_AT = 10
"""Steps between two looks."""
SEVERAL, SOON = 3, 0.25
"""Validations, and the share of the run before which what is learnt may still turn out to hold."""
LEAST, MOST = 0.98, 1.25
"""Of what guessing costs: between them a validation that knows no more, of a loss of the same size. Healthy runs that are
overfitted begin as high as 95 % where little can be learnt (clicks, labels of which most are wrong)."""
NOT_YET_LEARNT = 0.8
"""Of what guessing costs: a training loss that was lower at the first validation may have overfitted before it."""
OTHER_SIZE = 1.1
"""Times the training loss, before the first step: validation's is of another size, or of other data."""
STILL_AS_FIRST = 0.98
"""Of the first validation: one that was lower than that has learnt something of unseen data since."""

COUNTED, UNCOUNTED = math.log(1.2), 4.0
"""Nats: labels of a higher entropy, than their classes have or where these are not counted, are of too many classes for a
batch to tell how often each comes."""


def memorises(case: Case) -> Finding | None:
    """A quarter of the run is over and the training loss is under 85 % of what guessing costs, but validation's, three times
    or more, never was under 98 % of it, and rises.

    Ordinary overfitting was better than guessing on unseen data at some time. A validation loss that has fallen by 2 % since
    its first, or is of another size than the training loss (a sum, other units, other data), says nothing.
    """
    past = case.past
    if past.count % LOOKED_AT or past.validated < SEVERAL or not case.progress >= SOON:
        return None
    guess = _known_guess(case)
    if case.run.optimizers > 1 or past.is_signed or not (_has_learnt(case, guess) and _validation_only_guesses(case, guess)):
        return None
    return _by_heart(case, guess)


def _by_heart(case: Case, guess: float) -> Finding:
    past, curve = case.past, case.curve
    return Finding(
        "NO-LEARNING",
        "warning",
        case.now.step,
        f"the training loss is {number(curve.now, 4)}, where guessing costs {number(guess, 4)}, and validation's was never "
        f"lower than {number(past.lowest_validation, 4)} (now {number(past.last_validation, 4)}): what is learnt holds for "
        "no unseen data.",
        {
            "level": curve.now,
            "guess": guess,
            "lowest_validation": past.lowest_validation,
            "last_validation": past.last_validation,
            "validations": past.validated,
        },
        remedy="Look at ten examples with their labels, of the training and of the validation data, as the model is given "
        "them: whether labels belong to their inputs, and whether both are prepared alike. If they are right, the data "
        "are too few for this model: fewer weights, weight decay, augmentation.",
    )


def _has_learnt(case: Case, guess: float) -> bool:
    """The training loss is under what guessing costs, and was not yet when validation was asked first."""
    curve = case.curve
    return curve.now + 2 * curve.error < KNOWS_MORE * guess and case.past.level_validated > NOT_YET_LEARNT * guess


def _known_guess(case: Case) -> float:
    """What guessing costs; 0 where too many classes for a batch make it seem less."""
    past, guess = case.past, max(case.guesses, default=0.0)
    if case.run.constants or not past.recent("target_entropy", PASSES):
        return guess
    classes = median(past.recent("target_classes", PASSES))
    most = math.log(classes) + COUNTED if classes > 0 else UNCOUNTED
    return guess if guess < most else 0.0


def _validation_only_guesses(case: Case, guess: float) -> bool:
    """From the first time on, and it rises; what is larger than the training loss before the first step, of a guess, too."""
    past = case.past
    ratio = past.untrained_validation / past.initial_loss if past.initial_loss > 0 else math.nan
    least = LEAST * guess * (ratio if ratio > OTHER_SIZE else 1.0)
    is_alike = least < past.lowest_validation and past.first_validation < MOST * guess
    return is_alike and STILL_AS_FIRST * past.first_validation < past.lowest_validation < past.last_validation
