"""The plan of the run: the learning rate of each step, simulated with the schedule's own clock."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

from lightning_adam.diagnosis import Finding
from lightning_adam.preflight.facts import Check, Facts, found
from lightning_adam.preflight.gradients import matrices
from lightning_adam.preflight.guard import untouched
from lightning_adam.preflight.task import Task
from lightning_adam.quiet import without_warnings
from lightning_adam.schedules import Schedule, factor

MOST_STEPS = 4000
ASSUMED_EPOCHS = 3
"""A run whose length nobody tells is taken to be at least so long."""
RULES, CUTS = 0.5, 0.75
"""Share of ε in the denominator from which it rules, as the diagnosis has it, and from which a step is less than a quarter
of what Adam would take."""
BY_SIGN = ("Adam", "Lion", "RMSprop", "Adafactor", "Adagrad", "Lamb", "Sophia", "Prodigy", "CAME")
"""In the names of optimizers whose step does not grow with the gradient."""


@dataclass
class Plan:
    """Of the first optimizer.

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
        clip: the trainer's or the helper's limit of the gradient's norm; 0 without.
        eps: of the optimizer; 0 without.
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
    clip: float = 0.0
    eps: float = 0.0

    @property
    def peak(self) -> float:
        """The largest rate of the run."""
        return max((rate for _, rate in self.rates), default=self.base)

    @property
    def warms_up(self) -> bool:
        """Whether the first steps are much smaller than the largest."""
        return bool(self.rates) and self.rates[0][1] < 0.5 * self.peak

    @property
    def is_adaptive(self) -> bool:
        """Whether a step is about the rate in size, whatever the gradient's."""
        return any(name in self.kind for name in BY_SIGN)


def measure(task: Task) -> Plan:
    """Simulate the schedule of the first optimizer."""
    optimizer, trainer = task.optimizers[0], task.trainer
    groups = optimizer.param_groups
    base = max(float(group.get("initial_lr", group["lr"])) for group in groups)
    plan = Plan(
        _kind(optimizer),
        base,
        eps=float(groups[0].get("eps") or 0.0) if isinstance(groups[0].get("eps", 0.0), float) else 0.0,
    )
    plan.is_known = getattr(trainer, "is_known", True)
    length = task.reading.length or 0
    plan.per_epoch = math.ceil(length / max(1, trainer.accumulate_grad_batches)) if length else 0
    plan.total = _total(trainer, plan)
    rule = getattr(optimizer, "adam_rule", None)
    plan.clip = float(getattr(trainer, "gradient_clip_val", None) or getattr(rule, "max_norm", 0.0) or 0.0)
    plan.rates = [(0, max(float(group["lr"]) for group in groups))]
    for entry in task.schedulers:
        if getattr(entry["scheduler"], "optimizer", None) is optimizer and not isinstance(
            entry["scheduler"], ReduceLROnPlateau
        ):
            plan.interval = entry["interval"]
            plan.asked = int(getattr(entry["scheduler"], "total_steps", 0) or 0)
            plan.is_single = type(entry["scheduler"]) is CosineAnnealingLR
            plan.rates = _simulated(task, entry, plan)
    return plan


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


def _simulated(task: Task, entry: dict[str, Any], plan: Plan) -> list[tuple[int, float]]:
    schedule = entry["scheduler"]
    if isinstance(schedule, Schedule):
        total = int(schedule.phases.total) if math.isfinite(schedule.phases.total) else MOST_STEPS
        plan.total, plan.is_known = total, True
        every = max(1, total // MOST_STEPS)
        return [(step, plan.base * factor(schedule.name, schedule.phases, step)) for step in range(0, total, every)]
    clock = max(1, int(entry.get("frequency") or 1)) * (1 if plan.interval == "step" else max(1, plan.per_epoch))
    horizon = plan.total or plan.asked * clock
    if plan.asked and not plan.is_known:
        horizon = plan.total = plan.asked * clock
    with untouched(schedule, *task.optimizers), without_warnings():
        return list(_walked(schedule, clock, min(MOST_STEPS, max(1, horizon // clock)), task.optimizers[0]))


def _walked(schedule: Any, clock: int, count: int, optimizer: Any) -> Iterator[tuple[int, float]]:
    for tick in range(count):
        yield tick * clock, max(float(group["lr"]) for group in optimizer.param_groups)
        try:
            schedule.step()
        except Exception:  # OneCycleLR raises once its steps are used up
            return


def collapsed(facts: Facts) -> Iterator[Finding]:
    """Below a hundredth of its peak before six tenths of the run."""
    plan = facts.plan
    if len(plan.rates) < 3 or plan.total < 3:
        return
    top = next(k for k, (_, rate) in enumerate(plan.rates) if rate >= 0.999 * plan.peak)
    low = next((step for step, rate in plan.rates[top:] if rate < 0.01 * plan.peak), None)
    comes_back = low is not None and any(rate > 0.1 * plan.peak for step, rate in plan.rates if step > low)
    if comes_back and not plan.is_single:
        return
    is_void = plan.peak <= 0 < plan.base
    if is_void or (low is not None and low < 0.6 * plan.total):
        at = "throughout" if is_void else f"at step {low} of {plan.total}"
        yield found(
            "SCHEDULE-COLLAPSED",
            "critical",
            f"The schedule's rate is below a hundredth of its peak {at}: the rest of the run learns nothing.",
            'Check its unit: "interval": "step" or "epoch", and its length: T_max, total_steps, step_size in that unit.',
            {"step": low or 0, "total steps": plan.total, "interval": plan.interval},
        )


def never_arrives(facts: Facts) -> Iterator[Finding]:
    """A warmup or a cycle in steps, that a clock of epochs turns."""
    plan = facts.plan
    is_stepwise = plan.interval == "epoch" and plan.asked > 100 and plan.per_epoch > 1 and plan.asked % plan.per_epoch == 0
    is_short = (
        plan.is_known and len(plan.rates) > 1 and 0 < plan.peak < 0.2 * plan.base and len({r for _, r in plan.rates}) > 1
    )
    if is_short or (is_stepwise and not (plan.is_known and plan.asked <= plan.total / plan.per_epoch)):
        yield found(
            "SCHEDULE-NEVER-ARRIVES",
            "critical",
            f"In {plan.total} steps the schedule gets to {plan.peak:.2g}, {plan.peak / plan.base:.1%} of lr={plan.base:.2g}"
            + (f": it is made for {plan.asked} steps and is stepped once per {plan.interval}." if is_stepwise else "."),
            'Return {"scheduler": ..., "interval": "step"}; or give the warmup in the unit that it is stepped in.',
            {"peak": plan.peak, "lr": plan.base, "total steps": plan.total, "interval": plan.interval},
        )


def eps_high(facts: Facts) -> Iterator[Finding]:
    """ε outweighs √v̂, which is about the gradient's rms: Adam has become SGD."""
    sizes = [rms for name, rms in facts.gradients.rms.items() if rms > 0 and name in matrices(facts.task)]
    if not sizes or not facts.plan.is_adaptive or facts.plan.eps <= 1e-7:
        return
    usual = median(sizes)
    share = facts.plan.eps / (facts.plan.eps + usual)
    if share > RULES:
        yield found(
            "EPS-HIGH",
            "warning" if share > CUTS else "info",
            f"eps={facts.plan.eps:g} makes {share:.0%} of the denominator; gradients have an rms of {usual:.1g}.",
            f"eps={min(1e-8, usual / 100):.0e}, or a learning rate {1 / (1 - share):.0f} times as large if SGD is meant.",
            {"eps": facts.plan.eps, "gradient rms": usual, "share": share},
        )


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
