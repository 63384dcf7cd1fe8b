"""Whether the loss of a batch is the sum of the losses of its parts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from lightning_adam.diagnosis import Finding
from lightning_adam.preflight.batches import size, take
from lightning_adam.preflight.facts import Check, Facts, found
from lightning_adam.preflight.task import Task, kept, mode

Parts = tuple[float, float, float]
"""The loss of eight samples, the same with other random numbers, and the sum of the losses of their halves."""


def measure(task: Task, batch: Any) -> Parts:
    """In evaluation, where no norm mixes the samples."""
    if size(batch) < 2:
        return math.nan, math.nan, math.nan
    few = take(batch, range(min(8, size(batch) // 2 * 2)))
    half = size(few) // 2
    with mode(task.module, training=False), kept(task.module), torch.enable_grad():
        whole, again = float(task.loss(few).detach()), float(task.loss(few, seed=1).detach())
        halves = [take(few, range(half)), take(few, range(half, 2 * half))]
        return whole, again, sum(float(task.loss(part).detach()) for part in halves)


def loss_is_sum(facts: Facts) -> Iterator[Finding]:
    """Random losses are left out. Adam does not see the factor; SGD and clipping do."""
    whole, again, summed = facts.parts
    if (
        not math.isfinite(whole)
        or abs(whole) < 1e-6
        or abs(whole - again) > 1e-4 * abs(whole)
        or abs(whole - summed) > 1e-3 * abs(whole)
    ):
        return
    harms = facts.has("plan") and (not facts.plan.is_adaptive or facts.plan.clip > 0)
    main = facts.step.main
    yield found(
        "LOSS-IS-SUM",
        "warning" if harms else "info",
        f"The loss is a sum over the batch ({whole:.4g} for 8 samples): gradients grow with the batch size.",
        'reduction="mean", or divide by the number of samples.',
        {"loss": whole, "sum of parts": summed} | ({"at": main.place} if main and main.place else {}),
    )


CHECKS = (Check("LOSS-IS-SUM", ("parts", "step"), loss_is_sum),)
