"""How far a step moves the weights, and how the learning rate is planned."""

from __future__ import annotations

import math

from lightning_adam.diagnosis.advice import CLEARLY, lower_rate, warmup_steps
from lightning_adam.diagnosis.bearable import bearable_rate, good_unit_step
from lightning_adam.diagnosis.case import Case
from lightning_adam.diagnosis.finding import Finding
from lightning_adam.diagnosis.history import median
from lightning_adam.diagnosis.rules_gradients import stands_out
from lightning_adam.diagnosis.theory import LARGE_RATIO, UNPLANNED, noise_floor, untuned_warmup
from lightning_adam.diagnosis.wording import loss_clause, named, number, of_its_norm, place, rounded

LARGE_FIRST_STEP = 0.2
"""‖Δθ‖/‖θ‖ of a weight matrix in one of the first ten steps: 84 healthy runs stayed under 0.102, 31 sick had 0.32 up."""
HOPELESS_FIRST_STEP = 2.5
"""Beyond this no warmup helps: the steps that follow it are as large."""

SLIP = "Look at what sets the rate: it is back by now (a scheduler stepped twice, a callback, a restart). "


def no_warmup(case: Case) -> Finding | None:
    """The first steps move a weight matrix by more than 20 % of its norm, at the full rate: a lower rate with a warmup.

    At t = 1 Adam's |u| is 1 for every element, 1/noise_floor times its later value: this is what warmup is for. Up to
    250 %; beyond, where the rate is rising, and without a second moment (Lion's and SGD's later steps are no smaller), it
    is the rate itself. Measured: the warmup alone recovers 0 to 73 % of what is lost, the rate 71 % and more.
    """
    past = case.past
    if not case.is_early or not LARGE_FIRST_STEP < past.early_ratio <= HOPELESS_FIRST_STEP:
        return None
    if case.warms_up or not case.has_second_moment or case.run.steps_like in ("adapted", "accumulated"):
        return None
    if _is_decay(case):
        return None
    steps = warmup_steps(case, untuned_warmup(case.now.beta2))
    of = "of the run, as a share" if isinstance(steps, float) else "steps: 2/(1-beta2), at most a tenth of the run"
    advice = lower_rate(case, _by_first_step(case), f", with warmup={steps} ({of})")
    return Finding(
        "NO-WARMUP",
        "warning",
        case.now.step,
        f"the first steps moved {past.early_ratio_in or 'a weight matrix'} {of_its_norm(past.early_ratio)} (healthy: under "
        "10 %), and the learning rate started at its full value.",
        {"update_ratio": past.early_ratio, "lr": past.early_lr},
        named(past.early_ratio_in),
        advice.text,
        {**advice.changes, "warmup": steps},
    )


def lr_high(case: Case) -> Finding | None:
    """Steps too large for this model.

    In the first ten steps: a weight matrix moves > 20 % of its norm although the rate is warming up, or > 250 %. Later:
    the moving average of the median update ratio > 3 % at β₁ = 0.9; the limit scales with the noise floor, since steps
    of a smaller β₁ are larger and less aligned. Not where the decay's pull or a warmup explains it.
    """
    if case.is_early:
        return _lr_high_early(case)
    if case.rate_was_raised and (stands_out(case) or case.now.non_finite is not None or _rises_over_its_plan(case)):
        return _rate_raised(case)
    past, heavy = case.past, case.now.heavy
    limit = LARGE_RATIO * _floor(case.now.beta1) / _floor(0.9)
    recent = min(past.recent("update_ratio_p50", 2), default=math.nan)
    if heavy is None or past.count < 30 or not past.ratio_average > limit or not recent > 0.7 * limit:
        return None
    if not case.now.lr >= 0.3 * past.peak_lr or _is_decay(case):
        return None
    ratio = past.ratio_average
    advice = lower_rate(case, good_unit_step(case) * _floor(case.now.beta1) / ratio)
    return Finding(
        "LR-HIGH",
        "warning",
        case.now.step,
        f"a step moves weights {of_its_norm(ratio, 'their')} (healthy: about 0.2 %){loss_clause(case)}"
        f"{place(heavy.update_ratio_max_in)}.",
        {"update_ratio": ratio, "limit": limit, "lr": case.now.lr, "largest": heavy.update_ratio_max},
        named(heavy.update_ratio_max_in),
        advice.text,
        advice.changes,
    )


def _lr_high_early(case: Case) -> Finding | None:
    past = case.past
    if case.run.steps_like == "accumulated":  # the first step says nothing of the later ones
        return None
    grows = case.run.steps_like == "adapted"  # a rate that is found on the way is not too large for being higher than it was
    stays = past.early_ratio > LARGE_FIRST_STEP and not grows and (case.warms_up or not case.has_second_moment)
    if not (past.early_ratio > HOPELESS_FIRST_STEP or stays) or _is_decay(case):
        return None
    advice = lower_rate(case, _by_first_step(case))
    return Finding(
        "LR-HIGH",
        "warning",
        case.now.step,
        f"one of the first steps moved {past.early_ratio_in or 'a weight matrix'} {of_its_norm(past.early_ratio)} "
        "(healthy: under 10 %).",
        {"update_ratio": past.early_ratio, "lr": past.early_lr},
        named(past.early_ratio_in),
        advice.text,
        advice.changes,
    )


def _rises_over_its_plan(case: Case) -> bool:
    """The loss rises, or is over its start, and the rate is over what is configured: a schedule's own peak is as planned."""
    is_lost = case.course == "rising" or min(case.past.losses[-5:], default=-math.inf) > case.first_loss
    return is_lost and case.highest_rate > 1.05 * case.run.lr


def _rate_raised(case: Case) -> Finding:
    """Gradients stand out or are not finite, or the loss rises, shortly after a rise of the rate: the rate, and no batch."""
    now, highest = case.now, case.highest_rate
    before, norm = min(case.past.rates), number(now.gradient_norm)
    shows = (
        f"the gradient norm is {norm}, usually {number(case.usual_norm)}" if now.non_finite is None else "all is NaN or Inf"
    )
    return Finding(
        "LR-HIGH",
        "warning" if now.non_finite is None else "critical",
        now.step,
        f"the learning rate rose from {number(before)} to {number(highest)} over the last 25 steps, and "
        f"{shows}{loss_clause(case)}.",
        {"lr": highest, "before": before, "gradient_norm": now.gradient_norm},
        remedy=f"{SLIP if now.lr < 0.5 * highest else ''}Keep the learning rate under {rounded(2 * before):g}.",
        changes={"lr": rounded(2 * before)},
    )


def oscillation(case: Case) -> Finding | None:
    """Bouncing: each gradient undoes the step before it, and the loss does not fall.

    cos(gₜ, mₜ₋₁) is 0 in pure noise and -1 when steps alternate; < -0.3 on four passes over 20 steps. Healthy transformers,
    recurrent nets and full-batch runs at the edge of stability are there on a third of their passes: the loss decides.
    """
    past, heavy = case.past, case.now.heavy
    if heavy is None or past.count < 50 or not past.lasts("alignment", 4, 20, -1.5, -0.3) or not case.loss_measures_progress:
        return None
    if case.course == "falling" or past.level < max(past.best_level, 0.05 * past.initial_loss):
        return None
    advice = lower_rate(case, addition=", or a schedule that decays")
    return Finding(
        "OSCILLATION",
        "warning",
        case.now.step,
        f"each gradient undoes the step before it (cosine {heavy.alignment:.2f}){loss_clause(case)}.",
        {"alignment": heavy.alignment, "lr": case.now.lr, "level": past.level, "best": past.best_level},
        remedy=advice.text,
        changes=advice.changes,
    )


def _is_decay(case: Case) -> bool:
    """Weights move because the decay pulls them: healthy runs have at most 0.14."""
    return median(case.past.recent("decay_ratio", 3)) > 0.5


def _by_first_step(case: Case) -> float:
    """What is left of the rate where nothing else tells which one the model can bear."""
    return UNPLANNED / case.past.early_ratio if math.isnan(bearable_rate(case)) else CLEARLY


def _floor(beta1: float) -> float:
    """What is left of |u| where gradients are noise; without a β₁ as at 0.9, at which limits were measured."""
    return noise_floor(beta1 if 0 <= beta1 < 1 else 0.9)
