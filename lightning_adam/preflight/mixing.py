"""Whether a sample's output hangs on the others of its batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lightning_adam.preflight.batches import leaves, size, take
from lightning_adam.preflight.step import Step, main_tensor, predict
from lightning_adam.preflight.task import Task


def mixing(task: Task, step: Step, few: Any) -> float:
    """The first and the last sample keep their places while the others move or become one: attention over the batch does
    not see a permutation."""
    n = size(few)
    before = None if _is_relational(task, step) else predict(task, few, step.prediction)
    if before is None or (_grows(step, before) and not _are_pairs(before)):
        return math.nan
    columns = _grows(step, before)
    again = predict(task, few, step.prediction, seed=1)
    is_outside = again is None or not torch.equal(again, before) or _mixes_targets(step)
    net = step.trace.outer[step.prediction][0] if is_outside else None
    spread = float(before.float().std()) + 1e-12
    orders = [[0, n - 1, *range(1, n - 1)], [*range(1, n - 1), 0, n - 1], [0] + [1] * (n - 1)]
    changes = []
    for order in orders:
        with _reordered(net, order, n) if net is not None else nullcontext():
            after = predict(task, few if net is not None else take(few, order), step.prediction)
        if after is None or after.shape != before.shape:
            return math.nan
        places = [place for place in (0, n - 1) if order[place] == place]
        for place in places:
            change = (after[place] - before[place]).abs()
            changes.append(float(change[place] if columns else change.max()) / spread)
    return max(changes)


@contextmanager
def _reordered(net: nn.Module, order: list[int], n: int) -> Iterator[None]:
    """The net gets its samples, of which there are ``n``, in another order."""

    def before(_: nn.Module, args: Any, kwargs: Any) -> Any:
        return tuple(take(one, order, n) for one in args), take(kwargs, order, n)

    handle = net.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _mixes_targets(step: Step) -> bool:
    """Whether the step makes its targets itself, as it does where it mixes samples on purpose (Zhang et al. 2018)."""
    return step.main is not None and step.main.target is not None and not step.target


def _grows(step: Step, few: Tensor) -> bool:
    """Whether the output has a column for each sample."""
    whole = main_tensor(step.trace.outer[step.prediction][1], step.samples)
    return whole is not None and whole.shape[1:] != few.shape[1:] and step.samples != few.shape[0]


def _are_pairs(output: Tensor) -> bool:
    """Likenesses of each sample with each: the entry of a sample with itself is to hang on that sample alone, unless
    rows or columns are normalised."""
    if output.dim() != 2 or output.shape[0] != output.shape[1]:
        return False
    sums = [f(dim) for dim in (0, 1) for f in (output.sum, output.logsumexp)]
    return all(float(total.std()) > 1e-3 * (float(total.abs().mean()) + 1) for total in sums)


def _is_relational(task: Task, step: Step) -> bool:
    """Samples are meant to see each other, as nodes of one graph are, or do so by weights that the step writes."""
    n = step.samples
    square = any(_is_graph(t, n) for t in (*task.module.buffers(), *(leaf for _, leaf in leaves(step.given))))
    norms = [m for m in task.module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return square or step.writes or any(not m.track_running_stats for m in norms)


def _is_graph(tensor: Tensor, nodes: int) -> bool:
    """An adjacency: a number, or yes and no, for each pair. As many columns as there are samples may be chance: numbers for
    pairs are at least 0, the same both ways, or sum to 0 in each row as a Laplacian's do."""
    if tensor.shape != (nodes, nodes) or tensor.is_complex():
        return False
    if not tensor.is_floating_point():
        return int(tensor.max()) <= 1
    rows = tensor.detach().float()
    least = 1e-4 * float(rows.abs().mean())
    return bool((rows >= 0).all() or torch.allclose(rows, rows.mT, atol=least) or (rows.mean(1).abs() <= least).all())
