"""The plan of the run: the learning rate of each step, simulated with the schedule's own clock."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

from lightning_adam.diagnosis import Finding
from lightning_adam.preflight.facts import Check, Facts, found
from lightning_adam.preflight.gradients import matrices
from lightning_adam.preflight.schedule_walk import simulated
from lightning_adam.preflight.task import Task, names_anywhere, own_hook

ASSUMED_EPOCHS = 3
"""A run whose length nobody tells is taken to be at least so long."""
FEWEST_TICKS = 8
"""Steps of a schedule that only rises, from which it is taken to be a warmup."""
RULES, CUTS = 0.5, 0.75
"""Share of ε in the denominator from which it rules, as the diagnosis has it, and from which a step is less than a quarter
of what Adam would take."""
BY_SIGN = ("Adam", "Lion", "RMSprop", "Adafactor", "Adagrad", "Lamb", "Sophia", "Prodigy", "CAME")
"""In the names of optimizers whose step does not grow with the gradient."""
SIGNS = ("Lion", "Tiger", "SignSGD")
"""Of optimizers that step by the sign alone."""
NOISE = 0.23
"""Rms of Adam's step, over the rate, where the gradient is noise: √((1 − β₁)/(1 + β₁)); of a sign it is 1."""


@dataclass
class Plan:
    """Of one optimizer; that of the first one knows the others.

    Attributes:
        kind: its class.
        base: its largest configured rate.
        rates: (step, rate) along the run; the base rate alone where no schedule could be simulated.
        total: optimizer steps of the run.
        is_known: whether the run's length is known, or only assumed.
        interval: ``step`` or ``epoch``.
        per_epoch: optimizer steps of an epoch; 0 if unknown.
        is_single: whether the scheduler is made for one descent only.
        asked: steps that the scheduler itself is made for; 0 if it does not say.
        made_for: the same, of a descent that has a length as well.
        clip: the trainer's or the helper's limit of the gradient's norm; 0 without.
        eps: of the optimizer; 0 without.
        counted: how often the schedule was stepped in the simulation, and how far it has come by its own count.
        later: the largest rate behind the run's end, where it is next to nothing throughout.
        is_idle: whether the module steps its optimizers itself, and nobody steps this one's schedule.
        watches: the monitored value of a plateau's schedule that waits for the wrong direction; empty if none.
        others: of the further optimizers.
    """

    kind: str
    base: float
    rates: list[tuple[int, float]] = field(default_factory=list)
    total: int = 0
    is_known: bool = False
    interval: str = ""
    per_epoch: int = 0
    is_single: bool = False
    asked: int = 0
    made_for: int = 0
    clip: float = 0.0
    eps: float = 0.0
    counted: tuple[int, int] = (0, 0)
    later: float = 0.0
    is_idle: bool = False
    watches: str = ""
    others: list[Plan] = field(default_factory=list)

    @property
    def every(self) -> list[Plan]:
        """This one and the others."""
        return [self, *self.others]

    @property
    def peak(self) -> float:
        """The largest rate of the run."""
        return max((rate for _, rate in self.rates), default=self.base)

    @property
    def comes_late(self) -> bool:
        """Whether the schedule only rises behind the run's end."""
        return self.later > 0.1 * self.base

    @property
    def warms_up(self) -> bool:
        """Whether the first steps are much smaller than the largest."""
        return bool(self.rates) and self.rates[0][1] < 0.5 * self.peak

    @property
    def is_adaptive(self) -> bool:
        """Whether a step is about the rate in size, whatever the gradient's."""
        return any(name in self.kind for name in BY_SIGN)

    @property
    def usual_step(self) -> float:
        """Rms of a step late in a run, as a multiple of what Adam's is at the same rate."""
        return 1 / NOISE if any(name in self.kind for name in SIGNS) else 1.0


def measure(task: Task) -> Plan:
    """Simulate the schedule of each optimizer."""
    first, *others = [_of_optimizer(task, optimizer) for optimizer in task.optimizers]
    first.others = others
    return first


def _of_optimizer(task: Task, optimizer: Optimizer) -> Plan:
    groups, trainer = optimizer.param_groups, task.trainer
    plan = Plan(_kind(optimizer), max(float(group.get("initial_lr", group["lr"])) for group in groups))
    plan.eps = max((float(group["eps"]) for group in groups if isinstance(group.get("eps"), (int, float))), default=0.0)
    plan.is_known = getattr(trainer, "is_known", True)
    length = task.reading.length or 0
    plan.per_epoch = math.ceil(length / max(1, trainer.accumulate_grad_batches)) if length else 0
    plan.total = _total(trainer, plan)
    rule = getattr(optimizer, "adam_rule", None)
    plan.clip = float(getattr(trainer, "gradient_clip_val", None) or getattr(rule, "max_norm", 0.0) or 0.0)
    plan.rates = [(0, max(float(group["lr"]) for group in groups))]
    for entry in task.schedulers:
        if getattr(entry["scheduler"], "optimizer", None) is optimizer:
            _add_schedule(task, entry, plan)
    return plan


def _add_schedule(task: Task, entry: dict[str, Any], plan: Plan) -> None:
    schedule = entry["scheduler"]
    plan.interval = _clock_by_hand(task, schedule) if task.manual else entry["interval"]
    plan.is_idle = not plan.interval
    if isinstance(schedule, ReduceLROnPlateau):
        plan.watches = _wrong_direction(schedule.mode, str(entry.get("monitor") or ""))
    elif plan.interval:
        plan.asked = int(getattr(schedule, "total_steps", 0) or 0)
        plan.made_for = plan.asked or int(getattr(schedule, "T_max", 0) or 0)
        plan.is_single = type(schedule) is CosineAnnealingLR
        plan.rates = simulated(task, entry, plan)


EPOCH_HOOKS = (
    "on_train_epoch_start",
    "on_train_epoch_end",
    "on_validation_epoch_end",
    "on_validation_end",
    "on_train_batch_end",
)
"""In which one who trains by hand may step a schedule, besides the step itself."""


def _clock_by_hand(task: Task, schedule: Any) -> str:
    """Under manual optimization Lightning steps no schedule: the unit in which the module does; empty where it does not.

    What is done at an epoch's last batch only is not seen while probing: whoever names his schedules anywhere steps them.
    """
    if task.ticks or getattr(schedule, "_step_count", 2) > 1:
        return "step"
    keeps = any(part is schedule for part in vars(task.module).values())
    has_hook = any(own_hook(task.module, name) for name in EPOCH_HOOKS)
    return "epoch" if keeps or has_hook or names_anywhere(task.module, "lr_schedulers") else ""


FALLING = ("loss", "error", "mse", "mae", "rmse", "perplexity", "nll")
RISING = ("acc", "accuracy", "auc", "auroc", "f1", "iou", "dice", "precision", "recall", "r2", "psnr", "ssim", "bleu")
"""Words in the names of what gets better by falling, and by rising."""


def _wrong_direction(mode: str, monitor: str) -> str:
    """The monitored value, where its name says that it gets better the other way."""
    words = set(re.split(r"[^a-z0-9]+", monitor.lower()))
    if "neg" in words or "negative" in words or monitor.startswith("-"):
        return ""
    wrong = FALLING if mode == "max" else RISING
    right = RISING if mode == "max" else FALLING
    return monitor if words & set(wrong) and not words & set(right) else ""


def _kind(optimizer: Any) -> str:
    return str(getattr(optimizer, "adam_kind", type(optimizer)).__name__)


def _total(trainer: Any, plan: Plan) -> int:
    if not plan.is_known:
        return ASSUMED_EPOCHS * plan.per_epoch
    try:
        total = float(trainer.estimated_stepping_batches)
    except Exception:  # without data, or in a stand-in of the user's own
        return 0
    return int(total) if math.isfinite(total) else 0


def collapsed(facts: Facts) -> Iterator[Finding]:
    """Below a hundredth of its peak before six tenths of the run."""
    for plan in facts.plan.every:
        low = _low(plan)
        if plan.watches:
            yield _against_its_value(plan)
        elif low is not None and not plan.comes_late:
            what = f"a hundredth of its peak at step {low} of {plan.total}" if low else f"{plan.peak:.2g} or less throughout"
            yield found(
                "SCHEDULE-COLLAPSED",
                "critical",
                f"The schedule's rate is {what}, of lr={plan.base:.2g}: the rest of the run learns nothing.",
                'Check its unit: "interval": "step" or "epoch", and its length: T_max, total_steps, step_size in that '
                "unit; a LambdaLR multiplies lr by what its function returns.",
                {"step": low, "total steps": plan.total, "interval": plan.interval},
            )


def _low(plan: Plan) -> int | None:
    """The step from which the rate is next to nothing for most of the run; None where it is not."""
    if len(plan.rates) < 3 or plan.total < 3:
        return None
    falls_only = plan.rates[0][1] == plan.peak
    if plan.peak <= 0 < plan.base or (falls_only and plan.peak <= 0.01 * plan.base):
        return 0
    top = next(k for k, (_, rate) in enumerate(plan.rates) if rate >= 0.999 * plan.peak)
    low = next((step for step, rate in plan.rates[top:] if rate < 0.01 * plan.peak), None)
    comes_back = low is not None and any(rate > 0.1 * plan.peak for step, rate in plan.rates if step > low)
    is_early = low is not None and low < 0.6 * plan.total
    return low if is_early and (plan.is_single or not comes_back) else None


def _against_its_value(plan: Plan) -> Finding:
    better = "falls" if set(re.split(r"[^a-z0-9]+", plan.watches.lower())) & set(FALLING) else "rises"
    return found(
        "SCHEDULE-COLLAPSED",
        "critical",
        f"The plateau's schedule takes it for a standstill when {plan.watches} {better}, which is what it is to do: each "
        "good epoch lowers the rate.",
        f'ReduceLROnPlateau(..., mode="{"min" if better == "falls" else "max"}").',
        {"monitor": plan.watches},
    )


def never_arrives(facts: Facts) -> Iterator[Finding]:
    """A warmup or a cycle in steps, that a clock of epochs turns, or nobody."""
    for plan in facts.plan.every:
        said = _why_not(plan)
        if said is not None:
            message, remedy = said
            counts: dict[str, float | str] = {"peak": plan.peak, "lr": plan.base, "total steps": plan.total}
            yield found("SCHEDULE-NEVER-ARRIVES", "critical", message, remedy, counts | {"interval": plan.interval})


def _why_not(plan: Plan) -> tuple[str, str] | None:
    """What keeps the schedule from its end, and what to do; None where nothing does."""
    if plan.is_idle:
        return (
            f"Nobody steps the schedule: with manual optimization Lightning does not, and lr stays at {plan.peak:.2g}.",
            "Call self.lr_schedulers().step() after the optimizer's step, or in on_train_epoch_end.",
        )
    if _is_turned_back(plan):
        return (
            f"lr_scheduler_step is called {plan.counted[0]} times and takes the schedule to {plan.counted[1]} of "
            f"{plan.made_for}: it hands over another count.",
            "scheduler.step() without an argument; or make the schedule for epochs and step it once in each.",
        )
    if not _is_stepwise(plan) and not _is_short(plan) and not (_low(plan) == 0 and plan.comes_late):
        return None
    unit = f": it is made for {plan.asked} steps and is stepped once per {plan.interval}" if _is_stepwise(plan) else ""
    share = f"{plan.peak / plan.base:.1%} of lr={plan.base:.2g}"
    return (
        f"In {plan.total} steps the schedule gets to {plan.peak:.2g}, {share}{unit}.",
        'Return {"scheduler": ..., "interval": "step"}; or give the warmup in the unit that it is stepped in.',
    )


def _is_turned_back(plan: Plan) -> bool:
    """By a count that is not the schedule's own, such as that of epochs at every step."""
    calls, count = plan.counted
    return calls > 20 and count < 0.2 * min(calls, plan.made_for)


def _is_short(plan: Plan) -> bool:
    """A fifth of the rate at most; or less than all of it, and still rising as the run ends."""
    rates = [rate for _, rate in plan.rates]
    if not plan.is_known or len(set(rates)) < 2 or not 0 < plan.peak < 0.9 * plan.base or _low(plan) == 0:
        return False
    if rates[0] < 0.5 * plan.peak and rates[-1] < 0.9 * plan.peak:  # up and down: lr is but a factor (Vaswani et al. 2017)
        return False
    is_rising = len(rates) >= FEWEST_TICKS and all(a < b for a, b in pairwise(rates))
    return is_rising or plan.peak < 0.2 * plan.base


def _is_stepwise(plan: Plan) -> bool:
    """Made for whole epochs of steps, and stepped by the epoch."""
    is_made = plan.interval == "epoch" and plan.asked > 100 and plan.per_epoch > 1 and plan.asked % plan.per_epoch == 0
    return is_made and not (plan.is_known and plan.asked <= plan.total / plan.per_epoch)


def eps_high(facts: Facts) -> Iterator[Finding]:
    """ε outweighs √v̂, which is about the gradient's rms: Adam has become SGD."""
    weights = matrices(facts.task)
    for plan, optimizer in zip(facts.plan.every, facts.task.optimizers, strict=True):
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        sizes = [rms for name, rms in facts.gradients.rms.items() if rms > 0 and id(weights.get(name)) in held]
        if not sizes or not plan.is_adaptive or plan.eps <= 1e-7:
            continue
        usual = median(sizes)
        share = plan.eps / (plan.eps + usual)
        if share > RULES:
            yield found(
                "EPS-HIGH",
                "warning" if share > CUTS else "info",
                f"eps={plan.eps:g} makes {share:.0%} of the denominator; gradients have an rms of {usual:.1g}.",
                f"eps={min(1e-8, usual / 100):.0e}, or a learning rate {1 / (1 - share):.0f} times as large if SGD is "
                "meant.",
                {"eps": plan.eps, "gradient rms": usual, "share": share},
            )
            return


def clip_always(facts: Facts) -> Iterator[Finding]:
    """Clipping far below the usual norm: for SGD the rate is cut as much, for Adam only where ε then rules."""
    plan, total = facts.plan, facts.gradients.total
    if not plan.clip or not total > 0 or plan.clip > 0.02 * total:
        return
    left = plan.clip / total
    small = median(rms for rms in facts.gradients.rms.values()) * left
    harms = not plan.is_adaptive or small < 10 * plan.eps
    yield found(
        "CLIP-ALWAYS",
        "warning" if harms else "info",
        f"Gradients are clipped at {plan.clip:g}, and have a norm of {total:.2g}: each step is cut to {left:.1%}.",
        f"Clip at about {2 * total:.1g}, which only the rare large ones reach"
        + ("." if plan.is_adaptive else "; and lower lr instead."),
        {"clip": plan.clip, "gradient norm": total},
    )


CHECKS = (
    Check("SCHEDULE-COLLAPSED", ("plan",), collapsed),
    Check("SCHEDULE-NEVER-ARRIVES", ("plan",), never_arrives),
    Check("EPS-HIGH", ("plan", "gradients"), eps_high),
    Check("CLIP-ALWAYS", ("plan", "gradients"), clip_always),
)
