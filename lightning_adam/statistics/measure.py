"""Raw rows of all tensors of a step: compiled where it can be, batched torch elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lightning_adam.statistics import kernel, triton_kernel
from lightning_adam.statistics.batched import reduce_batched
from lightning_adam.statistics.columns import Columns
from lightning_adam.statistics.raw import RawTable, empty_table
from lightning_adam.statistics.reading import TensorReading


def measure(readings: Sequence[TensorReading], columns: Columns) -> RawTable:
    """The raw rows of all readings, on the first one's device; nothing is read back to the host.

    Tensors may be shards: their rows then lack the other ranks' parts, which ``RawTable`` says how to combine.
    """
    device = readings[0].parameter.device if readings else torch.device("cpu")
    table = empty_table(columns.sampling, device)
    by_device = {"cpu": kernel.reduce, "cuda": triton_kernel.reduce}
    fast = by_device[device.type](readings, columns, table) if device.type in by_device else frozenset()
    rest = [row for row in range(len(readings)) if row not in fast]
    if rest:
        reduce_batched(readings, rest, columns, table)
    return table
