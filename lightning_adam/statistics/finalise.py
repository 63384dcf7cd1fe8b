"""From raw rows to the table's columns: NumPy, float64, all tensors at once."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from lightning_adam.statistics import kernel
from lightning_adam.statistics.columns import Columns
from lightning_adam.statistics.elements import Reduction
from lightning_adam.statistics.quantities import (
    BINS,
    LEVELS,
    LOG10_EDGES,
    RAW_COLUMNS,
    READ_BY_RULES,
    SUMS,
    Array,
    table,
)
from lightning_adam.statistics.raw import RawTable

ALIVE = Reduction("count", "v != 0")


def finalise(of: Columns, raw: RawTable) -> NDArray[np.float32]:
    """The table of whole tensors; what was not to be had is NaN.

    Args:
        of: for learning rates, ε, steps and sizes.
        raw: on the CPU, the rows of whole tensors.

    Returns:
        float32 [n_tensors, n_columns] as COLUMNS.
    """
    numbers = _numbers(raw)
    rates = sample_quantiles(raw.sample.numpy(), of.sampling.begins)
    numbers |= {f"effective_lr({level})": rates[:, index] for index, level in enumerate(LEVELS)}
    with np.errstate(all="ignore"):
        return table(of, numbers).astype(np.float32)


def read_by_rules(of: Columns, raw: RawTable) -> NDArray[np.float32]:
    """As :func:`finalise`, READ_BY_RULES alone: they need no sample."""
    with np.errstate(all="ignore"):
        return table(of, _numbers(raw), READ_BY_RULES).astype(np.float32)


def _numbers(raw: RawTable) -> dict[str, Array]:
    """Sums and maxima of all tensors, in float64."""
    columns = np.concatenate([raw.sums.numpy(), raw.maxima.numpy()], axis=1, dtype=np.float64).T
    return dict(zip(RAW_COLUMNS, columns, strict=True))


def pooled(of: Columns, raw: RawTable) -> NDArray[np.int64]:
    """Of step size and effective learning rate, how many elements of all tensors there are in each bin, int64 [2, BINS]."""
    counts = np.tensordot(of.sampling.weights(), raw.counts.numpy().astype(np.float64), axes=1)
    return np.rint(counts).astype(np.int64)


def dead_rates(of: Columns, raw: RawTable) -> NDArray[np.int64]:
    """Elements with v = 0 by the bin of their effective rate α/ε, int64 [BINS]; on the CPU, of whole tensors."""
    dead = of.total - raw.sums.numpy()[:, SUMS.index(ALIVE)]
    with np.errstate(divide="ignore", invalid="ignore"):
        places = np.searchsorted(LOG10_EDGES, np.log10(of.lr / of.eps), side="right") - 1
    counts = np.bincount(np.clip(places, 0, BINS - 1), np.nan_to_num(dead), BINS)
    return counts.astype(np.int64)


def sample_quantiles(sample: NDArray[np.float32], begins: NDArray[np.int64]) -> Array:
    """LEVELS of each tensor's part of the sample, interpolated as ``numpy.quantile``; NaN where a value is.

    Exact where the sample is the whole tensor. A sample of n at level q lies between the true quantiles at q ± √(q(1-q)/n)
    in two cases of three: with n = 4,096 the p50 between p49 and p51, the p01 between p0.8 and p1.2.
    """
    fast = kernel.quantiles(sample, begins, LEVELS)
    if fast is not None:
        return fast
    parts = [sample[start:end].astype(np.float64) for start, end in itertools.pairwise(begins)]
    return np.array([_quantiles(part) for part in parts]).reshape(-1, len(LEVELS))


def _quantiles(values: Array) -> Array:
    """As ``numpy.quantile``, which finds NaN between two infinities."""
    if len(values) == 0:
        return np.full(len(LEVELS), np.nan)
    with np.errstate(invalid="ignore"):
        between = np.quantile(values, LEVELS)
    low, high = (np.quantile(values, LEVELS, method=method) for method in ("lower", "higher"))
    return np.where(low == high, low, between)
