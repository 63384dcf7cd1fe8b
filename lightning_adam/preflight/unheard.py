"""Whether the loss hears of the batch at all: a step that draws its own numbers gives each sample another output, too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lightning_adam.preflight.batches import leaves
from lightning_adam.preflight.gradients import walk
from lightning_adam.preflight.task import Task, gradients, kept

COMPARED = 3
"""Batches of the same make, at the same random numbers."""


def loss_ignores_batch(task: Task) -> bool:
    """The same loss and the same gradient, bit by bit, for batches of other numbers; and after some steps, too, for a head
    may start at zero.

    A loader of nothing but places or numbers of samples stands for data that the step makes itself.
    """
    batches = list(_comparable_batches(task.usable()))[:COMPARED]
    if task.manual or len(batches) < COMPARED or not _same_loss_and_gradient(task, batches):
        return False
    with kept(task.module):
        walk(task, list(task.trainable()))
        return _same_loss_and_gradient(task, batches)


def _same_loss_and_gradient(task: Task, batches: list[Any]) -> bool:
    """The gradient is asked where the losses are the same: something very large in all may hide what differs. Where it is 0
    for each of them, another check says why."""
    losses = [task.loss(batch, seed=0) for batch in batches]
    is_one = bool(torch.isfinite(losses[0])) and all(torch.equal(loss, losses[0]) for loss in losses[1:])
    if not is_one or not losses[0].requires_grad:
        return False
    names = list(task.trainable())
    first, *others = (gradients(task, loss, names) for loss in losses)
    is_pulled = any(gradient is not None and bool(gradient.any()) for gradient in first.values())
    return is_pulled and all(_are_equal(one, first[name]) for other in others for name, one in other.items())


def _are_equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other if one is None or other is None else torch.equal(one, other)


def _comparable_batches(batches: list[Any]) -> Iterator[Any]:
    """The first one, and others with tensors of the same shapes of which one of several numbers for each sample differs."""
    first = dict(leaves(batches[0]))
    yield batches[0]
    for batch in batches[1:]:
        other = dict(leaves(batch))
        if first.keys() == other.keys() and all(first[name].shape == other[name].shape for name in first):
            wide = [name for name, value in first.items() if value.is_floating_point() and value.dim() > 1]
            if any(first[name][0].numel() > 1 and not torch.equal(first[name], other[name]) for name in wide):
                yield batch
