"""The quantities of one tensor, each written once: its name, and its formula over sums and maxima of the elements.

A row is all that a quantity takes: what its formula asks for is what the passes over the elements add up.
With m̂ = m/(1-β₁ᵗ) and v̂ = v/(1-β₂ᵗ) (Kingma & Ba 2014, arXiv:1412.6980, algorithm 1).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_adam.statistics.columns import Columns
from lightning_adam.statistics.elements import ADDED, COMPARED, Reduction
from lightning_adam.statistics.transfer import sent

Array = NDArray[np.float64]
Numbers = Mapping[str, Array]
"""Of all tensors, [n_tensors] each: by a reduction's text, by SHARED, and ``effective_lr(0.5)`` by one of LEVELS. The
expressions are those of :mod:`lightning_adam.statistics.elements`."""
Formula = Callable[[Columns, Numbers], Array]

LEVELS = (0.01, 0.5, 0.99)


def _largest(raw: Numbers, of: str, kind: str = "squares") -> Array:
    """The largest x; NaN if one is, which the sum of this kind tells: MAX over ranks may lose it."""
    return np.where(np.isnan(raw[f"{kind}({of.removeprefix('-')})"]), np.nan, raw[f"largest({of})"])


def _step_max(of: Columns, raw: Numbers) -> Array:
    measured = _largest(raw, "step")
    return np.where(of.measured, measured, _largest(raw, "ratio") * of.lr)


def _step_norm(of: Columns, raw: Numbers) -> Array:
    return np.where(of.measured, np.sqrt(raw["squares(step)"]), np.sqrt(raw["squares(ratio)"]) * of.lr)


def _decay_ratio(of: Columns, raw: Numbers) -> Array:
    """The decay's step over the optimizer's, or its part of the gradient over the rest."""
    pull = raw["norm of p"] * of.decay
    return np.where(of.decoupled, pull * of.lr / raw["norm of step"], pull / raw["norm of g"])


SHARED: dict[str, Formula] = {
    "norm of p": lambda of, raw: np.sqrt(raw["squares(p)"]),
    "norm of g": lambda of, raw: np.sqrt(raw["squares(g)"]),
    "norm of step": _step_norm,
}
"""What several formulas take. A step is measured, or Adam's α·m̂/(√v̂+ε)."""

_WRITTEN: dict[str, Formula] = {
    "gradient_norm": lambda of, raw: raw["norm of g"],
    "first_moment_rms": lambda of, raw: np.sqrt(raw["squares(first)"] / of.total) * of.first_scale,
    "first_moment_max": lambda of, raw: _largest(raw, "first") * of.first_scale,
    "second_moment_rms": lambda of, raw: np.sqrt(raw["total(v)"] / of.total * of.second_scale),
    "second_moment_min": lambda of, raw: np.sqrt(-_largest(raw, "-v", "total") * of.second_scale),
    "second_moment_max": lambda of, raw: np.sqrt(_largest(raw, "v", "total") * of.second_scale),
    "effective_lr_p01": lambda of, raw: raw["effective_lr(0.01)"],
    "effective_lr_p50": lambda of, raw: raw["effective_lr(0.5)"],
    "effective_lr_p99": lambda of, raw: raw["effective_lr(0.99)"],
    "step_size_rms": lambda of, raw: raw["norm of step"] / np.sqrt(of.total),
    "step_size_max": _step_max,
    "update_ratio": lambda of, raw: np.where(raw["norm of p"] > 0, raw["norm of step"] / raw["norm of p"], np.nan),
    "gradient_surprise": lambda of, raw: np.sqrt(raw["squares(surprise)"] / of.total),
    "signal_to_noise": lambda of, raw: raw["total(ratio)"] / of.total,
    "eps_dominated": lambda of, raw: of.eps * raw["total(where(v != 0, inverse, 0))"] / raw["count(v != 0)"],
}
"""What the log shows per tensor; the words beside it are in ``lightning_adam/tensorboard/tags.py``."""

_FOR_RULES: dict[str, Formula] = {
    "parameter_norm": lambda of, raw: raw["norm of p"],
    "normalised_update_rms": lambda of, raw: np.sqrt(raw["squares(ratio)"] / of.total),
    "normalised_update_max": lambda of, raw: _largest(raw, "ratio"),
    "zero_gradient_share": lambda of, raw: raw["count(g == 0)"] / of.total,
    "zero_second_moment_share": lambda of, raw: 1 - raw["count(v != 0)"] / of.total,
    "lost_update_share": lambda of, raw: np.where(of.narrow, raw["count((p == before) & (wanted != 0))"] / of.total, np.nan),
    "decay_ratio": _decay_ratio,
}
"""What the rules read beside these: ‖θ‖; rms and maximum of |m̂|/(√v̂+ε), which has the noise floor √((1-β₁)/(1+β₁)) and a
bound; shares of elements with g = 0, with v = 0, and of 16-bit weights that did not move."""

FORMULAS = {**_WRITTEN, **_FOR_RULES}
QUANTITIES, DIAGNOSTICS, COLUMNS = tuple(_WRITTEN), tuple(_FOR_RULES), tuple(FORMULAS)
"""Names; COLUMNS are those of a snapshot's table."""
READ_BY_RULES = (
    "gradient_norm",
    "second_moment_rms",
    "step_size_rms",
    "gradient_surprise",
    "eps_dominated",
    "parameter_norm",
    "normalised_update_rms",
    "zero_gradient_share",
    "lost_update_share",
    "decay_ratio",
)
"""What a diagnosis asks of a pass: none of it takes a sample of the elements."""


def table(of: Columns, raw: dict[str, Array], names: Sequence[str] = COLUMNS) -> Array:
    """Some of COLUMNS, of all tensors, [n_tensors, n_names]; ``raw`` gets what formulas share."""
    for name, formula in SHARED.items():
        raw[name] = formula(of, raw)
    return np.stack([FORMULAS[name](of, raw) for name in names], axis=1)


def _asked_for() -> list[Reduction]:
    """What the formulas ask for when they are asked about no tensors."""
    asked = defaultdict[str, Array](lambda: np.zeros(0))
    table(Columns.of([]), asked)
    return [Reduction.parsed(text) for text in asked]


_REDUCTIONS = _asked_for()
SUMS = tuple(reduction for reduction in _REDUCTIONS if reduction.kind in ADDED)
MAXIMA = tuple(reduction for reduction in _REDUCTIONS if reduction.kind in COMPARED)
RAW_COLUMNS = tuple(map(str, SUMS + MAXIMA))
"""What a pass over the elements adds up and compares: the columns of the raw table."""

LOG10_EDGES = np.linspace(-12.0, 8.0, 81)
"""Histogram edges in quarter decades; the first bin also holds everything smaller, zero included.

Up to 1e8, because elements with v = 0 have the effective rate α/ε: 1e5 with Adam's defaults α = 1e-3, ε = 1e-8."""

BINS = len(LOG10_EDGES) - 1


def log10_counts(values: Tensor, rows: Tensor, n_rows: int) -> Tensor:
    """Counts of log10(values) between LOG10_EDGES, int32 [n_rows, BINS]; NaN is left out, what lies outside is in the outer
    bins.

    Args:
        values: flat, not negative.
        rows: the row that each is counted in.
        n_rows: how many there are.
    """
    inner = sent((10.0 ** LOG10_EDGES[1:-1]).astype(np.float32), values.device)
    places = rows * BINS + torch.bucketize(values.float(), inner, right=True)
    counts = torch.zeros(n_rows * BINS, dtype=torch.int32, device=values.device)
    return counts.scatter_add_(0, places, values.isnan().logical_not().int()).view(n_rows, BINS)
