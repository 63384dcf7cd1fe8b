"""What the short runs say: of the learning rate by comparison with another one, not by its size alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import median

from lightning_adam.diagnosis import Finding
from lightning_adam.preflight.batches import leaves
from lightning_adam.preflight.facts import Check, Facts, found, some
from lightning_adam.preflight.plan import Plan
from lightning_adam.preflight.recorder import BINARY_LOSSES, CLASS_LOSSES, VALUE_LOSSES
from lightning_adam.preflight.sign_checks import optimizer_maximises
from lightning_adam.preflight.signs import draws_its_own
from lightning_adam.preflight.trial import FEWEST, Trial, blew_up, end

FAR_TOO_HIGH = 1.0
"""Rate over the weights' rms, of an optimizer whose step is as large as its rate: each step replaces the weights. Adam's
is so large at first only; one that steps by the sign alone does so to the end."""
HIGH, LOW, LOW_SGD = 0.15, 2e-5, 1e-6
LEAST_IN_A_RUN = 2e-3
"""Of the weights' norm."""


def _ratio(facts: Facts) -> float:
    """How far one step moves the weights, of the optimizer that moves them most; NaN where all step by the gradient."""
    return max((ratio for ratio in facts.trial.ratios if ratio == ratio), default=math.nan)


def _fastest(facts: Facts) -> Plan:
    """Of the optimizer that moves its weights most; the first where nobody knows."""
    plans = [plan for plan, ratio in zip(facts.plan.every, facts.trial.ratios, strict=True) if ratio == _ratio(facts)]
    return plans[0] if plans else facts.plan


def _better(one: list[float], other: list[float], first: float) -> bool:
    """Whether one run learnt clearly more: a tenth of the first loss, and twice as much as the other."""
    if len(one) < FEWEST or not other:
        return False
    learnt, by_other = first - end(one), first - end(other)
    return learnt > 0.1 * abs(first) and learnt > 2 * by_other


def lr_high(facts: Facts) -> Iterator[Finding]:
    """A lower rate learns, and the planned one does not."""
    trial, ratio = facts.trial, _ratio(facts)
    diverges = _lower_cures(trial) and not _leaves_its_codes(facts)
    worse = ratio > HIGH and _better(trial.lower, trial.planned, trial.first) and not _ramp_cures(trial)
    is_lost = _is_stuck(facts) or _is_thrown(facts)
    fastest = _fastest(facts)
    peak, lasting = fastest.peak, ratio * fastest.usual_step
    if not diverges and not worse and not is_lost and not (lasting > FAR_TOO_HIGH and _is_poor(trial)):
        return
    evidence = {"lr": peak} | _ends(trial) | ({"step over weights": ratio} if ratio == ratio else {})
    learnt_at = trial.scale if diverges or worse or is_lost else 1.0
    fits = peak * min(learnt_at, 0.03 / lasting if ratio == ratio else 1.0)
    said = f"{ratio:.0%} of the weights per step" if ratio == ratio else "steps that overshoot"
    yield found(
        "LR-HIGH",
        "critical" if diverges else "warning",
        f"lr={peak:.2g} is too high for this model: {said}.",
        f"lr={fits:.1g}, with a warmup of some hundred steps.",
        evidence,
    )


def _is_stuck(facts: Facts) -> bool:
    """By the gradient's length it got nowhere, or higher than it began, where a lower rate learns."""
    trial = facts.trial
    is_above = bool(trial.planned) and end(trial.planned) > trial.first > 0
    return is_above and math.isnan(_ratio(facts)) and _better(trial.lower, trial.planned, trial.first)


def _is_thrown(facts: Facts) -> bool:
    """By the gradient's length it made its loss twice as large and stays above its start; a lower rate does neither."""
    trial = facts.trial
    if not trial.planned or len(trial.lower) < FEWEST or not math.isnan(_ratio(facts)) or facts.task.is_adversarial:
        return False
    is_lost = end(trial.planned) > trial.first > 0 and max(trial.planned) > 2 * trial.first
    return is_lost and max(trial.lower) < 1.5 * trial.first and end(trial.lower) < end(trial.planned)


def _ends(trial: Trial) -> dict[str, float | str]:
    named = {"planned": trial.planned, f"at {trial.scale:g} of lr": trial.lower, "after a ramp": trial.ramped}
    first: dict[str, float | str] = {"first loss": trial.first} if trial.planned else {}
    return first | {f"loss {name}": end(losses) for name, losses in named.items() if losses and math.isfinite(end(losses))}


def _is_poor(trial: Trial) -> bool:
    """Whether the planned run has learnt little, has first made its loss twice as large, or is overtaken by a lower rate."""
    if not trial.planned or blew_up(trial.planned, trial.first) or end(trial.planned) > 0.7 * trial.first:
        return True
    if max(trial.planned) > 2 * trial.first > 0:
        return True
    return len(trial.lower) >= FEWEST and end(trial.lower) < 0.7 * end(trial.planned)


def _lower_cures(trial: Trial) -> bool:
    if not trial.planned or not blew_up(trial.planned, trial.first) or len(trial.lower) < FEWEST:
        return False
    return not blew_up(trial.lower, trial.first) and end(trial.lower) < 1.05 * trial.first


def _leaves_its_codes(facts: Facts) -> bool:
    """Whether a distance from codes, which may rise far above the start as what they stand for grows, is in the loss."""
    return facts.has("step") and facts.step.is_quantised and math.isfinite(facts.trial.planned[-1])


def _ramp_cures(trial: Trial) -> bool:
    return _better(trial.ramped, trial.planned, trial.first) and not _better(trial.lower, trial.ramped, trial.first)


def no_warmup(facts: Facts) -> Iterator[Finding]:
    """A ramp of twenty steps to the same rate learns, and starting at it does not."""
    if facts.plan.warms_up or not _ratio(facts) > HIGH or not _ramp_cures(facts.trial) or _ratio(facts) > FAR_TOO_HIGH:
        return
    yield found(
        "NO-WARMUP",
        "warning",
        f"The first steps are taken at the full lr={facts.plan.peak:.2g}, and spoil the start; after a short ramp it "
        "learns.",
        "warmup=0.05 in la.configure_optimizers, or a LinearLR before the schedule.",
        {"lr": facts.plan.peak} | _ends(facts.trial),
    )


def lr_low(facts: Facts) -> Iterator[Finding]:
    """Steps far below what moves the weights in a usual run; SGD's are as long as the gradient."""
    ratio, low, peak = _ratio(facts), LOW, _fastest(facts).peak
    is_known = ratio != ratio or facts.trial.rms > 0  # of tables alone nobody knows the usual size
    if ratio != ratio and facts.has("gradients") and facts.trial.weight > 0:
        ratio, low = facts.plan.peak * facts.gradients.total / facts.trial.weight, LOW_SGD
    size = f" (rms {facts.trial.rms:.2g})" if facts.trial.rms > 0 else ""
    if facts.plan.base == 0:
        yield found(
            "LR-LOW", "critical", "lr=0: no step changes anything.", "lr=1e-3 is a usual start for Adam, 0.1 for SGD."
        )
    elif is_known and (0 < ratio < low or _is_lost_in_the_run(facts)):
        yield found(
            "LR-LOW",
            "warning",
            f"lr={peak:.2g} moves the weights{size} by {ratio:.0e} per step.",
            f"lr={peak * 1e-3 / ratio:.1g}, which moves them by 0.1 %; fine-tuning needs less.",
            {"lr": peak, "step over weights": ratio},
        )


def _is_lost_in_the_run(facts: Facts) -> bool:
    """Whether plain SGD, were all its steps to point the same way, moves the weights by next to nothing in the whole run."""
    plan, weight = facts.plan, facts.trial.weight
    if plan.kind != "SGD" or not plan.is_known or plan.total < 20 or not facts.has("gradients") or not weight > 0:
        return False
    momentum = max(float(group.get("momentum", 0.0)) for group in facts.task.optimizers[0].param_groups)
    each = plan.peak * facts.gradients.total / max(1e-3, 1 - momentum) / weight
    return 0 < each * plan.total < LEAST_IN_A_RUN


def probe_diverges(facts: Facts) -> Iterator[Finding]:
    """And a lower rate does not help: it is not the rate alone."""
    trial = facts.trial
    if (
        not trial.planned
        or not blew_up(trial.planned, trial.first)
        or _lower_cures(trial)
        or _leaves_its_codes(facts)
        or facts.task.manual
        or optimizer_maximises(facts)
        or _ratio(facts) > FAR_TOO_HIGH
    ):
        return
    first, last = trial.first, end(trial.planned)
    reached = f"{last:.3g}" if math.isfinite(last) else "not finite"
    if not math.isfinite(first):
        return
    yield found(
        "PROBE-DIVERGES",
        "critical",
        f"In {len(trial.planned)} steps with your optimizer the loss goes from {first:.3g} to {reached}.",
        "Clip the gradient, standardise inputs and targets, look for a log, a square root or a division of values near 0.",
        {"first loss": first, "steps": len(trial.planned)},
    )


def update_lost(facts: Facts) -> Iterator[Finding]:
    """A gradient, an optimizer that holds it, and the same bits after forty steps."""
    lost, rate = facts.trial.unmoved, facts.plan.peak
    if facts.trial.stays < 0.1:
        yield found(
            "UPDATE-LOST",
            "critical",
            "A hook between batches (on_train_batch_end or on_train_batch_start) takes the weights back: "
            f"{facts.trial.stays:.1%} of a usual step is left after it.",
            "Keep an average in a copy of its own, and put the weights that are trained back after validation.",
            {"left": facts.trial.stays},
        )
    elif lost and rate > 0:
        yield found(
            "UPDATE-LOST",
            "critical",
            f"{len(lost)} tensors have a gradient and are bit by bit the same after {len(facts.trial.planned)} steps: "
            f"{some(lost)}.",
            "Look for weights that are written over in forward or a hook, a group with lr=0, a step that is never "
            "called, or bfloat16 "
            "weights, which round small steps away.",
            {"tensors": len(lost), "lr": rate},
            lost,
        )


def clipped_by_itself(facts: Facts) -> Iterator[Finding]:
    """Clipping by a hook or by hand, which no setting of the trainer tells of; as of the trainer's, a share of 0.02."""
    plan, left = facts.plan, facts.trial.cut
    if plan.clip or not 0 < left < 0.02 or not facts.has("gradients"):
        return
    small = median(facts.gradients.rms.values()) * left
    yield found(
        "CLIP-ALWAYS",
        "warning" if not plan.is_adaptive or small < 10 * plan.eps else "info",
        f"The module clips its gradients, of norm {facts.gradients.total:.2g}, to {left:.1%} of that at each step.",
        f"Clip at about {2 * facts.gradients.total:.1g}, which only the rare large ones reach.",
        {"gradient norm": facts.gradients.total, "left": left},
    )


def cannot_overfit(facts: Facts) -> Iterator[Finding]:
    """Sixteen samples are easily learnt by heart."""
    main, tried = facts.step.main, facts.trial.overfit
    known = main is not None and main.name in (*CLASS_LOSSES, *BINARY_LOSSES, *VALUE_LOSSES)
    if tried is None or not known or not (math.isfinite(tried[0]) and tried[0] > 1e-6) or tried[1] <= 0.8 * tried[0]:
        return
    roomy = sum(p.numel() for p in facts.task.trainable().values()) > 500
    yield found(
        "CANNOT-OVERFIT",
        "warning" if roomy and tried[1] > 0.95 * tried[0] else "info",
        f"On 16 samples the loss only falls from {tried[0]:.3g} to {tried[1]:.3g}; a working model learns them by heart.",
        "Look whether the output can reach the targets, and whether loss and labels are of the same thing.",
        {"first loss": tried[0], "lowest loss": tried[1]},
    )


def wrong_sign(facts: Facts) -> Iterator[Finding]:
    """The loss falls below 0 and the prediction gets worse: a loss by hand lacks its minus, or has one."""
    tried = facts.trial.worsened
    is_other_aim = optimizer_maximises(facts) or draws_its_own(facts.step.record, facts.step.given)
    if tried is not None and not is_other_aim and not facts.step.record.losses and len(list(leaves(facts.step.given))) == 2:
        before, after = tried
        yield found(
            "WRONG-SIGN",
            "critical",
            f"As the loss falls, the prediction moves away from the target: its error goes from {before:.3g} to "
            f"{after:.3g}.",
            "Change the sign of the loss: training makes it smaller.",
            {"error before": before, "error after": after},
        )


def no_signal(facts: Facts) -> Iterator[Finding]:
    """Learnt by heart, and of no use for others: no better than the shares of the classes, ever."""
    if facts.trial.unseen is None:
        return
    unseen, prior, seen = facts.trial.unseen
    if unseen >= 0.97 * prior and prior > 0.1:
        is_learnt = seen < 0.9 * prior
        yield found(
            "NO-SIGNAL",
            "warning" if is_learnt and unseen > 0.99 * prior else "info",
            f"What is learnt on some batches (loss {seen:.3g}) does not hold for others: {unseen:.3g}, where the "
            f"classes' shares give {prior:.3g}.",
            "Check by hand that labels belong to their inputs: the order of two files, a shuffle of only one of them.",
            {"unseen": unseen, "guessing": prior, "seen": seen},
        )


CHECKS = (
    Check("LR-HIGH", ("trial", "plan"), lr_high),
    Check("NO-WARMUP", ("trial", "plan"), no_warmup),
    Check("LR-LOW", ("trial", "plan"), lr_low),
    Check("PROBE-DIVERGES", ("trial", "plan"), probe_diverges),
    Check("CLIP-ALWAYS", ("trial", "plan"), clipped_by_itself),
    Check("UPDATE-LOST", ("trial", "plan"), update_lost),
    Check("WRONG-SIGN", ("trial", "step"), wrong_sign),
    Check("CANNOT-OVERFIT", ("trial", "step"), cannot_overfit),
    Check("NO-SIGNAL", ("trial",), no_signal),
)
