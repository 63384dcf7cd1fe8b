"""Whether a graph's output hangs on the other graphs of its batch, where they lie side by side in one."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lightning_adam.preflight.batches import leaves, mapped
from lightning_adam.preflight.step import main_tensor, prediction_call, remembering_nothing, traced
from lightning_adam.preflight.task import Task


def has_edges(batch: Any) -> bool:
    """Whether the batch is a graph, or several side by side: pairs of nodes, by their numbers (Fey and Lenssen 2019)."""
    return any(leaf.dim() == 2 and leaf.shape[0] == 2 < leaf.shape[1] and _is_whole(leaf) for _, leaf in leaves(batch))


def _is_whole(leaf: Tensor) -> bool:
    return not leaf.is_floating_point() and not leaf.is_complex() and leaf.dtype != torch.bool


def _owners(batch: Any) -> Tensor | None:
    """Which graph each node belongs to, where the batch has something for each graph; None where it is one."""
    tensors = [leaf for _, leaf in leaves(batch) if leaf.dim()]
    lengths = [len(leaf) for leaf in tensors]
    counting = (leaf for leaf in tensors if _counts_up(leaf) and lengths.count(len(leaf)) > 1)
    return next((owners for owners in counting if int(owners.max()) + 1 in lengths), None)


def _counts_up(leaf: Tensor) -> bool:
    """0, 0, 0, 1, 1, 2 and so on."""
    if leaf.dim() != 1 or not _is_whole(leaf) or len(leaf) < 4 or int(leaf[0]) != 0:
        return False
    steps = leaf[1:].long() - leaf[:-1].long()
    return bool(((steps == 0) | (steps == 1)).all()) and 1 <= int(leaf[-1]) < len(leaf) // 2


def graph_mixing(task: Task, batch: Any) -> float:
    """The change of the first graph's output when the features of all others' nodes change places, over the spread."""
    owners = _owners(batch)
    if owners is None:
        return math.nan
    graphs, others = int(owners.max()) + 1, (owners > 0).nonzero().flatten()

    def move(part: Any) -> Any:
        if not isinstance(part, Tensor) or not part.is_floating_point() or part.shape[:1] != owners.shape:
            return part
        values = part.clone()
        values[others] = part[others.roll(1)]
        return values

    before, after = _output(task, batch, graphs), _output(task, mapped(batch, move), graphs)
    if before is None or after is None or before.shape != after.shape:
        return math.nan
    return float((after[0] - before[0]).abs().max()) / (float(before.float().std()) + 1e-12)


def _output(task: Task, batch: Any, graphs: int) -> Tensor | None:
    """The last net's, of one entry for each graph."""
    with remembering_nothing(task.module), traced() as trace:
        task.loss(batch)
    which = prediction_call(trace, graphs)
    found = main_tensor(trace.outer[which][1], graphs) if which >= 0 else None
    return None if found is None else found.detach()
