"""All tensors of one logged step in one table, read from the device once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_adam.statistics.quantities import COLUMNS, measure, step_size, update_ratio
from lightning_adam.statistics.reading import TensorReading


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
    """

    step: int
    names: list[str]
    groups: list[str]
    sizes: list[int]
    lr: dict[str, float]
    table: NDArray[np.float32]
    hist_step_size: NDArray[np.int64]
    hist_effective_lr: NDArray[np.int64]

    def column(self, quantity: str) -> NDArray[np.float32]:
        """One quantity for all tensors, float32 [n_tensors]."""
        column: NDArray[np.float32] = self.table[:, COLUMNS.index(quantity)]
        return column


def take_snapshot(step: int, readings: Sequence[TensorReading]) -> Snapshot:
    """Measure all readings of one optimizer step; one transfer to the host."""
    measured = [measure(reading) for reading in readings]
    host = readings[0].parameter.device if readings else torch.device("cpu")
    packed = torch.stack(
        [torch.cat([m.row.to(host), m.step_size_counts.to(host), m.effective_lr_counts.to(host)]) for m in measured]
    )
    values = packed.cpu().numpy()
    rows, bins = len(COLUMNS), (values.shape[1] - len(COLUMNS)) // 2
    return Snapshot(
        step=step,
        names=[r.name for r in readings],
        groups=[r.group for r in readings],
        sizes=[r.parameter.numel() for r in readings],
        lr={r.group: r.lr if r.group_lr is None else r.group_lr for r in readings},
        table=values[:, :rows].astype(np.float32),
        hist_step_size=values[:, rows : rows + bins].sum(0).astype(np.int64),
        hist_effective_lr=values[:, rows + bins :].sum(0).astype(np.int64),
    )


@torch.no_grad()
def update_ratios(readings: Sequence[TensorReading]) -> dict[str, float]:
    """‖Δθ‖/‖θ‖ of the weight matrices: vectors start at 0 or 1 and would drown them."""
    matrices = [r for r in readings if r.parameter.dim() >= 2]
    if not matrices:
        return {}
    ratios = torch.stack([update_ratio(r, step_size(r)) for r in matrices]).tolist()
    return {r.name: ratio for r, ratio in zip(matrices, ratios, strict=True) if ratio == ratio}
