"""Steps that are too small, or too few of them at a rate that moves anything."""

from __future__ import annotations

import math

from lightning_adam.diagnosis.advice import Advice, configured_rate, higher_rate
from lightning_adam.diagnosis.bearable import bearable_rate, creeps, good_unit_step
from lightning_adam.diagnosis.case import Case
from lightning_adam.diagnosis.course import LEARNT
from lightning_adam.diagnosis.finding import Finding
from lightning_adam.diagnosis.harm import is_where_it_was_initialised
from lightning_adam.diagnosis.history import PASSES, median
from lightning_adam.diagnosis.large_weights import SHORT_WAY
from lightning_adam.diagnosis.pace import AGREE, goes_on_as_it_began
from lightning_adam.diagnosis.saddle import leaves_a_saddle
from lightning_adam.diagnosis.theory import HEALTHY_RATIO, SMALL_RATIO, agreement
from lightning_adam.diagnosis.wording import loss_clause, number, percent

STILL_THERE = 0.93
"""Of its start: a loss that stands there has learnt next to nothing."""
HARDLY = 0.01
"""Of a weight's norm, by all steps together: five steps of a healthy run, by ``HEALTHY_RATIO``."""
SHORT_WAY_UNSEEN = 0.1
"""Of a weight's norm, where nothing tells whether steps agree; else as :data:`SHORT_WAY`. Of 104 runs at a hundredth of
their rate the median is 0.02."""
FAR = 1.0
"""Of its norm, by all steps of the matrix that moves most."""
AGREED = 1.4
"""Noise floors: rms of the steps' direction above which they agree with each other."""
TRAINED = 0.65
"""Of what guessing costs: an untrained network begins above it; a pre-trained language model at a half of it."""
STRAIGHT_ON = 0.9
"""Cosine of a gradient with the momentum before it: noise gives 0, and what gets anywhere turns on the way."""


def lr_low(case: Case) -> Finding | None:
    """Steps too small: the median update ratio < 1.5e-4 while all steps agree, and the loss has hardly moved.

    Or, whatever the ratio: after 40 % of the run each gradient still points where all before it did (:func:`never_turns`).
    Or, whatever the gradients: all steps together are under 1 % of the weights (:func:`_has_hardly_moved`).
    Or, whatever the ratio: all steps together are a short way, and the loss would not arrive (:func:`goes_too_short_a_way`);
    of several optimizers, whose losses tell nothing, and of a signed loss a short way from an initialisation alone.

    Healthy medians are 3.1e-4 and more, sick ones 1e-4 and less. "Agree": rms(u) > 1.75 noise floors (at most 0.8):
    a rate that is small enough lets the gradient point the same way step after step. Where there are no moments,
    the loss must have stood still for 40 % of the run. The rate to try gives a healthy ratio once steps disagree as usual.
    """
    past, now = case.past, case.now
    if now.heavy is None or past.count < 60 or (began_trained(case) and not never_turns(case)):
        return None
    if case.course == "rising" or leaves_a_saddle(case):
        return None
    found = _too_small_steps(case) if now.lr > 0.3 * past.peak_lr else _left_off_early(case)
    if found is None or not past.peak_lr < 0.5 * configured_rate(case):
        return found
    return None if past.low_lr > 0 else never_arrives(case)  # what has fallen since is SCHEDULE-COLLAPSED's


def _too_small_steps(case: Case) -> Finding | None:
    past = case.past
    if never_turns(case):
        return _straight_path(case)
    is_left_behind = (case.run.optimizers > 1 or past.is_signed) and is_where_it_was_initialised(case)
    if is_left_behind or goes_too_short_a_way(case):
        return _went_a_short_way(case)
    if not case.loss_measures_progress:
        return None
    if past.level < 0.5 * past.initial_loss or median(past.recent("eps_share", 3)) > 0.3 or case.run.steps_like == "adapted":
        return None
    if creeps(case):
        return _gain_too_small(case)
    ratios, rms = past.recent("update_ratio_p50", 3), median(past.recent("normalised_rms", 3))
    if len(ratios) < 3 or not (_steps_agree(case, rms) or _has_hardly_moved(case, median(ratios))):
        return None
    if 3 * _first_order_gain(case) < 0.2 * past.level:
        return _gain_too_small(case)
    if not (0 < median(ratios) < SMALL_RATIO or _shrinks_to_nothing(case, median(ratios))):
        return None
    advice = rate_of_good_steps(case)
    agree = f", and steps agree with each other (rms {number(rms, 2)})" if rms > 0 else ""
    return _too_low(
        case,
        f"a step moves weights by {percent(median(ratios))} of their norm (healthy: about 0.2 %){agree}{loss_clause(case)}.",
        {"update_ratio": median(ratios), "normalised_rms": rms},
        advice,
    )


def _left_off_early(case: Case) -> Finding | None:
    """The schedule has lowered the rate: steps are meant to be small by now, but all so far should have led somewhere."""
    return _went_a_short_way(case) if goes_too_short_a_way(case) else None


def _too_low(case: Case, message: str, evidence: dict[str, float | str], advice: Advice) -> Finding:
    return Finding(
        "LR-LOW",
        "warning",
        case.now.step,
        message,
        {**evidence, "lr": case.now.lr},
        remedy=advice.text or "Gradients are small for this rate: look at the loss's scale and at the initialisation.",
        changes=advice.changes,
    )


def began_trained(case: Case) -> bool:
    """A classifier's first loss was well under what guessing costs: it goes on from others' training, and has less to go.

    By what guessing costs in its own loss, where that is known: of grades that are asked for as several yes or no it is less
    than the labels' entropy. Not where its weights are as initialised: then the loss is none that guessing the labels has to
    do with.
    """
    entropy = median(case.past.recent("target_entropy", PASSES))
    guess = min(case.run.constants) if case.run.constants else entropy
    return not case.run.untrained and case.past.initial_loss < TRAINED * guess


def rate_of_good_steps(case: Case, least: float = 3.0) -> Advice:
    """What this run can bear, as far as somebody would try it."""
    return higher_rate(case, min(1000.0, max(least, _times_as_high(case))))


def _times_as_high(case: Case) -> float:
    """By the present steps and how large |u| is in them; where nobody knows, by the first one, or by what is healthy."""
    past, configured, bearable = case.past, configured_rate(case), bearable_rate(case)
    ratio, rms = median(past.recent("update_ratio_p50", 3)), median(past.recent("normalised_rms", 3))
    if rms > 0 and ratio > 0 and past.peak_lr > 0:
        return good_unit_step(case) * rms / ratio * case.now.lr / past.peak_lr
    if bearable > 0 and configured > 0:
        return bearable / configured
    return HEALTHY_RATIO / ratio if ratio > 0 else math.nan


def never_turns(case: Case) -> bool:
    """After 40 % of the run the gradients of eight passes agree nearly wholly with the momentum before them.

    And at the pace of the whole run the loss would not get under 30 % of its start: else it may be a plain slope that is
    gone down well. A signed loss has no such end.
    """
    cosines, past = case.past.recent("alignment", 8), case.past
    if len(cosines) < 8 or not case.progress >= 0.4 or past.is_signed or case.run.steps_like == "adapted":
        return False
    if not (median(cosines) > STRAIGHT_ON and min(cosines) > STRAIGHT_ON - 0.1):
        return False
    return _ends_high(case)


def _straight_path(case: Case) -> Finding:
    cosine = median(case.past.recent("alignment", 5))
    advice = rate_of_good_steps(case, 10.0)
    return _too_low(
        case,
        f"after {percent(case.progress)} of the run each gradient still points where the ones before it did (cosine "
        f"{number(cosine, 2)}; 0 is usual): the steps are too short to get anywhere{loss_clause(case)}.",
        {"alignment": cosine, "update_ratio": median(case.past.recent("update_ratio_p50", 3))},
        advice,
    )


def goes_too_short_a_way(case: Case) -> bool:
    """After 40 % of the run the steps agree, all of them together are under 15 % of the weights, and most is unlearnt.

    At the pace of the whole run the loss would not get under 30 % of its start. Where no moments tell whether steps agree:
    after half of the run, under 10 %.
    """
    since = 0.4 if _agreement(case) else 0.5
    return _way_gone(case) >= since and is_a_short_way(case) and _is_unlearnt(case)


def _way_gone(case: Case) -> float:
    """Share of the run, by how far its steps go: RAdam's grow as √t for its first 2/(1-β₂) steps, and are short at first.

    Liu et al. 2020 (arXiv:1908.03265), the rectification r.
    """
    run = case.run
    is_growing = run.optimizer == "RAdam" and run.total_steps * (1 - case.now.beta2) < 2
    return case.progress**1.5 if is_growing else case.progress


def is_a_short_way(case: Case) -> bool:
    """Steps that agree, or may agree, and that are a small part of the weights all together; known from the start on.

    Or whose noise hides that they do, as of embeddings with rare rows, where the loss has not moved either.
    Not where some matrix goes far: a new head on a body that is trained at a rate of its own.
    """
    past, agree = case.past, _agreement(case)
    limit = SHORT_WAY if agree else SHORT_WAY_UNSEEN
    if (agree is False and not _stands_still(case)) or not 0 < past.moved < limit:
        return False
    if case.run.optimizers > 1 or past.count < 0.9 * case.now.step:
        return False
    if past.count * median(past.recent("update_ratio_max", 5)) > FAR:
        return False
    return case.run.steps_like != "adapted" and not median(past.recent("eps_share", 3)) > 0.3


def _is_unlearnt(case: Case) -> bool:
    """By its pace so far; a signed loss that has fallen far may have the wrong sign."""
    past = case.past
    if past.is_signed:
        return past.initial_loss - past.level < max(1.0, abs(past.initial_loss)) and goes_on_as_it_began(case)
    return _ends_high(case)


def _agreement(case: Case) -> bool | None:
    """Whether steps agree by more than noise does, in their size or their direction; None where nobody knows.

    In the direction alone where many elements have no gradient: zeros make the steps' rms small.
    """
    rms, cosine = (median(case.past.recent(name, 5)) for name in ("normalised_rms", "alignment"))
    return None if math.isnan(rms) else rms > agreement(case.now.beta1, AGREED) or cosine > AGREE


def _ends_high(case: Case) -> bool:
    """At the pace of the whole run the loss would not get under 30 % of its start."""
    start, level = case.past.initial_loss, case.past.level
    return level - (start - level) * (1 / case.progress - 1) > LEARNT * start


def _went_a_short_way(case: Case) -> Finding:
    past, ratio = case.past, median(case.past.recent("update_ratio_p50", 3))
    rms = median(past.recent("normalised_rms", 3))
    advice = rate_of_good_steps(case)
    agree = f", and they agree with each other (rms {number(rms, 2)})" if rms > 0 else ""
    return _too_low(
        case,
        f"after {percent(case.progress)} of the run all steps together are {percent(past.moved)} of the weights' norm "
        f"(healthy: over 25 %){agree}{loss_clause(case)}.",
        {"moved": past.moved, "update_ratio": ratio, "normalised_rms": rms},
        advice,
    )


def _first_order_gain(case: Case) -> float:
    """What the whole run would gain in SGD, to first order α·|g|² per step; NaN of other steps.

    By the larger one of the first gradients and the usual ones: where they have faded, the place is flat, whatever the rate.
    """
    norm = max(median(case.past.norms), median(case.past.first_norms))
    return case.now.lr * norm * norm * case.run.total_steps if case.run.steps_like == "sgd" else math.nan


def _gain_too_small(case: Case) -> Finding:
    """Weights that begin near zero move by a usual share, and still the rate is too low: the gradient's size says so."""
    level, promised, advice = case.past.level, _first_order_gain(case), rate_of_good_steps(case)
    return _too_low(
        case,
        f"at this rate the gradient (norm {number(median(case.past.norms))}) promises a fall by {number(promised)} in the "
        f"whole run, and the loss is {number(level, 4)}.",
        {"promised": promised, "level": level},
        advice,
    )


def _has_hardly_moved(case: Case, ratio: float) -> bool:
    """All steps together are under 1 % of the weights after 40 % of the run, and the loss stands where it began.

    Small batches' gradients do not agree, however small the rate is; and what has not moved cannot have learnt.
    """
    return case.progress >= 0.4 and _stands_still(case) and 0 < case.past.count * ratio < HARDLY


def _stands_still(case: Case) -> bool:
    return case.course == "standing" and case.past.level > STILL_THERE * case.past.initial_loss


def _shrinks_to_nothing(case: Case, ratio: float) -> bool:
    """Adagrad's steps shrink as 1/√t: all of them together, about 2·t·(the last), are under a tenth of the weights."""
    return case.run.steps_like == "accumulated" and 0 < 2 * case.past.count * ratio < 0.1


def _steps_agree(case: Case, rms: float) -> bool:
    if math.isnan(rms):
        return case.progress >= 0.4 and _stands_still(case)
    return rms > agreement(case.now.beta1)


def never_arrives(case: Case) -> Finding:
    """The rate that was configured was never reached: a warmup that is counted in epochs, or is longer than the run."""
    now, configured = case.now, configured_rate(case)
    return Finding(
        "SCHEDULE-NEVER-ARRIVES",
        "warning",
        now.step,
        f"after {case.past.count} steps the learning rate is {number(now.lr)}, and {number(configured)} is configured; "
        f"weights hardly move{loss_clause(case)}.",
        {"lr": now.lr, "configured": configured},
        remedy='Count the warmup in what it is stepped by (Lightning: "interval": "step" or "epoch"), and make it shorter '
        "than the run: warmup=0.05 is a twentieth of it.",
        changes={"warmup": 0.05},
    )


def schedule_collapsed(case: Case) -> Finding | None:
    """The rate fell to 1 % of its peak before 60 % of the run, stays there, and the loss is still over 20 % of L0.

    "Stays": for 20 steps and 3 % of the run (restarts dip for 6 % of a cycle).
    """
    past, now, run = case.past, case.now, case.run
    since = case.progress - past.low_lr / max(run.total_steps, 1)
    if not past.low_lr >= max(20, 0.03 * run.total_steps) or not since < 0.6:
        return None
    if now.lr >= past.peak_lr or (not past.is_signed and past.level < 0.2 * past.initial_loss):
        return None
    return Finding(
        "SCHEDULE-COLLAPSED",
        "warning",
        now.step,
        f"the learning rate fell from {number(past.peak_lr)} to {number(now.lr)} after {percent(case.progress)} of the run, "
        f"and the loss is still {number(past.level, 4)}.",
        {"lr": now.lr, "peak": past.peak_lr, "progress": case.progress, "loss": past.level},
        remedy=f"Let schedule={run.schedule!r} last for the whole run: its total_steps, decay and options end it too early; "
        "or use schedule='cosine'."
        if run.schedule
        else 'Count the schedule in what it is stepped by (Lightning: "interval": "step" or "epoch"; T_max, gamma and '
        f"step_size likewise), or leave it to the helper: schedule='cosine' over {number(run.total_steps, 6)} steps.",
        changes={"schedule": "cosine"},
    )
