"""Raw rows of all tensors of a step: compiled where it can be, eager elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from lightning_adam.statistics import kernel
from lightning_adam.statistics.eager import reduce_eager
from lightning_adam.statistics.raw import KERNEL_MAXIMA, KERNEL_SUMS, MAXIMA, SUMS, RawTable, Sampling, empty_table
from lightning_adam.statistics.reading import TensorReading


def measure(readings: Sequence[TensorReading]) -> RawTable:
    """The raw rows of all readings, on the first one's device; nothing is read back to the host.

    Tensors may be shards: their rows then lack the other ranks' parts, which ``RawTable`` says how to combine.
    """
    device = readings[0].parameter.device if readings else torch.device("cpu")
    sampling = Sampling.of(readings)
    table = empty_table(sampling, device)
    fast = _compiled(readings, sampling, table) if device.type == "cpu" else frozenset()
    for index, reading in enumerate(readings):
        if index not in fast:
            sums, maxima, sample = reduce_eager(reading, sampling.positions(index, device))
            table.sums[index], table.maxima[index] = sums, maxima
            table.sample[sampling.part(index)] = sample
    return table


def _compiled(readings: Sequence[TensorReading], sampling: Sampling, table: RawTable) -> frozenset[int]:
    """Fills in the rows that the kernel can compute; returns which."""
    rows = [index for index, reading in enumerate(readings) if kernel.fits(reading)]
    found = kernel.reduce(readings, rows, sampling, table.sample.numpy()) if rows else None
    if found is None:
        return frozenset()
    sums, maxima = found
    narrow, rates = len(KERNEL_SUMS), np.array([readings[index].lr for index in rows])
    whole, tops = table.sums.numpy(), table.maxima.numpy()
    whole[rows, :narrow], whole[rows, len(SUMS) :] = sums[:, :narrow], sums[:, narrow:]
    whole[rows, SUMS.index("step_squared")] = sums[:, KERNEL_SUMS.index("ratio_squared")] * rates**2
    tops[rows, : len(KERNEL_MAXIMA)] = maxima
    tops[rows, MAXIMA.index("step_max")] = maxima[:, KERNEL_MAXIMA.index("ratio_max")] * rates
    return frozenset(rows)
