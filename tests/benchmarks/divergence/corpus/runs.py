"""Trains one run of a family in a plain loop, with the monitor attached, and keeps what it recorded."""

from __future__ import annotations

import copy
import logging
import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from lightning_adam.integrations.first_look import first_look
from lightning_adam.integrations.loop_run import LoopRun
from lightning_adam.monitoring.monitor import Monitor
from lightning_adam.monitoring.optimizer_diagnosis import DivergenceOptions
from tests.benchmarks.divergence.corpus.family import Batch, Loss
from tests.benchmarks.divergence.corpus.jobs import Job, Recipe, recipe_of
from tests.benchmarks.divergence.corpus.optimizers import OPTIMIZERS
from tests.benchmarks.divergence.corpus.settings import EPOCH, PER_EPOCH, PRECISIONS, SCHEDULES
from tests.benchmarks.divergence.running import Run, final_loss


def train_job(job: Job) -> Job:
    """Of a process; what is stored already is not trained again."""
    torch.set_num_threads(1)
    logging.getLogger("lightning_adam").setLevel(logging.ERROR)
    if not job.path.exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            train(recipe_of(job), job.seed).save(job.path)
    return job


def train(recipe: Recipe, seed: int) -> Run:
    """The same arguments give the same run."""
    began = time.perf_counter()
    loop = Loop(recipe, seed)
    start = loop.measured()
    loop.monitor.begin()
    for step in range(recipe.family.steps):
        loop.step(step)
    findings = loop.monitor.findings
    loop.monitor.end()
    if loop.monitor.guard.failures:
        raise RuntimeError(f"{recipe.family.name}: the monitor lost {loop.monitor.guard.failures}.")
    run = Run(recipe.family.name, seed, loop.kept, findings, loop.measured(), time.perf_counter() - began, start)
    return run if loop.is_measured else replace(run, final=final_loss(run.losses))


class Loop:
    """The plain loop that a stranger would write, and what is wrong with it.

    Args:
        recipe: what is trained with what.
        seed: of weights and batches.

    Attributes:
        monitor: to begin before the first step and to end after the last.
        kept: what it has recorded, per optimizer.
    """

    def __init__(self, recipe: Recipe, seed: int) -> None:
        torch.manual_seed(seed)
        self._recipe, self._precision = recipe, PRECISIONS[recipe.precision]
        self._task, self._generator = recipe.family.make(), Generator().manual_seed(seed + 1)
        held = self._task.net.to(self._precision.weights)
        self._net = copy.deepcopy(held) if recipe.mistake.stale else held
        self._optimizers = [_optimizer(recipe, held.get_submodule(name)) for name in self._task.turns]
        if recipe.mistake.net is not None:
            recipe.mistake.net(self._net)
        schedule = SCHEDULES.get(recipe.schedule)
        self._schedulers = [schedule(o, recipe.family.steps) for o in self._optimizers] if schedule is not None else []
        for group in self._groups():
            group.setdefault("initial_lr", group["lr"])
        self._scaler = torch.amp.GradScaler("cpu", enabled=self._precision.scaled)  # type: ignore[attr-defined]
        self.kept: list[list[Any]] = [[] for _ in self._optimizers]
        scaler = self._scaler if self._precision.scaled else None
        self._run = LoopRun(self._net, self._optimizers, scaler, recipe.family.steps, None, 50, 1, recipe.clip, [])
        options = DivergenceOptions()
        self.monitor = Monitor(self._run, None, options, on_record=lambda place, record: self.kept[place].append(record))

    @property
    def is_measured(self) -> bool:
        """Whether the task has a measure of its own."""
        return self._task.measure is not None

    def measured(self) -> float:
        """By the task's own measure, always with the same random numbers, and without a trace in the run's."""
        if self._task.measure is None:
            return math.nan
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            value = self._task.measure(self._net)
        return value if math.isfinite(value) else math.inf

    def step(self, step: int) -> None:
        """One batch, by each optimizer in turn."""
        rates = [group["lr"] for group in self._groups()]
        for group, rate in zip(self._groups(), rates, strict=True):
            group["lr"] = min(rate * self._recipe.factor(step), self._recipe.cap or float("inf"))
        if step and step % self._recipe.mistake.forgets_every == 0:
            for optimizer in self._optimizers:
                optimizer.state.clear()
        batch = self._batch(step)
        for place, (name, loss) in enumerate(self._task.turns.items()):
            self._turn(step, place, name, loss, batch)
        self._scaler.update()
        for group, rate in zip(self._groups(), rates, strict=True):
            group["lr"] = rate
        self._schedule(step)

    def _groups(self) -> Iterator[dict[str, Any]]:
        return (group for optimizer in self._optimizers for group in optimizer.param_groups)

    def _turn(self, step: int, place: int, name: str, wanted: Loss, batch: Batch) -> None:
        if step % self._recipe.mistake.zeroed_every == 0:
            self._optimizers[place].zero_grad()
        self.monitor.begin_batch(batch, step)
        loss = self._loss(step, wanted, batch)
        if step == place == 0:  # as la.watch does
            first_look(loss, batch, self._run, self.monitor)
        self.monitor.loss(loss, is_scaled=False)
        self._scaler.scale(loss).backward()
        self._update(place, self._net.get_submodule(name))

    def _batch(self, step: int) -> Batch:
        drawn, change = self._task.draw(self._generator), self._recipe.mistake.batch
        batch = drawn if change is None else change(step, self._recipe.family.steps, drawn)
        return tuple(t.to(self._precision.weights) if t.is_floating_point() else t for t in batch)

    def _loss(self, step: int, wanted: Loss, batch: Batch) -> Tensor:
        with torch.autocast("cpu", self._precision.autocast, enabled=self._precision.autocast is not None):
            loss = wanted(self._net, batch)
        change = self._recipe.mistake.loss
        return loss if change is None else change(step, self._recipe.family.steps, loss)

    def _update(self, place: int, part: nn.Module) -> None:
        """Clipped if asked; a scaler may leave it out."""
        optimizer = self._optimizers[place]
        if self._recipe.clip is not None:
            if self._precision.scaled:
                self._scaler.unscale_(optimizer)
            self.monitor.before_clipping(optimizer)
            nn.utils.clip_grad_norm_(part.parameters(), self._recipe.clip)
        self._scaler.step(optimizer)
        if self._precision.scaled and self._is_left_out(optimizer):
            self.monitor.skipped(place)
        self._run.steps[place] += 1

    def _is_left_out(self, optimizer: Optimizer) -> bool:
        """Gradients that are not finite make the scaler leave the step out."""
        return any(
            p.grad is not None and not bool(p.grad.isfinite().all()) for g in optimizer.param_groups for p in g["params"]
        )

    def _schedule(self, step: int) -> None:
        is_due = self._recipe.schedule not in PER_EPOCH or (step + 1) % EPOCH == 0
        for scheduler in self._schedulers if is_due else ():
            scheduler.step()


def _optimizer(recipe: Recipe, net: nn.Module) -> Optimizer:
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = OPTIMIZERS[recipe.family.optimizer](parameters, recipe.family.lr * recipe.times)
    for group in optimizer.param_groups:
        group.update(recipe.group)
    if hasattr(optimizer, "train"):
        optimizer.train()
    return optimizer
