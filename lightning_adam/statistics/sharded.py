"""Sharded parameters: each rank measures its shards, one collective makes whole rows of them.

Sums and samples add up and maxima are taken (see :mod:`lightning_adam.statistics.raw`). They travel together in one
all-reduce: each rank's maxima have a place of their own in it. Among many ranks these places would outweigh the rest, and
the maxima take an all-reduce of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from lightning_adam.statistics.columns import Columns
from lightning_adam.statistics.measure import measure
from lightning_adam.statistics.raw import RawTable
from lightning_adam.statistics.reading import TensorReading
from lightning_adam.statistics.snapshot import NOTHING, ExtraScalars, Snapshot, snapshot_of

FEW_RANKS = 16
"""Up to so many, maxima travel with the sums: five numbers per tensor and rank beside twelve per tensor and the sample."""


def is_sharded(optimizer: Optimizer) -> bool:
    """Whether this rank holds only shards of some of its parameters (FSDP2, tensor parallelism: DTensor)."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    sharded = any(placement.is_shard() for p in parameters for placement in getattr(p, "placements", ()))
    return sharded and dist.is_available() and dist.is_initialized()


def flat_shards(optimizer: Optimizer) -> dict[int, tuple[int, int]]:
    """FSDP1 with ``use_orig_params``: each rank holds a flat stretch of a tensor, or nothing of it.

    All ranks call it once, when training starts: one all-gather of the stretches' lengths.

    Returns:
        By the parameter's identity: elements before the stretch, and elements of the whole tensor.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    device = parameters[0].device if parameters else torch.device("cpu")
    mine = torch.tensor([p.numel() * (2 if p.is_complex() else 1) for p in parameters], device=device)
    lengths = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, mine)
    table = torch.stack(lengths).cpu()
    begins, wholes = table[: dist.get_rank()].sum(dim=0).tolist(), table.sum(dim=0).tolist()
    return {id(p): (begin, whole) for p, begin, whole in zip(parameters, begins, wholes, strict=True)}


def take_sharded_snapshot(step: int, readings: Sequence[TensorReading], extra_scalars: ExtraScalars = NOTHING) -> Snapshot:
    """The snapshot of the whole tensors, on every rank; all ranks call it with readings of the same parameters.

    Args as :func:`~lightning_adam.statistics.take_snapshot`'s; the ``extra_scalars`` are this rank's own.
    """
    columns = Columns.of(readings)
    return snapshot_of(step, columns, combine(columns, measure(readings, columns)), extra_scalars)


def combine(of: Columns, local: RawTable) -> RawTable:
    """Whole rows from those of this rank's shards: one all-reduce over the default group, two among many ranks."""
    mine = torch.from_numpy(of.counts).to(local.sums.device)[:, None]
    sums = torch.where(mine, local.sums, 0.0)
    maxima = torch.where(mine, local.maxima, -math.inf)
    counts = torch.where(mine[..., None], local.counts, 0)
    places = _places(maxima)
    parts = (sums, places, counts.to(sums.dtype), _counted_sample(of, local).to(sums.dtype))
    packed = torch.cat([part.flatten() for part in parts])
    dist.all_reduce(packed)
    pieces = torch.split(packed, [part.numel() for part in parts])
    whole = pieces[1].view(places.shape).amax(dim=0) if len(places) else _largest(maxima)
    return RawTable(pieces[0].view(sums.shape), whole, pieces[2].view(counts.shape).int(), pieces[3].float())


def _places(maxima: Tensor) -> Tensor:
    """[ranks, …] with this rank's in its place; none where there are too many ranks."""
    world = dist.get_world_size()
    places = torch.zeros(world if world <= FEW_RANKS else 0, *maxima.shape, dtype=maxima.dtype, device=maxima.device)
    if len(places):
        places[dist.get_rank()] = maxima
    return places


def _largest(maxima: Tensor) -> Tensor:
    dist.all_reduce(maxima, dist.ReduceOp.MAX)
    return maxima


def _counted_sample(of: Columns, local: RawTable) -> Tensor:
    """Only one of several replicas brings its sample in."""
    sample = local.sample.clone()
    for index in np.flatnonzero(~of.counts).tolist():
        sample[of.sampling.part(index)] = 0.0
    return sample
