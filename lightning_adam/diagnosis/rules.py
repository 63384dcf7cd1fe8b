"""The rules: each a pure function of this step's signals and the history before it.

Thresholds come from 84 healthy and 184 sick recorded runs (research/divergence.md §5); the margins are in the docstrings.
Adding a rule is one function here and one row in RULES; ``tests/test_every_rule.py`` asks for its two examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from lightning_adam.diagnosis.finding import Finding
from lightning_adam.diagnosis.signals import History, StepSignals, median, spread

Rule = Callable[[StepSignals, History], Finding | None]

HEALTHY_RATIO = 0.02
"""Largest update ratio per step that the first steps should have; healthy runs stay under 0.102 (§5)."""


def non_finite(now: StepSignals, past: History) -> Finding | None:
    """NaN or Inf; exact. The step's own order tells the cause: loss, then gradient, then moment or parameter."""
    if now.non_finite is None:
        return None
    kind, names = now.non_finite.where, now.non_finite.parameters
    before = f"the last {len(past.losses)} losses were finite (last {past.losses[-1]:.4g})" if past.losses else ""
    place = f" in {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}" if names else ""
    return Finding(
        "NON-FINITE",
        "critical",
        now.step,
        f"the {kind}{place} became NaN or Inf first (batch {now.batch}){'; ' + before if before else ''}.",
        {"first": kind, "loss": _stated(now.loss), "gradient_norm": now.gradient_norm, "batch": now.batch},
        names,
        _NON_FINITE_REMEDY[kind],
    )


_NON_FINITE_REMEDY = {
    "loss": "The weights were still finite: look at this batch (NaN inputs, log or division by 0 in the loss), "
    "then restart from the last checkpoint.",
    "gradient": "The loss was finite: look for sqrt, norm or log at 0 in the named layer (add an epsilon inside), "
    "or run with Trainer(detect_anomaly=True); restart from the last checkpoint.",
    "moment": "Loss and gradient were finite: the optimizer's state overflowed; restart from the last checkpoint with "
    "a larger eps or 32-bit state.",
    "parameter": "Loss and gradient were finite: the step itself overflowed; restart from the last checkpoint with a "
    "lower lr and a larger eps.",
}


def loss_diverged(now: StepSignals, past: History) -> Finding | None:
    """The loss has left its range for good.

    median of 5 > max(3·best, best + 0.1·L0, median of 60 + 6·spread), or > 1.5·L0, where best is the lowest median of
    25 (§7, "Event").
    """
    recent = past.recent_losses(4) + ([now.loss] if now.loss is not None else [])
    if len(past.losses) < 25 or len(recent) < 5:
        return None
    level, best, first = median(recent), past.best_loss, past.initial_loss
    window = past.recent_losses(64)[:-4]
    limit = max(3 * best, best + 0.1 * abs(first), median(window) + 6 * spread(window))
    if not (level > limit or (first > 0 and level > 1.5 * first)):
        return None
    return Finding(
        "LOSS-DIVERGED",
        "critical",
        now.step,
        f"the loss went from {best:.4g} (its best level) to {level:.4g} and stays there.",
        {"level": level, "best": best, "limit": limit, "first": first},
        remedy=f"Restart from a checkpoint before step {now.step} with lr={_round(past.peak_lr / 3)} "
        f"(was {past.peak_lr:.3g}); if an earlier finding names a cause, mend that first.",
    )


def loss_spike(now: StepSignals, past: History) -> Finding | None:
    """The loss jumps for a moment: > 2·median of 50, > median + 8·spread and > median + 0.1·L0, from step 30 on.

    A plain z > 6 flags 4-8 % of healthy runs (§6), hence the two further conditions.
    """
    if now.loss is None or not math.isfinite(now.loss) or len(past.losses) < 30:
        return None
    window = past.recent_losses(50)
    level, width = median(window), spread(window)
    if not now.loss > max(2 * level, level + 8 * width, level + 0.1 * abs(past.initial_loss)):
        return None
    return Finding(
        "LOSS-SPIKE",
        "warning",
        now.step,
        f"the loss jumped from {level:.4g} to {now.loss:.4g} at batch {now.batch}.",
        {"loss": now.loss, "median": level, "spread": width, "batch": now.batch},
        remedy="If it comes back down, one batch did it: look at that batch. If spikes recur, use clip=1.0, "
        "then betas=(0.9, 0.95).",
    )


def stands_out(now: StepSignals, past: History) -> bool:
    """|g| > 20 medians of 50 with the loss at 3 medians too, or > 200 medians alone.

    Healthy: p95 15, max 65 without the loss gate; sick ≥ 540 (§5).
    """
    level = median(past.norms[-50:])
    if len(past.norms) < 20 or not now.gradient_norm > 20 * level:
        return False
    if now.gradient_norm > 200 * level:
        return True
    usual = median(past.recent_losses(50))
    return now.loss is not None and now.loss > max(3 * usual, 0.05 * abs(past.initial_loss))


def bad_batch(now: StepSignals, past: History) -> Finding | None:
    """One heavy gradient in a run that had none before: a batch, not the optimizer."""
    if not stands_out(now, past) or past.spikes:
        return None
    level = median(past.norms[-50:])
    return Finding(
        "BAD-BATCH",
        "warning",
        now.step,
        f"batch {now.batch} gave a gradient {now.gradient_norm / level:.3g} times the usual norm{_loss_clause(now, past)}.",
        {"gradient_norm": now.gradient_norm, "median": level, "loss": _stated(now.loss), "batch": now.batch},
        remedy=f"Look at batch {now.batch} (labels, outliers, padding), skip it, "
        f"or clip at about {_round(2 * level)} (twice the usual norm).",
    )


def gradient_exploding(now: StepSignals, past: History) -> Finding | None:
    """Heavy gradients that recur: a second cluster at least five steps after the first, or five steps in a row."""
    if not stands_out(now, past) or not past.spikes:
        return None
    again = now.step - past.spikes[-1] >= 5
    lasting = past.spikes[-4:] == list(range(now.step - 4, now.step))
    if not (again or lasting):
        return None
    level = median(past.norms[-50:])
    return Finding(
        "GRAD-EXPLODING",
        "warning",
        now.step,
        f"the gradient norm is {now.gradient_norm:.3g}, {now.gradient_norm / level:.3g} times its usual value, "
        f"for the {len(past.spikes) + 1}th time.",
        {"gradient_norm": now.gradient_norm, "median": level, "times": len(past.spikes) + 1},
        remedy=f"Clip at about {_round(2 * level)} (twice the usual norm); if targets have outliers, use a robust loss.",
    )


def no_warmup(now: StepSignals, past: History) -> Finding | None:
    """Weights move > 20 % of their norm in one of the first ten steps (healthy ≤ 10.2 %, sick ≥ 32 %) at full lr.

    Up to 250 % warmup mends it; beyond that it is the learning rate itself (§3 rows 1 and 4).
    """
    if past.early_ratio <= 0.2 or past.early_ratio > 2.5 or not _starts_at_peak(now, past):
        return None
    steps = 100 if math.isnan(now.beta2) or now.beta2 >= 1 else max(20, min(2000, round(2 / (1 - now.beta2))))
    return Finding(
        "NO-WARMUP",
        "warning",
        now.step,
        f"the first steps moved {past.early_tensor} by {past.early_ratio:.0%} of its norm (healthy: under 10 %), "
        "and the learning rate started at its full value.",
        {"update_ratio": past.early_ratio, "lr": now.lr},
        (past.early_tensor,),
        f"Start again with warmup={steps} steps (2/(1-beta2)), "
        f"or without warmup lr={_round(now.lr * HEALTHY_RATIO / past.early_ratio)} (now {now.lr:.3g}).",
    )


def lr_high(now: StepSignals, past: History) -> Finding | None:
    """Steps too large for this model.

    In the first ten steps: a weight matrix moves > 20 % of its norm although the lr is warming up, or > 250 %. Later:
    the moving average of the median update ratio > 3 % (healthy max 2.5 %, diverging ramps cross 3 % 59-144 steps early).
    """
    if past.count < 10:
        return _lr_high_early(now, past)
    if past.count < 30 or now.update_ratios is None or not past.ratio_average > 0.03:
        return None
    if now.lr < past.peak_lr * 0.999 and past.count < 60:
        return None
    name = max(now.update_ratios, key=lambda n: now.update_ratios[n] if now.update_ratios else 0.0)
    factor = max(3.0, min(30.0, past.ratio_average / 0.003))
    return Finding(
        "LR-HIGH",
        "critical" if past.ratio_average > 0.1 else "warning",
        now.step,
        f"weights move {past.ratio_average:.1%} of their norm per step (healthy: about 0.2 %){_loss_clause(now, past)}; "
        f"largest in {name}.",
        {"update_ratio": past.ratio_average, "lr": now.lr, "largest": now.update_ratios[name]},
        (name,),
        f"Try lr={_round(past.peak_lr / factor)} (now {past.peak_lr:.3g}).",
    )


def _lr_high_early(now: StepSignals, past: History) -> Finding | None:
    too_large = past.early_ratio > 2.5 or (past.early_ratio > 0.2 and now.lr > past.first_lr * 1.001)
    if not too_large or past.count < 1:
        return None
    return Finding(
        "LR-HIGH",
        "critical" if past.early_ratio > 2.5 else "warning",
        now.step,
        f"one of the first steps moved {past.early_tensor} by {past.early_ratio:.0%} of its norm (healthy: under 10 %).",
        {"update_ratio": past.early_ratio, "lr": now.lr},
        (past.early_tensor,),
        f"Try lr={_round(now.lr * HEALTHY_RATIO / past.early_ratio)} at this step (now {now.lr:.3g}), and a longer warmup.",
    )


def _starts_at_peak(now: StepSignals, past: History) -> bool:
    """From the second to the tenth step, with an lr that has not risen: so there is no warmup."""
    return 1 <= past.count < 10 and now.lr <= past.first_lr * 1.001


def _loss_clause(now: StepSignals, past: History) -> str:
    if now.loss is None or not past.losses:
        return ""
    return f", loss {median(past.recent_losses(20)):.4g} -> {now.loss:.4g}"


def _stated(value: float | None) -> float | str:
    return "unknown" if value is None else value


def _round(value: float) -> float:
    return float(f"{value:.1g}")


RULES: dict[str, Rule] = {
    "NON-FINITE": non_finite,
    "NO-WARMUP": no_warmup,
    "LR-HIGH": lr_high,
    "BAD-BATCH": bad_batch,
    "GRAD-EXPLODING": gradient_exploding,
    "LOSS-SPIKE": loss_spike,
    "LOSS-DIVERGED": loss_diverged,
}
"""In the order in which causes precede consequences within one step."""

CAUSES: dict[str, tuple[str, ...]] = {
    "LOSS-SPIKE": ("NON-FINITE", "BAD-BATCH", "GRAD-EXPLODING", "LR-HIGH", "NO-WARMUP", "LOSS-DIVERGED"),
    "BAD-BATCH": ("LR-HIGH", "NO-WARMUP", "LOSS-DIVERGED"),
    "GRAD-EXPLODING": ("LR-HIGH", "NO-WARMUP", "LOSS-DIVERGED"),
    "LR-HIGH": ("NO-WARMUP",),
}
"""What explains a finding that follows it within an episode; a loss that is gone for good is always told."""
