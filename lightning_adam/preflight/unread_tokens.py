"""Whether what stands before the padding of token sequences reaches the output."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_adam.preflight.batches import leaves, mapped, same_values
from lightning_adam.preflight.gradients import walk
from lightning_adam.preflight.step import EMBEDDINGS, Step, predict
from lightning_adam.preflight.task import Task, kept

LEAST = 1e-6


def change_by_tokens(task: Task, step: Step, batch: Any) -> float:
    """How far outputs (over their spread) or loss move when each sample gets another one's tokens and keeps its own padding;
    NaN where there are no tokens, or no padding."""
    path, tokens = _tokens(step, batch)
    padded = behind(tokens) if tokens is not None else None
    if tokens is None or padded is None or step.prediction < 0:
        return math.nan
    is_real = ~padded & ~padded.roll(1, 0)
    others = torch.where(is_real, tokens.roll(1, 0), tokens)
    moved = _moved(task, step, batch, path, others)
    if moved < LEAST:
        with kept(task.module):  # a branch may begin at zero
            walk(task, list(task.trainable()))
            moved = _moved(task, step, batch, path, others)
    return moved


def _tokens(step: Step, batch: Any) -> tuple[str, Tensor | None]:
    """The batch's sequences of tokens that an embedding gets as they are."""
    entries = [e.values for e in step.trace.entries if isinstance(e.layer, EMBEDDINGS)]
    for path, leaf in leaves(batch):
        is_text = leaf.dim() == 2 and not leaf.is_floating_point() and len(leaf) == step.samples > 3
        if is_text and any(e.numel() == leaf.numel() and same_values(leaf, e) for e in entries):
            return path, leaf
    return "", None


def behind(tokens: Tensor) -> Tensor | None:
    """Where rows have ended: runs, of several lengths, of one token at their ends; None where there are none."""
    last = tokens[:, -1].mode().values
    padded = (tokens == last).flip(1).int().cumprod(1).flip(1).bool()
    runs = padded.sum(1)
    is_padded = bool((runs >= 2).double().mean() > 0.25) and len(torch.unique(runs)) > 2
    return padded if is_padded else None


def _moved(task: Task, step: Step, batch: Any, path: str, others: Tensor) -> float:
    chosen = dict(leaves(batch))[path]
    before = predict(task, batch, step.prediction)
    after = predict(task, mapped(batch, lambda part: others if part is chosen else part), step.prediction)
    if before is None or after is None or before.shape != after.shape:
        return math.nan
    moved = float((after - before).abs().max()) / (float(before.float().std()) + 1e-12)
    return max(moved, _moved_loss(task, batch, lambda part: others if part is chosen else part))


def _moved_loss(task: Task, batch: Any, change: Callable[[Any], Any]) -> float:
    """The tokens may be for another net than the last one, such as one of two towers."""
    before, after = (float(task.loss(one).detach()) for one in (batch, mapped(batch, change)))
    return abs(after - before) / (abs(before) + 1e-12)
