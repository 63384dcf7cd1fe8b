"""What the loss alone shows: it is not finite, it has left its range, it falls without bound."""

from __future__ import annotations

import math
from itertools import pairwise

from lightning_adam.diagnosis.advice import Advice, clip_to, lower_rate
from lightning_adam.diagnosis.case import Case
from lightning_adam.diagnosis.course import STUCK
from lightning_adam.diagnosis.finding import Finding
from lightning_adam.diagnosis.history import PASSES, median, spread
from lightning_adam.diagnosis.trainer_words import words_for
from lightning_adam.diagnosis.wording import batch_name, number

MIRRORED = (0.75, 2.5)
"""What an untrained classifier costs, in entropies of the labels: 1 for equal classes, more where many never come."""
LEAST_SIMILARITY = -1
"""A cosine; what people train to its least value, and what begins near zero without being an error."""
NON_FINITE_REMEDY = {
    "loss": "The weights were still finite: look at this batch (NaN inputs, log or division by 0 in the loss), "
    "then restart from the last checkpoint.",
    "gradient": "The loss was finite: look for sqrt, norm or log at 0 in the named layer (add an epsilon inside), "
    "or run with {anomaly}; restart from the last checkpoint.",
    "moment": "Loss and gradient were finite: the optimizer's state overflowed{eps}; restart "
    "from the last checkpoint with eps=1e-8 and 32-bit state.",
    "parameter": "Loss and gradient were finite: the step itself overflowed{eps}; restart from "
    "the last checkpoint with eps=1e-8, and a lower lr if the loss was rising.",
    "start": "Look at the initialisation (torch.empty, a division by 0), and at the checkpoint that was loaded.",
}
"""By what was not finite first; ``start`` where it was so before the first step."""


def non_finite(case: Case) -> Finding | None:
    """NaN or Inf; exact. The step's own order tells the cause: loss, then gradient, then moment or parameter."""
    bad, past = case.now.non_finite, case.past
    if bad is None or past.non_finite:
        return None
    names, is_start = bad.parameters, _was_spoilt_before(case)
    before = f"; the last {len(past.losses)} losses were finite (last {number(past.losses[-1], 4)})" if past.losses else ""
    place = f" in {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}" if names else ""
    became = f"became NaN or Inf first ({batch_name(case)}){before}"
    advice = _mend_non_finite(case, "start" if is_start else bad.where)
    return Finding(
        "NON-FINITE",
        "critical",
        case.now.step,
        f"the {bad.where}{place} {'was NaN or Inf before the first step' if is_start else became}.",
        {"first": bad.where, "loss": case.now.loss, "gradient_norm": case.now.gradient_norm, "batch": case.now.batch},
        names,
        advice.text,
        advice.changes,
    )


def _mend_non_finite(case: Case, where: str) -> Advice:
    """An ε that let 0/0 through is named where the state or the step overflowed."""
    is_small = case.run.smallest_eps < 1e-12 and where in ("moment", "parameter")
    eps = f", or eps={case.run.smallest_eps:g} let 0/0 through" if is_small else ""
    return Advice(
        NON_FINITE_REMEDY[where].format(eps=eps, anomaly=words_for(case.run).anomaly), {"eps": 1e-8} if is_small else {}
    )


def _was_spoilt_before(case: Case) -> bool:
    """Weights or moments with which the first step, as far as it is seen, began: its loss is not finite for that."""
    bad = case.now.non_finite
    is_state = bad is not None and bad.where in ("moment", "parameter")
    return is_state and case.past.count == 0 and not math.isfinite(case.now.loss)


def loss_diverged(case: Case) -> Finding | None:
    """The loss has left its range for good; critical where it lies above its start.

    median of 10 > max(3·best, best + 0.1·L0), or > 1.5·L0, where best is the lowest median of 25; and over the range of the
    60 before: their median + 6·spread, and 95 % of them (near zero loss, noise has a heavy tail).
    Of a signed loss: over its start by three times all that it had fallen. Not asked of several optimizers: adversaries'
    losses rise in healthy runs; nor, below ten times the start, of a model with a target network that moves (Q-learning,
    BYOL, MoCo).
    """
    past, now = case.past, case.now
    recent = [*past.losses[-9:], *([now.loss] if math.isfinite(now.loss) else [])]
    if len(past.losses) < 25 or len(recent) < 10 or case.run.optimizers > 1:
        return None
    level, best, first = median(recent), past.best_loss, past.initial_loss
    if not level > (first if past.is_signed else min(2 * best, first)):  # the limit is higher, and dear
        return None
    limit = 1.5 * first if _has_climbed_over_its_start(case) else _diverged_limit(case)
    if not level > max(limit, limit * case.targets_growth) or (past.target_moves and case.target_may_explain(level)):
        return None
    advice = lower_rate(case, addition=" or a schedule that decays")
    return Finding(
        "LOSS-DIVERGED",
        "critical" if level > first else "warning",
        now.step,
        f"the loss went from {number(best, 4)} (its best level) to {number(level, 4)} and stays there.",
        {"level": level, "best": best, "limit": limit, "first": first},
        remedy=f"Restart from a checkpoint before step {max(0, now.step - 5)}: {_lower_first(advice.text)} "
        "If an earlier finding names a cause, mend that first.",
        changes=advice.changes,
    )


def _has_climbed_over_its_start(case: Case) -> bool:
    """So slowly that the losses before are no measure, for they climbed, too: it had learnt, and the last 25, but for one,
    lie over the start."""
    past = case.past
    had_learnt = not past.is_signed and past.best_loss < STUCK * past.initial_loss
    return had_learnt and sorted(past.losses[-25:])[1] > past.initial_loss


def _diverged_limit(case: Case) -> float:
    past = case.past
    window, best, first = past.losses[-69:-9], past.best_loss, past.initial_loss
    usual = max(median(window) + 6 * spread(window), sorted(window)[int(0.95 * len(window))])
    if past.is_signed:
        return max(first + 3 * max(0.0, first - best) + 6 * spread(window), usual)
    return max(min(max(3 * best, best + 0.1 * first), max(1.5 * first, 2 * best)), usual)


def loss_spike(case: Case) -> Finding | None:
    """The loss jumps for a moment: > 3·median of 50, > median + 8·spread and > median + 0.2·L0, from step 30 on.

    A plain z > 6 flags 4-8 % of healthy runs, hence the two further conditions. Advice only: one batch is no sickness.
    """
    past, now = case.past, case.now
    if not math.isfinite(now.loss) or len(past.losses) < 30 or not case.loss_measures_progress:
        return None
    level = case.usual_loss
    if not now.loss > 3 * level:
        return None
    width = spread(past.losses[-50:])
    if not now.loss > max(3 * level, level + 8 * width, level + 0.2 * past.initial_loss):
        return None
    clip = clip_to(case, 1.0)
    recurs = f"use {clip.text}, then betas=(0.9, 0.95)" if clip.text else "use betas=(0.9, 0.95)"
    return Finding(
        "LOSS-SPIKE",
        "info",
        now.step,
        f"the loss jumped from {number(level, 4)} to {number(now.loss, 4)} at {batch_name(case)}.",
        {"loss": now.loss, "median": level, "spread": width, "batch": now.batch},
        remedy=f"If it comes back down, one batch did it: look at that batch. If spikes recur, {recurs}.",
        changes=clip.changes,
    )


def wrong_sign(case: Case) -> Finding | None:
    """The loss falls without bound: far under zero, and no more slowly than before.

    A likelihood or a reward falls ever more slowly; what has no floor (a squared error with the wrong sign, ``nll_loss`` on
    raw logits) falls faster the larger the weights are, or, in its logits, for ever in the same direction.
    """
    past = case.past
    if case.run.optimizers > 1 or not past.losses or not past.losses[-1] < 0:
        return None
    regular = past.count % 25 == 0 and (_accelerates(case) or _runs_straight_down(case))
    is_told_from_start = (past.count % 25 == 0 or past.count < 25) and _is_mirrored(case)
    if not (regular or is_told_from_start or _plunges(case)):
        return None
    now = median(past.losses[-3:])
    return Finding(
        "WRONG-SIGN",
        "warning",
        case.now.step,
        f"the loss falls without bound: it began at {number(past.initial_loss, 4)}, is at {number(now, 4)}, and falls no "
        "more slowly than before.",
        {"first": past.initial_loss, "level": now},
        remedy="Look at its sign, and at what it is given: F.nll_loss needs log-probabilities (log_softmax), not logits; "
        "F.cross_entropy takes logits.",
    )


def _loss_scale(case: Case) -> float:
    """How large the loss was at first; at least one nat: a similarity begins at zero and ends at -1."""
    return max(1.0, abs(case.past.initial_loss), spread(case.past.first_losses[:10]), _depth_of_counts(case))


def _depth_of_counts(case: Case) -> float:
    """How far the likelihood of counts of the targets' size lies under zero, R·(ln R - 1) for a mean of R, less than R·ln R.

    ``torch.nn.PoissonNLLLoss`` leaves out the factorial, which does not depend on the model: raw counts take a loss that
    begins near zero far down, ever faster while the logarithm of the rate grows.
    """
    rms = median(case.past.recent("target_rms", PASSES))
    return rms * math.log(rms) if rms > 1 else 0.0


def _error_scale(case: Case) -> float:
    """Of a regression's loss that began below zero and is under every similarity: how large it was, however small."""
    past = case.past
    is_regression = median(past.recent("target_rms", PASSES)) > 0
    is_below = past.initial_loss < 0 and bool(past.levels) and past.levels[-1] < 2 * LEAST_SIMILARITY
    return abs(past.initial_loss) if is_regression and is_below else math.inf


def _accelerates(case: Case) -> bool:
    """Over the whole run, in thirds: each fell by 1.5 times as much as the one before, the last by 20 times the scale."""
    past, scale = case.past, min(_loss_scale(case), _error_scale(case))
    if len(past.levels) < 6:
        return False
    third = len(past.levels) // 3
    marks = [past.initial_loss, *(past.levels[-1 - k * third] for k in (2, 1, 0))]
    falls = [before - after for before, after in pairwise(marks)]
    return all(b > 1.5 * a > 0 for a, b in pairwise(falls)) and falls[-1] > 20 * scale


def _runs_straight_down(case: Case) -> bool:
    """After 40 % of the run 20 times its scale under zero, as steep as at first, and all steps point the same way."""
    past = case.past
    if len(past.levels) < 4 or case.progress < 0.4 or not past.levels[-1] < -20 * _loss_scale(case):
        return False
    middle = past.levels[len(past.levels) // 2 - 1]
    return middle - past.levels[-1] > 0.9 * (past.initial_loss - middle) and median(past.recent("alignment", 5)) > 0.8


def _is_mirrored(case: Case) -> bool:
    """A cross entropy is not negative: it began at minus what an untrained classifier's costs, and is twice as far down."""
    entropy, first = median(case.past.recent("target_entropy", PASSES)), case.first_loss
    low, high = MIRRORED
    return entropy > 0 and low * entropy < -first < high * entropy and median(case.past.losses[-10:]) < 2 * first


def _plunges(case: Case) -> bool:
    """Within a few steps a hundred times its scale under zero, each three steps further than the three before."""
    last = case.past.losses[-9:]
    if len(last) < 9 or not last[-1] < -100 * _loss_scale(case):
        return False
    one, two, three = (median(last[k : k + 3]) for k in (0, 3, 6))
    return two - three > 1.5 * (one - two) > 0


def _lower_first(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
