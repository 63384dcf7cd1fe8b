"""Whether a graph's output hangs on the other graphs of its batch, where they lie side by side in one."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from lightning_adam.preflight.batches import leaves, mapped
from lightning_adam.preflight.step import main_tensor, prediction_call, remembering_nothing, traced
from lightning_adam.preflight.task import Task


def graph_of_each_node(batch: Any) -> Tensor | None:
    """Which graph each node belongs to, in a batch with edges and something for each graph (Fey and Lenssen 2019)."""
    tensors = [leaf for _, leaf in leaves(batch) if leaf.dim()]
    if not any(_is_edges(leaf) for leaf in tensors):
        return None
    lengths = [len(leaf) for leaf in tensors]
    owners = (leaf for leaf in tensors if _counts_up(leaf) and lengths.count(len(leaf)) > 1)
    return next((owner for owner in owners if int(owner.max()) + 1 in lengths), None)


def _is_edges(leaf: Tensor) -> bool:
    return leaf.dim() == 2 and leaf.shape[0] == 2 and leaf.shape[1] > 2 and not leaf.is_floating_point()


def _counts_up(leaf: Tensor) -> bool:
    """0, 0, 0, 1, 1, 2 and so on."""
    if leaf.dim() != 1 or leaf.is_floating_point() or len(leaf) < 4 or int(leaf[0]) != 0:
        return False
    steps = leaf[1:].long() - leaf[:-1].long()
    return bool(((steps == 0) | (steps == 1)).all()) and 1 <= int(leaf[-1]) < len(leaf) // 2


def graph_mixing(task: Task, batch: Any, owners: Tensor) -> float:
    """The change of the first graph's output when the features of all others' nodes change places, over the spread."""
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
