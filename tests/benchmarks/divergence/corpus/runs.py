"""Trains one run of a family in a plain loop, with the monitor attached, and keeps what it recorded."""

from __future__ import annotations

import copy
import logging
import time
import warnings
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from lightning_adam.integrations.loop_run import LoopRun
from lightning_adam.monitoring.monitor import Monitor
from lightning_adam.monitoring.optimizer_diagnosis import DivergenceOptions
from tests.benchmarks.divergence.corpus.family import Batch
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
    loop.monitor.begin()
    for step in range(recipe.family.steps):
        loop.step(step)
    findings = loop.monitor.findings
    loop.monitor.end()
    if loop.monitor.guard.failures:
        raise RuntimeError(f"{recipe.family.name}: the monitor lost {loop.monitor.guard.failures}.")
    losses = Run("", seed, [loop.kept], findings, 0.0, 0.0).losses
    return Run(recipe.family.name, seed, [loop.kept], findings, final_loss(losses), time.perf_counter() - began)


class Loop:
    """The plain loop that a stranger would write, and what is wrong with it.

    Args:
        recipe: what is trained with what.
        seed: of weights and batches.

    Attributes:
        monitor: to begin before the first step and to end after the last.
        kept: what it has recorded.
    """

    def __init__(self, recipe: Recipe, seed: int) -> None:
        torch.manual_seed(seed)
        self._recipe, self._precision = recipe, PRECISIONS[recipe.precision]
        self._task, self._generator = recipe.family.make(), Generator().manual_seed(seed + 1)
        held = self._task.net.to(self._precision.weights)
        self._net = copy.deepcopy(held) if recipe.mistake.stale else held
        self._optimizer = _optimizer(recipe, held)
        schedule = SCHEDULES.get(recipe.schedule)
        self._scheduler = schedule(self._optimizer, recipe.family.steps) if schedule is not None else None
        for group in self._optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self._scaler = torch.amp.GradScaler("cpu", enabled=self._precision.scaled)  # type: ignore[attr-defined]
        self.kept: list[Any] = []
        scaler = self._scaler if self._precision.scaled else None
        self._run = LoopRun(self._net, [self._optimizer], scaler, recipe.family.steps, None, 50, 1, recipe.clip, [])
        options = DivergenceOptions()
        self.monitor = Monitor(self._run, None, options, on_record=lambda position, record: self.kept.append(record))

    def step(self, step: int) -> None:
        """One batch."""
        rates = [group["lr"] for group in self._optimizer.param_groups]
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = min(rate * self._recipe.factor(step), self._recipe.cap or float("inf"))
        batch = self._batch(step)
        if self._recipe.mistake.zeroed:
            self._optimizer.zero_grad()
        self.monitor.begin_batch(batch, step)
        loss = self._loss(step, batch)
        self.monitor.loss(loss, is_scaled=False)
        self._scaler.scale(loss).backward()
        self._update()
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._schedule(step)

    def _batch(self, step: int) -> Batch:
        drawn, change = self._task.draw(self._generator), self._recipe.mistake.batch
        batch = drawn if change is None else change(step, self._recipe.family.steps, drawn)
        return tuple(t.to(self._precision.weights) if t.is_floating_point() else t for t in batch)

    def _loss(self, step: int, batch: Batch) -> Tensor:
        with torch.autocast("cpu", self._precision.autocast, enabled=self._precision.autocast is not None):
            loss = self._task.loss(self._net, batch)
        change = self._recipe.mistake.loss
        return loss if change is None else change(step, self._recipe.family.steps, loss)

    def _update(self) -> None:
        """Clipped if asked; a scaler may leave it out."""
        if self._recipe.clip is not None:
            if self._precision.scaled:
                self._scaler.unscale_(self._optimizer)
            self.monitor.before_clipping(self._optimizer)
            nn.utils.clip_grad_norm_(self._net.parameters(), self._recipe.clip)
        scale = self._scaler.get_scale()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._scaler.get_scale() < scale:
            self.monitor.skipped(0)
        self._run.steps[0] += 1

    def _schedule(self, step: int) -> None:
        is_due = self._recipe.schedule not in PER_EPOCH or (step + 1) % EPOCH == 0
        if self._scheduler is not None and is_due:
            self._scheduler.step()


def _optimizer(recipe: Recipe, net: nn.Module) -> Optimizer:
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = OPTIMIZERS[recipe.family.optimizer](parameters, recipe.family.lr * recipe.times)
    for group in optimizer.param_groups:
        group.update(recipe.group)
    if hasattr(optimizer, "train"):
        optimizer.train()
    return optimizer
