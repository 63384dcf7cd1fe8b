"""Keeps the plan of a run true: how long it is, and who sets its learning rate. The helper attaches it."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_adam.callbacks._lightning import scheduler_instead
from lightning_adam.config import OptimizerConfig
from lightning_adam.errors import ConfigError, LightningAdamWarning
from lightning_adam.planning import length_in_run, manual_length, manual_rest, plan, run_length
from lightning_adam.schedules import Schedule

FIRST_MEASUREMENT = 16
"""Batches of the first epoch after which it is counted how often each optimizer steps; again after twice as many."""


class RunPlan(Callback):
    """Plans again when training starts and whenever the data, the accumulation or an optimizer's pace turn out otherwise.

    At configuration time BatchSizeFinder has not run, several optimizers are not yet known, and data may still grow.
    """

    def __init__(self) -> None:
        self._made: list[tuple[Schedule, OptimizerConfig]] = []
        self._is_first = True
        self._limits: tuple[Any, ...] = ()
        self._mark(steps=0)

    def expect(self, schedule: Schedule, config: OptimizerConfig) -> None:
        """The helper has made an optimizer for the coming run."""
        schedule.awaits_run, schedule.asked_warmup = True, config.warmup
        self._made.append((schedule, config))

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Batch size, number of optimizers and a checkpoint's progress are known."""
        for schedule, config in self._made:
            if schedule.last_epoch == 0:
                schedule.begun = (trainer.global_step, trainer.current_epoch)
            if pl_module.automatic_optimization:
                length = run_length(trainer, schedule.begun[0])
            else:
                length = manual_length(trainer, schedule.begun, schedule.pace)
            warmup = schedule.finished_warmup()
            kept = config if warmup is None else replace(config, warmup=warmup)
            _follow(schedule, kept, trainer, length)
        self._is_first = all(schedule.pace is None for schedule, _ in self._made)
        self._mark(trainer.global_step)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The data of this epoch are there."""
        self._look_for_others(trainer)
        self._plan_rest(trainer, pl_module, 0)
        self._mark(trainer.global_step)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Callbacks and the module have had their say: they may have swapped the scheduler or changed the run's limits."""
        self._look_for_others(trainer)
        if batch_idx == 0 or self._limits != _limits(trainer):
            self._plan_rest(trainer, pl_module, batch_idx)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """In the first epoch, measure early: there may be no second one."""
        self._batches += 1
        is_due = self._batches >= FIRST_MEASUREMENT and self._batches.bit_count() == 1
        if is_due and self._is_first and not pl_module.automatic_optimization:
            self._measure(trainer, batch_idx + 1)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the epoch's checkpoint is written."""
        if not pl_module.automatic_optimization:
            self._measure(trainer, trainer.num_training_batches)
        self._is_first = False

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Hold nothing after the run."""
        self._made = []

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hold nothing after the run."""
        self._made = []

    def _plan_rest(self, trainer: Trainer, module: LightningModule, batches_done: int) -> None:
        """By what is done and by the data, the accumulation and the limits of now."""
        self._limits = _limits(trainer)
        for schedule, config in self._made:
            if module.automatic_optimization:
                length = length_in_run(trainer, schedule.begun[0], batches_done)
            elif schedule.pace is not None:
                length = schedule.last_epoch + manual_rest(trainer, batches_done, schedule.pace)
            else:
                length = manual_length(trainer, schedule.begun, None)
            _follow_if_changed(schedule, config, trainer, length)

    def _mark(self, steps: int) -> None:
        """Measure from here on."""
        self._batches, self._steps = 0, steps
        self._updates = [schedule.last_epoch for schedule, _ in self._made]

    def _measure(self, trainer: Trainer, batches_done: float) -> None:
        """Plan each optimizer's rest of the run by what it did in the batches just seen."""
        steps = trainer.global_step - self._steps
        for (schedule, config), before in zip(self._made, self._updates, strict=False):
            updates = schedule.last_epoch - before
            if updates and self._batches:
                share = min(1.0, updates / steps) if steps else 1.0 / len(self._made)
                schedule.pace = (updates / self._batches, share)
                length = schedule.last_epoch + manual_rest(trainer, batches_done, schedule.pace)
                _follow_if_changed(schedule, config, trainer, length)

    def _look_for_others(self, trainer: Trainer) -> None:
        for schedule, _ in self._made:
            schedule.stand_aside(scheduler_instead(trainer, schedule))


def _limits(trainer: Trainer) -> tuple[Any, ...]:
    return trainer.max_steps, trainer.max_epochs, trainer.accumulate_grad_batches


def _follow_if_changed(schedule: Schedule, config: OptimizerConfig, trainer: Trainer, length: float) -> None:
    """In mid-run; a warmup that is over stays as it was."""
    if config.total_steps is not None or length == schedule.phases.total:
        return
    if schedule.last_epoch >= schedule.phases.warmup:
        config = replace(config, warmup=schedule.phases.warmup)
    _follow(schedule, config, trainer, length)


def _follow(schedule: Schedule, config: OptimizerConfig, trainer: Trainer, length: float) -> None:
    phases = schedule.phases
    try:
        phases = plan(config, trainer, length)
    except ConfigError as error:
        warnings.warn(f"The run is not as long as it was planned, and the plan stays: {error}", LightningAdamWarning, 2)
    schedule.follow(phases)
