"""Interventions on the input, in evaluation: who depends on whom."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_adam.preflight.alignment import other_partner
from lightning_adam.preflight.batches import mapped, same_values, size, take
from lightning_adam.preflight.data import named_target
from lightning_adam.preflight.gradients import walk
from lightning_adam.preflight.graph_mixing import graph_mixing, has_edges
from lightning_adam.preflight.mixing import mixing
from lightning_adam.preflight.recorder import BINARY_LOSSES, CLASS_LOSSES, VALUE_LOSSES, Call, Recorder, is_on
from lightning_adam.preflight.sequence_order import order
from lightning_adam.preflight.step import Step, asked_and_given, predict
from lightning_adam.preflight.task import Task, kept, mode
from lightning_adam.preflight.unheard import loss_ignores_batch
from lightning_adam.preflight.unread_tokens import change_by_tokens

SAMPLES = 8
CHANGED = 1e-3
"""Of the output's standard deviation; another order of summation changes 1e-6."""


@dataclass
class Behaviour:
    """What the prediction depends on.

    Attributes:
        mixing: change of a sample's output when the others are replaced, over the output's spread; NaN if not to be had.
        leak: change of earlier outputs with later inputs, of a model that predicts the next; NaN if it does not.
        copies: whether the targets are the input's tokens at the same places, and nothing narrow is between; or its numbers,
            and an output reads its own place and those before it.
        spread: of the output over samples, relative to its size; NaN if not to be had.
        wide_spread: the same with inputs that are thirty times as large, where all samples pick the same entry of a table.
        dropouts: dropout that is on in evaluation.
        partner: the sample whose output the first sample's target is compared with, where that is another one.
        by_tokens: change of the outputs when samples get each other's tokens and keep their padding; NaN if not to be had.
        noisy: whether the net gives something else for the same input at another draw of random numbers.
        ignores_batch: whether the loss is the same, bit by bit, for other numbers in the batch.
    """

    mixing: float = math.nan
    leak: float = math.nan
    copies: bool = False
    spread: float = math.nan
    wide_spread: float = math.nan
    dropouts: tuple[Call, ...] = ()
    partner: int | None = None
    by_tokens: float = math.nan
    noisy: bool = False
    ignores_batch: bool = False


def measure(task: Task, step: Step, batch: Any) -> Behaviour:
    """On the first samples of a batch."""
    found = Behaviour()
    with exactly(task), mode(task.module, training=False), kept(task.module):
        found.dropouts, found.noisy = _active_dropouts(task, batch), _draws(task, step, batch)
        found.ignores_batch = loss_ignores_batch(task)
        if has_edges(batch):  # no part of one graph is a batch
            found.mixing, found.spread = graph_mixing(task, batch), _spread(task, step, batch)
        elif size(batch) >= 4:
            _exchange(task, step, batch, found)
        elif size(batch) and step.prediction >= 0:
            found.leak, found.copies = order(task, step, batch)
    return found


def _exchange(task: Task, step: Step, batch: Any, found: Behaviour) -> None:
    """Samples and their parts change places."""
    found.partner = other_partner(task, batch, step.target or named_target(batch), _has_places(step))
    if step.prediction < 0:
        return
    few = take(batch, range(min(size(batch) - 1, SAMPLES)))  # fewer than all: an output of pairs is to be seen by its size
    found.spread = _spread(task, step, batch)
    if found.spread < 1e-6 and step.is_quantised:
        found.wide_spread = _relative_spread(predict(task, mapped(batch, _scale_up), step.prediction))
    found.mixing = mixing(task, step, few)
    found.leak, found.copies = order(task, step, few)
    found.by_tokens = change_by_tokens(task, step, batch)


def _has_places(step: Step) -> bool:
    """Whether the loss adds up what it finds at each place of a sample."""
    main = step.main if step.target else None
    if main is None or main.target is None or main.name not in (*CLASS_LOSSES, *BINARY_LOSSES, *VALUE_LOSSES):
        return False
    return main.target.numel() > step.samples


@contextmanager
def exactly(task: Task) -> Iterator[None]:
    """Without autocast: bfloat16 has 8 bits, and another order of the samples may change the last of them."""
    before, task.is_exact = task.is_exact, True
    try:
        yield
    finally:
        task.is_exact = before


def _active_dropouts(task: Task, batch: Any) -> tuple[Call, ...]:
    with Recorder() as recorder:
        task.loss(batch)
    return tuple(call for call in recorder.record.dropouts if is_on(call))


def _draws(task: Task, step: Step, batch: Any) -> bool:
    """Of a net that is judged by targets: noise that the training step adds before it has changed its input. Who tells
    the input again, as a variational autoencoder does, draws on purpose."""
    if not step.target or step.prediction < 0 or _is_input(step):
        return False
    (asked, first), (_, again), (later, other) = (asked_and_given(task, batch, step.prediction, k) for k in (0, 0, 1))
    if asked is None or later is None or not torch.equal(asked, later) or first is None or again is None or other is None:
        return False
    least = CHANGED * (float(first.float().std()) + 1e-12)
    return bool((again - first).abs().max() <= least < (other - first).abs().max())


def _is_input(step: Step) -> bool:
    target, asked = step.main.target if step.main is not None else None, step.trace.asked[step.prediction]
    return target is None or asked is None or (asked.numel() == target.numel() and same_values(asked, target))


def _spread(task: Task, step: Step, batch: Any) -> float:
    """Of a zero-initialised head, after a few steps: it starts the same for all."""
    if step.prediction < 0 or size(batch) < 4:
        return math.nan
    now = _relative_spread(predict(task, batch, step.prediction))
    if now < 1e-6:
        with kept(task.module):
            walk(task, list(task.trainable()))
            now = _relative_spread(predict(task, batch, step.prediction))
    return now


def _scale_up(part: Any) -> Any:
    """What chooses one of some entries may choose the same for all until its input is larger."""
    return part * 30 if isinstance(part, Tensor) and part.is_floating_point() else part


def _relative_spread(output: Tensor | None) -> float:
    if output is None or not bool(torch.isfinite(output).all()):
        return math.nan
    return (
        float(output.flatten(1).float().std(0).max()) / (float(output.abs().max()) + 1e-12)
        if output.dim() > 1
        else (float(output.float().std()) / (float(output.abs().max()) + 1e-12))
    )
