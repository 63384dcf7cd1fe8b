"""From the table of all tensors to the few numbers that a person watches."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_adam.statistics.quantities import LOG10_EDGES
from lightning_adam.statistics.snapshot import Snapshot

SAMPLING_ERROR = 0.1
"""The histogram is a sample's: of the dead, which are counted exactly, so large a share may be left or lack in it."""


def headline(snapshot: Snapshot, group: str | None = None) -> dict[str, float]:
    """The headline quantities of one parameter group, or of the whole model: ``{"log10_lr": -3.5, …}``.

    Norms and mean squares are pooled over all elements; update ratios and effective learning rates are quantiles
    over the tensors. log10 of zero is NaN: TensorBoard draws a gap.
    """
    rows = np.array([group is None or g == group for g in snapshot.groups], dtype=bool)
    sizes = np.asarray(snapshot.sizes, dtype=np.float64)[rows]

    def column(quantity: str) -> NDArray[np.float64]:
        values: NDArray[np.float64] = snapshot.column(quantity)[rows].astype(np.float64)
        return values

    def weights(values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Elements per tensor, 0 where the optimizer keeps no such number (Muon's v); NaN of a sick tensor stays."""
        return np.where(np.isnan(values) & np.isfinite(gradients), 0.0, sizes)

    gradients, ratio, agreement = column("gradient_norm"), column("update_ratio"), column("signal_to_noise")

    def pooled(quantity: str) -> float:
        values = column(quantity)
        return log10(math.sqrt(_average(np.square(values), weights(values))))

    rates = [lr for name, lr in snapshot.lr.items() if group in (None, name)]
    return {
        "log10_lr": log10(max(rates, default=math.nan)),
        "log10_update_ratio_p10": log10(_quantile(ratio, 0.1)),
        "log10_update_ratio_p50": log10(_quantile(ratio, 0.5)),
        "log10_update_ratio_p90": log10(_quantile(ratio, 0.9)),
        "log10_step_size_rms": pooled("step_size_rms"),
        "log10_effective_lr_p50": log10(_quantile(column("effective_lr_p50"), 0.5)),
        "log10_first_moment_rms": pooled("first_moment_rms"),
        "log10_second_moment_rms": pooled("second_moment_rms"),
        "log10_gradient_norm": log10(float(np.sqrt(np.square(gradients).sum()))),
        "signal_to_noise": _average(agreement, weights(agreement)),
    }


def step_size_quantiles(snapshot: Snapshot, at: Sequence[float]) -> list[float]:
    """log10 quantiles of |Δθ| over the elements that moved (by more than 1e-12): dead ones would hide the rest."""
    return _histogram_quantiles(snapshot.hist_step_size[1:], LOG10_EDGES[1:], at)


def effective_lr_quantiles(snapshot: Snapshot, at: Sequence[float]) -> list[float]:
    """log10 quantiles of α/(√v̂+ε) over the elements with v > 0: the rate of the others, α/ε, says nothing."""
    alive = snapshot.hist_effective_lr - snapshot.hist_dead
    counts = np.where(alive > SAMPLING_ERROR * snapshot.hist_dead, alive, 0)
    return _histogram_quantiles(counts, LOG10_EDGES, at)


def _histogram_quantiles(counts: NDArray[np.int64], edges: NDArray[np.float64], at: Sequence[float]) -> list[float]:
    """Linear within a bin of a quarter decade; NaN where the histogram is empty."""
    if counts.sum() == 0:
        return [math.nan] * len(at)
    filled = np.flatnonzero(counts)
    kept = slice(filled[0], filled[-1] + 1)
    below = np.concatenate([[0.0], np.cumsum(counts[kept]) / counts.sum()])
    return [float(np.interp(q, below, edges[filled[0] : filled[-1] + 2])) for q in at]


def log10(value: float) -> float:
    """NaN of what has none: TensorBoard draws a gap."""
    return math.log10(value) if value > 0 and math.isfinite(value) else math.nan


def _quantile(values: Sequence[float] | NDArray[np.float64], q: float) -> float:
    """As ``numpy.quantile``, which takes long for a few numbers; NaN left out, of nothing, and beside infinities."""
    known = np.asarray(values, dtype=np.float64)
    ordered = np.sort(known[~np.isnan(known)])
    if not ordered.size:
        return math.nan
    place = (ordered.size - 1) * q
    share, low, high = place % 1, float(ordered[int(place)]), float(ordered[min(int(place) + 1, ordered.size - 1)])
    return low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share)


def _average(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    used = weights > 0
    return float(np.average(values[used], weights=weights[used])) if used.any() else math.nan
