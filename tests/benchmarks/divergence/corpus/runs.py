"""Trains one run of a family in a plain loop, with the monitor attached, and keeps what it recorded."""

from __future__ import annotations

import copy
import logging
import time
from pathlib import Path
from typing import Any

import torch
from torch import Generator, nn
from torch.optim import Optimizer

from lightning_adam.integrations.loop_run import LoopRun
from lightning_adam.monitoring.monitor import Monitor
from lightning_adam.monitoring.optimizer_diagnosis import DivergenceOptions
from tests.benchmarks.divergence.corpus.family import FAMILIES, OPTIMIZERS, Family
from tests.benchmarks.divergence.corpus.mistakes import MISTAKES, Mistake
from tests.benchmarks.divergence.running import Run, final_loss

GRID = (0.3, 1.0, 3.0)
"""The family's rate times these: the healthy runs are those that end as low as the best."""
STORED = Path("runs/corpus")


def path_of(family: str, kind: str, seed: int) -> Path:
    """Where a run is stored; ``kind`` is a mistake's name or ``rate-FACTOR``."""
    return STORED / f"{family}.{kind}.{seed}.zip"


def train_job(job: tuple[str, str, int]) -> tuple[str, str, int]:
    """Of a process; what is stored already is not trained again."""
    torch.set_num_threads(1)
    logging.getLogger("lightning_adam").setLevel(logging.ERROR)
    family, kind, seed = job
    if not path_of(*job).exists():
        times = float(kind.removeprefix("healthy-")) if kind.startswith("healthy-") else 1.0
        train(FAMILIES[family], times, MISTAKES.get(kind), seed).save(path_of(*job))
    return job


def train(family: Family, times: float, mistake: Mistake | None, seed: int) -> Run:
    """The same arguments give the same run."""
    began = time.perf_counter()
    torch.manual_seed(seed)
    task, generator = family.make(), Generator().manual_seed(seed + 1)
    wrong = mistake or Mistake("")
    trained = copy.deepcopy(task.net) if wrong.stale else task.net
    optimizer = _optimizer(family, task.net, times, wrong)
    kept: list[Any] = []
    run = LoopRun(trained, [optimizer], None, family.steps, None, 50, 1, wrong.clip, [])
    monitor = Monitor(run, None, DivergenceOptions(), on_record=lambda position, record: kept.append(record))
    monitor.begin()
    base = [group["lr"] for group in optimizer.param_groups]
    for step in range(family.steps):
        for group, lr in zip(optimizer.param_groups, base, strict=True):
            group.setdefault("initial_lr", lr)
            group["lr"] = lr * (wrong.factor(step, family.steps) if wrong.factor else 1.0)
        batch = task.draw(generator)
        batch = wrong.batch(step, family.steps, batch) if wrong.batch else batch
        if wrong.zeroed:
            optimizer.zero_grad()
        loss = task.loss(trained, batch)
        loss = wrong.loss(step, family.steps, loss) if wrong.loss else loss
        monitor.begin_batch(batch, step)
        monitor.loss(loss)
        loss.backward()
        if wrong.clip is not None:
            monitor.before_clipping(optimizer)
            nn.utils.clip_grad_norm_(trained.parameters(), wrong.clip)
        optimizer.step()
        run.steps[0] += 1
    findings = monitor.findings
    monitor.end()
    if monitor.guard.failures:
        raise RuntimeError(f"{family.name}: the monitor lost {monitor.guard.failures}.")
    result = Run(family.name, seed, [kept], findings, 0.0, time.perf_counter() - began)
    return Run(family.name, seed, [kept], findings, final_loss(result.losses), result.seconds)


def _optimizer(family: Family, net: nn.Module, times: float, wrong: Mistake) -> Optimizer:
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = OPTIMIZERS[family.optimizer](parameters, family.lr * times * wrong.rate)
    changes = {"eps": wrong.eps, "betas": wrong.betas, "weight_decay": wrong.weight_decay}
    for group in optimizer.param_groups:
        group.update({name: value for name, value in changes.items() if value is not None})
    return optimizer
