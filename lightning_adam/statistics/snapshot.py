"""All tensors of one logged step in one table, read from the device once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_adam.statistics.columns import Columns
from lightning_adam.statistics.finalise import dead_rates, finalise, pooled
from lightning_adam.statistics.measure import measure
from lightning_adam.statistics.quantities import BINS, COLUMNS
from lightning_adam.statistics.raw import RawTable
from lightning_adam.statistics.reading import TensorReading

ExtraScalars = Mapping[str, Tensor | float]
NOTHING: ExtraScalars = MappingProxyType({})


@dataclass(frozen=True)
class Snapshot:
    """Everything measured at one logged step.

    Attributes:
        step: the step on the log's x-axis.
        names: tensor names in model order.
        groups: the parameter group's name per tensor.
        sizes: elements per tensor.
        lr: learning rate per group that the step used.
        table: float32 [n_tensors, n_columns], columns as COLUMNS: the QUANTITIES first.
        hist_step_size: int64 counts of log10 |Δθ| over all elements, between LOG10_EDGES.
        hist_effective_lr: int64 counts of log10 α/(√v̂+ε) over all elements.
        hist_dead: int64, those of them whose v is 0, so that their rate is α/ε.
        extra_scalars: numbers that were read together with the table.
        histograms: int32 [n_tensors, 2, BINS], counts of log10 |Δθ| and of log10 α/(√v̂+ε) over each tensor's sampled
            elements.
    """

    step: int
    names: list[str]
    groups: list[str]
    sizes: list[int]
    lr: dict[str, float]
    table: NDArray[np.float32]
    hist_step_size: NDArray[np.int64]
    hist_effective_lr: NDArray[np.int64]
    hist_dead: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, dtype=np.int64))
    extra_scalars: Mapping[str, float] = field(default_factory=dict)
    histograms: NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 2, BINS), dtype=np.int32))

    def column(self, quantity: str) -> NDArray[np.float32]:
        """One quantity for all tensors, float32 [n_tensors]."""
        column: NDArray[np.float32] = self.table[:, COLUMNS.index(quantity)]
        return column


def take_snapshot(step: int, readings: Sequence[TensorReading], extra_scalars: ExtraScalars = NOTHING) -> Snapshot:
    """Measure all readings of one optimizer step; one transfer to the host.

    Args:
        step: on the log's x-axis.
        readings: of all tensors.
        extra_scalars: numbers by name, to be read in the same transfer; tensors without dimensions.
    """
    columns = Columns.of(readings)
    return snapshot_of(step, columns, measure(readings, columns), extra_scalars)


def snapshot_of(step: int, of: Columns, raw: RawTable, extra_scalars: ExtraScalars = NOTHING) -> Snapshot:
    """The snapshot that the raw rows of whole tensors amount to (those of shards are to be combined first)."""
    host, numbers = raw.on_host(extra_scalars)
    step_sizes, rates = pooled(of, host)
    return Snapshot(
        step=step,
        names=of.names,
        groups=of.groups,
        sizes=of.total.tolist(),
        lr=of.rates,
        table=finalise(of, host),
        hist_step_size=step_sizes,
        hist_effective_lr=rates,
        hist_dead=dead_rates(of, host),
        extra_scalars=numbers,
        histograms=host.counts.numpy(),
    )
