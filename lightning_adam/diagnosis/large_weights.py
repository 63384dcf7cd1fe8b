"""What the way of the weights shows of an initialisation that is far too large."""

from __future__ import annotations

from lightning_adam.diagnosis.case import KNOWS_MORE, WORSE_THAN, Case
from lightning_adam.diagnosis.course import LATE, LEARNT

SHORT_WAY = 0.15
"""Of a weight's norm, by all steps together after 40 % of the run: of 876 healthy runs of the corpus the first percentile
is 0.26."""


def large_weights_decide(case: Case, end: float) -> bool:
    """Whether what the initialisation has made of the loss is still there, or is all that was mended.

    Args:
        case: the present step.
        end: the loss at the run's end, at its present pace.
    """
    return outweighs_all_steps(case) or holds_back(case, end)


def outweighs_all_steps(case: Case) -> bool:
    """After 40 % of the run all steps together are a small part of the weights, which stay as they were initialised.

    However far the loss has fallen from what they made of it: it is still above what guessing costs; where nobody knows what
    that is, weights are meant that look untrained.
    """
    return _went_a_short_way(case) and (_is_above_guessing(case) if case.guesses else case.run.untrained)


def holds_back(case: Case, end: float) -> bool:
    """Late in the run the loss is no lower than most of what guessing costs, now and where it would end.

    A fall from what large weights had made of it says nothing: at the usual scale a run begins at what guessing costs. Where
    the weights have hardly moved, too, a loss is meant that is not learnt, measured by that.
    """
    if not case.guesses or case.curve.signed or not case.progress > LATE:
        return False
    share = LEARNT if _went_a_short_way(case) else KNOWS_MORE
    return min(case.curve.now, end) - 2 * case.curve.error > share * min(case.guesses)


def _went_a_short_way(case: Case) -> bool:
    past = case.past
    is_whole = past.count >= 0.9 * case.now.step
    return is_whole and case.progress >= 0.4 and 0 < past.moved < SHORT_WAY


def _is_above_guessing(case: Case) -> bool:
    return case.curve.now > (1 + WORSE_THAN) * max(case.guesses) + 3 * case.curve.error
