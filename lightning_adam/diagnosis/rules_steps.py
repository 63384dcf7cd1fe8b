"""How far a step moves the weights, and how the learning rate is planned."""

from __future__ import annotations

import math

from lightning_adam.diagnosis.finding import Finding
from lightning_adam.diagnosis.history import EARLY, Case, median
from lightning_adam.diagnosis.theory import SMALL_RATIO, agreement, noise_floor, untuned_warmup
from lightning_adam.diagnosis.wording import loss_clause, percent, place, rounded

LARGE_FIRST_STEP = 0.2
"""‖Δθ‖/‖θ‖ of a weight matrix in one of the first ten steps: 84 healthy runs stayed under 0.102, 31 sick had 0.32 up."""
HOPELESS_FIRST_STEP = 2.5
"""Beyond this no warmup helps: the steps that follow it are as large."""
GOOD_FIRST_STEP = 0.02
"""What the rate to try gives (healthy median 0.014); under a warmup, once |u| has fallen from 1 to its noise floor."""
LARGE_RATIO = 0.03
"""Median ‖Δθ‖/‖θ‖ in a running training: healthy at most 0.025, rising rates cross it 59-144 steps before the loss."""
HEALTHY_RATIO = 0.002
"""The median of 84 healthy runs is 0.0021 (p10 0.0012, p90 0.0049)."""


def no_warmup(case: Case) -> Finding | None:
    """The first steps move a weight matrix by more than 20 % of its norm, at the full rate: a warmup mends it.

    At t = 1 Adam's |u| is 1 for every element, 1/noise_floor times its later value: this is what warmup is for. Up to
    250 %; beyond, where the rate is rising, and without a second moment (Lion's and SGD's later steps are no smaller), it
    is the rate itself.
    """
    past = case.past
    if not LARGE_FIRST_STEP < past.early_ratio <= HOPELESS_FIRST_STEP or not _is_early(case):
        return None
    if _warms_up(case) or not _has_second_moment(case):
        return None
    steps = max(20, min(2000, untuned_warmup(case.now.beta2)))
    if math.isfinite(case.run.total_steps):
        steps = max(10, min(steps, round(case.run.total_steps / 5)))
    lower = rounded(past.early_lr * GOOD_FIRST_STEP / past.early_ratio)
    return Finding(
        "NO-WARMUP",
        "warning",
        case.now.step,
        f"the first steps moved {past.early_ratio_in} by {percent(past.early_ratio)} of its norm (healthy: under 10 %), "
        "and the learning rate started at its full value.",
        {"update_ratio": past.early_ratio, "lr": past.early_lr},
        (past.early_ratio_in,),
        f"Start again with lr={lower} (now {past.early_lr:.3g}), or keep it with warmup={steps} steps (2/(1-beta2), at "
        "most a fifth of the run).",
        {"lr": rounded(past.early_lr / 3), "warmup": steps},
    )


def lr_high(case: Case) -> Finding | None:
    """Steps too large for this model.

    In the first ten steps: a weight matrix moves > 20 % of its norm although the rate is warming up, or > 250 %. Later:
    the moving average of the median update ratio > 3 % at β₁ = 0.9; the limit scales with the noise floor, since steps
    of a smaller β₁ are larger and less aligned. Not where the decay's pull or a warmup explains it.
    """
    past = case.past
    if _is_early(case):
        return _lr_high_early(case)
    limit = LARGE_RATIO * _floor_scale(case.now.beta1)
    recent = past.recent("update_ratio_p50", 2)
    if (
        case.now.heavy is None
        or past.count < 30
        or not past.ratio_average > limit
        or not min(recent, default=math.nan) > 0.7 * limit
    ):
        return None
    if not case.now.lr >= 0.3 * past.peak_lr or median(past.recent("decay_ratio", 3)) > 0.5:
        return None
    ratio = past.ratio_average
    lower = rounded(case.now.lr * max(1 / 30, min(1 / 3, 2 * HEALTHY_RATIO * _floor_scale(case.now.beta1) / ratio)))
    return Finding(
        "LR-HIGH",
        "critical" if ratio > 5 * limit else "warning",
        case.now.step,
        f"weights move {percent(ratio)} of their norm per step (healthy: about 0.2 %){loss_clause(case)}"
        f"{place(case.now.heavy.update_ratio_max_in)}.",
        {"update_ratio": ratio, "limit": limit, "lr": case.now.lr, "largest": case.now.heavy.update_ratio_max},
        _named(case.now.heavy.update_ratio_max_in),
        f"Try lr={lower} (now {case.now.lr:.3g}), or let it decay from here.",
        {"lr": lower},
    )


def _lr_high_early(case: Case) -> Finding | None:
    past = case.past
    stays = past.early_ratio > LARGE_FIRST_STEP and (_warms_up(case) or not _has_second_moment(case))
    if not (past.early_ratio > HOPELESS_FIRST_STEP or stays):
        return None
    peak = _planned_peak(case)
    good = GOOD_FIRST_STEP / (noise_floor(case.now.beta1) if _warms_up(case) and 0 <= case.now.beta1 < 1 else 1.0)
    lower = rounded(min(peak / 3, past.early_lr * good / past.early_ratio))
    return Finding(
        "LR-HIGH",
        "critical" if past.early_ratio > HOPELESS_FIRST_STEP else "warning",
        case.now.step,
        f"one of the first steps moved {past.early_ratio_in} by {percent(past.early_ratio)} of its norm "
        "(healthy: under 10 %).",
        {"update_ratio": past.early_ratio, "lr": past.early_lr},
        (past.early_ratio_in,),
        f"Try lr={lower} (now {past.early_lr:.3g} at this step).",
        {"lr": lower},
    )


def lr_low(case: Case) -> Finding | None:
    """Steps too small: the median update ratio < 1.5e-4 while all steps agree, and the loss has hardly moved.

    Healthy medians are 3.1e-4 and more, sick ones 1e-4 and less. "Agree": rms(u) > 1.75 noise floors (at most 0.8):
    a rate that is small enough lets the gradient point the same way step after step. Where there are no moments,
    the loss must have stood still for 40 % of the run. The rate to try gives a healthy ratio once steps disagree as usual.
    """
    past, now = case.past, case.now
    if now.heavy is None or past.count < 60 or not now.lr > 0.3 * past.peak_lr or past.level < 0.5 * past.initial_loss:
        return None
    ratios, rms = past.recent("update_ratio_p50", 3), median(past.recent("normalised_rms", 3))
    agree = agreement(now.beta1)
    stands = case.progress >= 0.4 and past.level > 0.965 * past.initial_loss
    if len(ratios) < 3 or not median(ratios) < SMALL_RATIO or not (rms > agree or (math.isnan(rms) and stands)):
        return None
    if median(past.recent("eps_share", 3)) > 0.3 or not case.loss_falls_by_itself:
        return None
    settles = rms / noise_floor(now.beta1) if rms > 0 and 0 <= now.beta1 < 1 else 1.0
    higher = rounded(now.lr * min(1000.0, max(3.0, HEALTHY_RATIO / median(ratios) * settles)))
    return Finding(
        "LR-LOW",
        "warning",
        now.step,
        f"weights move {percent(median(ratios))} of their norm per step (healthy: about 0.2 %), and steps agree with each "
        f"other (rms {rms:.2g}){loss_clause(case)}.",
        {"update_ratio": median(ratios), "normalised_rms": rms, "lr": now.lr},
        remedy=f"Try lr={higher} (now {now.lr:.3g}).",
        changes={"lr": higher},
    )


def schedule_collapsed(case: Case) -> Finding | None:
    """The rate fell under 1 % of its peak before 60 % of the run, stays there, and the loss is still over 20 % of L0.

    "Stays": for 20 steps and 3 % of the run (restarts dip for 6 % of a cycle).
    """
    past, now = case.past, case.now
    if not past.low_lr >= max(20, 0.03 * case.run.total_steps) or not case.progress < 0.6:
        return None
    if past.level < 0.2 * past.initial_loss or now.lr >= past.peak_lr:
        return None
    return Finding(
        "SCHEDULE-COLLAPSED",
        "warning",
        now.step,
        f"the learning rate fell from {past.peak_lr:.3g} to {now.lr:.3g} after {case.progress:.0%} of the run, and the loss "
        f"is still {past.level:.4g}.",
        {"lr": now.lr, "peak": past.peak_lr, "progress": case.progress, "loss": past.level},
        remedy='Count the schedule in what it is stepped by (Lightning: "interval": "step" or "epoch"; T_max, gamma and '
        f"step_size likewise), or leave it to the helper: schedule='cosine' over {case.run.total_steps:g} steps.",
        changes={"schedule": "cosine"},
    )


def oscillation(case: Case) -> Finding | None:
    """Bouncing: each gradient undoes the step before it, and the loss does not fall.

    cos(gₜ, mₜ₋₁) is 0 in pure noise and -1 when steps alternate; < -0.3 on four passes over 20 steps, with the last 25
    losses no lower than the 25 before. At the edge of stability a healthy full-batch run is negative too, and falls.
    """
    past = case.past
    if case.now.heavy is None or not past.lasts("alignment", 4, 20, -1.5, -0.3) or past.count < 50:
        return None
    if not case.loss_falls_by_itself or past.level < max(past.best_level, 0.05 * past.initial_loss):
        return None
    lower = rounded(case.now.lr / 3)
    return Finding(
        "OSCILLATION",
        "warning",
        case.now.step,
        f"each gradient undoes the step before it (cosine {case.now.heavy.alignment:.2f}; noise gives 0)"
        f"{loss_clause(case)}.",
        {"alignment": case.now.heavy.alignment, "lr": case.now.lr, "level": past.level, "best": past.best_level},
        remedy=f"Try lr={lower} (now {case.now.lr:.3g}), or a schedule that decays.",
        changes={"lr": lower},
    )


def _is_early(case: Case) -> bool:
    return case.past.count < EARLY and case.run.first_step == 0 and not case.past.non_finite


def _warms_up(case: Case) -> bool:
    """The helper's schedule says so, or the rate has risen."""
    return case.run.warmup > 1 or case.now.lr > case.past.first_lr * 1.001


def _has_second_moment(case: Case) -> bool:
    return bool(case.past.recent("second_moment_p50", 16))


def _planned_peak(case: Case) -> float:
    """The rate that a warmup leads to: the helper's is linear, (k+1)/warmup."""
    warmup = case.run.warmup
    if warmup > 1 and case.now.step < warmup:
        return case.now.lr * warmup / (case.now.step + 1)
    return case.past.peak_lr


def _floor_scale(beta1: float) -> float:
    """The limits above were measured at β₁ = 0.9."""
    return noise_floor(beta1) / noise_floor(0.9) if 0 <= beta1 < 1 else 1.0


def _named(name: str) -> tuple[str, ...]:
    return (name,) if name else ()
