"""The rates of a schedule along the run, walked with its own clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from lightning_adam.preflight.guard import untouched
from lightning_adam.preflight.task import Task, own_hook
from lightning_adam.quiet import without_warnings
from lightning_adam.schedules import Schedule, factor

if TYPE_CHECKING:
    from lightning_adam.preflight.plan import Plan

MOST_STEPS = 4000


def simulated(task: Task, entry: dict[str, Any], plan: Plan) -> list[tuple[int, float]]:
    """(step, rate) along the run, in optimizer steps; the plan gets the run's length, and how the schedule has counted."""
    schedule = entry["scheduler"]
    if isinstance(schedule, Schedule):
        plan.total = total = _helped_length(task, schedule, plan)
        plan.is_known = True
        every = max(1, total // MOST_STEPS)
        return [(step, plan.base * factor(schedule.name, schedule.phases, step)) for step in range(0, total, every)]
    by_step = task.batches_per_tick if task.manual else 1
    clock = max(1, int(entry.get("frequency") or 1)) * (by_step if plan.interval == "step" else max(1, plan.per_epoch))
    horizon = plan.total or plan.asked * clock
    if plan.asked and not plan.is_known:
        horizon = plan.total = plan.asked * clock
    with untouched(schedule, *task.optimizers), _clock_of_stand_in(task.trainer) as turn, without_warnings():
        step_on = _stepper(task, schedule, plan, turn)
        rates = list(_rates_by_tick(schedule, clock, min(MOST_STEPS, max(1, horizon // clock)), step_on))
        plan.counted = (len(rates), int(getattr(schedule, "last_epoch", len(rates))))
        if all(rate <= 0.01 * plan.base for _, rate in rates):
            plan.later = max((rate for _, rate in _rates_by_tick(schedule, clock, MOST_STEPS, step_on)), default=0.0)
    return rates


def _helped_length(task: Task, schedule: Schedule, plan: Plan) -> int:
    """Of a run whose end the trainer knows; else, or by hand, what the helper's schedule is made for."""
    if plan.is_known and plan.total > 0 and not task.manual:
        return plan.total
    return int(schedule.phases.total) if math.isfinite(schedule.phases.total) else MOST_STEPS


def _rates_by_tick(schedule: Any, clock: int, count: int, step_on: Callable[[int], Any]) -> Iterator[tuple[int, float]]:
    for tick in range(count):
        yield tick * clock, max(float(group["lr"]) for group in schedule.optimizer.param_groups)
        try:
            step_on(tick * clock)
        except Exception:  # OneCycleLR raises once its steps are used up
            return


@contextmanager
def _clock_of_stand_in(trainer: Any) -> Iterator[Callable[[int, int], None] | None]:
    """What sets the stand-in's counts; they are set back afterwards. None for a trainer that runs: it counts itself."""
    if not isinstance(trainer, SimpleNamespace):
        yield None
        return
    before = trainer.global_step, trainer.current_epoch

    def turn(step: int, epoch: int) -> None:
        trainer.global_step, trainer.current_epoch = step, epoch

    try:
        yield turn
    finally:
        turn(*before)


def _stepper(task: Task, schedule: Any, plan: Plan, turn: Callable[[int, int], None] | None) -> Callable[[int], Any]:
    """Steps the schedule, through the module's own ``lr_scheduler_step`` where it has one."""
    own_step = own_hook(task.module, "lr_scheduler_step")
    if own_step is None or turn is None:
        return lambda step: schedule.step()

    def step_on(step: int) -> None:
        turn(step, step // max(1, plan.per_epoch))
        own_step(schedule, None)

    return step_on
