"""What the report draws: loss, learning rate, gradient norm and update ratios on one step axis."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_adam.doctor.roles import find, prefixes
from lightning_adam.tensorboard.reader import RunLog, Series


@dataclass(frozen=True)
class Curve:
    """One quantity over the run.

    Attributes:
        title: what it is.
        tag: where it was read.
        steps: int64 [n].
        values: float64 [n]; NaN and infinities as they were logged.
        low: lower edge of a band, or None.
        high: upper edge of a band, or None.
        healthy: what it should be about, or None where there is no such value.
    """

    title: str
    tag: str
    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None
    healthy: float | None = None


HEALTHY_RATIO = 1e-3
"""Update ratio of a healthy run (Karpathy's rule; research/divergence.md §5: it holds within a factor of two)."""


def curves(run: RunLog) -> list[Curve]:
    """The curves of a run that are there: the loss once, the others per optimizer."""
    found = [_scalar(run, "loss", "", "loss")]
    own = prefixes(run) or [""]
    for prefix in own:
        suffix = f" of {prefix}" if len(own) > 1 else ""
        found += [
            _scalar(run, "lr", prefix, f"learning rate{suffix}"),
            _scalar(run, "gradient norm", prefix, f"gradient norm{suffix}"),
            update_ratio_band(run, prefix, f"update ratio ‖Δθ‖/‖θ‖{suffix}"),
        ]
    return [curve for curve in found if curve is not None and len(curve.steps)]


def _scalar(run: RunLog, role: str, prefix: str, title: str) -> Curve | None:
    found = find(run, role, prefix)
    return Curve(title, found[0], found[1].steps, found[1].values) if found else None


def update_ratio_band(run: RunLog, prefix: str, title: str) -> Curve | None:
    """10th percentile, median and 90th percentile over the tensors."""
    table = run.tables.get(f"{prefix}_matrix/update_ratio")
    if table is not None and table.values.size:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            finite = np.where(np.isfinite(table.values), table.values, np.nan)
            low, middle, high = np.nanquantile(finite, (0.1, 0.5, 0.9), axis=1)
        return Curve(title, f"{prefix}_matrix/update_ratio", table.steps, middle, low, high, HEALTHY_RATIO)
    return _logged_band(run, prefix, title)


def _logged_band(run: RunLog, prefix: str, title: str) -> Curve | None:
    tags = [f"{prefix}/log10_update_ratio_{part}" for part in ("p10", "p50", "p90")]
    series = [run.scalars.get(tag) for tag in tags]
    low, middle, high = series
    if middle is None:
        return None
    edges = [_at(edge, middle.steps) if edge is not None else None for edge in (low, high)]
    return Curve(title, tags[1], middle.steps, np.power(10.0, middle.values), edges[0], edges[1], HEALTHY_RATIO)


def _at(series: Series, steps: NDArray[np.int64]) -> NDArray[np.float64]:
    known = dict(zip(series.steps.tolist(), np.power(10.0, series.values).tolist(), strict=True))
    return np.array([known.get(step, np.nan) for step in steps.tolist()])
