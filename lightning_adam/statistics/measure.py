"""Raw rows of all tensors of a step: compiled where it can be, batched torch elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch

from lightning_adam.statistics import kernel, triton_kernel
from lightning_adam.statistics.batched import reduce_batched
from lightning_adam.statistics.columns import Columns
from lightning_adam.statistics.raw import RawTable, empty_table
from lightning_adam.statistics.reading import TensorReading

ENGINES: dict[str, ModuleType] = {"cpu": kernel, "cuda": triton_kernel}
"""By the type of device, what reads each tensor once: ``fits``, ``reduce``, ``repeat`` and ``load``."""


def measure(readings: Sequence[TensorReading], columns: Columns) -> RawTable:
    """The raw rows of all readings, on the first one's device; nothing is read back to the host.

    Tensors may be shards: their rows then lack the other ranks' parts, which ``RawTable`` says how to combine.
    """
    device = readings[0].parameter.device if readings else torch.device("cpu")
    table = empty_table(columns.sampling, device)
    engine = ENGINES.get(device.type)
    fast = engine.reduce(readings, columns, table) if engine is not None else frozenset()
    rest = [row for row in range(len(readings)) if row not in fast]
    if rest:
        reduce_batched(readings, rest, columns, table)
    return table
