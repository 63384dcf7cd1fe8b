"""From raw rows to the table's columns: NumPy, float64, all tensors at once."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from lightning_adam.statistics import kernel
from lightning_adam.statistics.columns import Columns
from lightning_adam.statistics.quantities import BINS, COLUMNS, LOG10_EDGES
from lightning_adam.statistics.raw import MAXIMA, SUMS, RawTable

Array = NDArray[np.float64]

QUANTILES = (0.01, 0.5, 0.99)


def finalise(of: Columns, raw: RawTable) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The table and the histograms of whole tensors; what was not to be had is NaN.

    Args:
        of: for learning rates, ε, steps and sizes.
        raw: on the CPU, the rows of whole tensors.

    Returns:
        float32 [n_tensors, n_columns] as COLUMNS; int64 [2, BINS], pooled counts of step size and effective learning rate.
    """
    sums, maxima = (part.numpy().astype(np.float64).T for part in (raw.sums, raw.maxima))
    rates = sample_quantiles(raw.sample.numpy(), of.sampling.begins)
    with np.errstate(all="ignore"):
        columns = _columns(of, dict(zip(SUMS, sums, strict=True)), dict(zip(MAXIMA, maxima, strict=True)))
    columns |= {f"effective_lr_p{percent}": rates[:, i] for i, percent in enumerate(("01", "50", "99"))}
    table = np.stack([columns[name] for name in COLUMNS], axis=1)
    with np.errstate(over="ignore"):
        return table.astype(np.float32), np.rint(raw.counts.numpy()).astype(np.int64)


def dead_rates(of: Columns, raw: RawTable) -> NDArray[np.int64]:
    """Elements with v = 0 by the bin of their effective rate α/ε, int64 [BINS]; on the CPU, of whole tensors."""
    dead = of.total - raw.sums.numpy()[:, SUMS.index("alive")]
    with np.errstate(divide="ignore", invalid="ignore"):
        places = np.searchsorted(LOG10_EDGES, np.log10(of.lr / of.eps), side="right") - 1
    counts = np.bincount(np.clip(places, 0, BINS - 1), np.nan_to_num(dead), BINS)
    return counts.astype(np.int64)


def _columns(of: Columns, sums: dict[str, Array], maxima: dict[str, Array]) -> dict[str, Array]:
    gradient, parameter, step = (np.sqrt(sums[f"{name}_squared"]) for name in ("gradient", "parameter", "step"))
    tops = {name: np.where(np.isnan(sums[_SPOILED_BY[name]]), np.nan, values) for name, values in maxima.items()}
    pull = parameter * of.decay * np.where(of.decoupled, of.lr, 1.0)
    return {
        "gradient_norm": gradient,
        "first_moment_rms": np.sqrt(sums["first_squared"] / of.total) * of.first_scale,
        "first_moment_max": tops["first_max"] * of.first_scale,
        "second_moment_rms": np.sqrt(sums["second"] / of.total * of.second_scale),
        "second_moment_min": np.sqrt(-tops["minus_second_max"] * of.second_scale),
        "second_moment_max": np.sqrt(tops["second_max"] * of.second_scale),
        "step_size_rms": step / np.sqrt(of.total),
        "step_size_max": tops["step_max"],
        "update_ratio": np.where(parameter > 0, step / parameter, np.nan),
        "gradient_surprise": np.sqrt(sums["surprise_squared"] / of.total),
        "signal_to_noise": sums["ratio"] / of.total,
        "eps_dominated": sums["swamped"] / sums["alive"],
        "parameter_norm": parameter,
        "normalised_update_rms": np.sqrt(sums["ratio_squared"] / of.total),
        "normalised_update_max": tops["ratio_max"],
        "zero_gradient_share": sums["zero_gradient"] / of.total,
        "zero_second_moment_share": 1 - sums["alive"] / of.total,
        "lost_update_share": sums["lost"] / of.total,
        "decay_ratio": pull / np.where(of.decoupled, step, gradient),
    }


_SPOILED_BY = {
    "first_max": "first_squared",
    "second_max": "second",
    "minus_second_max": "second",
    "ratio_max": "ratio_squared",
    "step_max": "step_squared",
}
"""The sum that is NaN if one of the maximum's values is."""


def sample_quantiles(sample: NDArray[np.float32], begins: NDArray[np.int64]) -> Array:
    """QUANTILES of each tensor's part of the sample, interpolated as ``numpy.quantile``; NaN where a value is.

    Exact where the sample is the whole tensor. A sample of n at level q lies between the true quantiles at q ± √(q(1-q)/n)
    in two cases of three: with n = 4,096 the p50 between p49 and p51, the p01 between p0.8 and p1.2.
    """
    fast = kernel.quantiles(sample, begins, QUANTILES)
    if fast is not None:
        return fast
    parts = [sample[start:end].astype(np.float64) for start, end in itertools.pairwise(begins)]
    return np.array([_quantiles(part) for part in parts]).reshape(-1, len(QUANTILES))


def _quantiles(values: Array) -> Array:
    """As ``numpy.quantile``, which finds NaN between two infinities."""
    if len(values) == 0:
        return np.full(len(QUANTILES), np.nan)
    with np.errstate(invalid="ignore"):
        between = np.quantile(values, QUANTILES)
    low, high = (np.quantile(values, QUANTILES, method=method) for method in ("lower", "higher"))
    return np.where(low == high, low, between)
