"""The quantities of one tensor: their names, and the bins of the histograms.

With m̂ = m/(1-β₁ᵗ) and v̂ = v/(1-β₂ᵗ) (Kingma & Ba 2014, arXiv:1412.6980, algorithm 1).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lightning_adam.statistics.transfer import sent

QUANTITIES: tuple[str, ...] = (
    "gradient_norm",
    "first_moment_rms",
    "first_moment_max",
    "second_moment_rms",
    "second_moment_min",
    "second_moment_max",
    "effective_lr_p01",
    "effective_lr_p50",
    "effective_lr_p99",
    "step_size_rms",
    "step_size_max",
    "update_ratio",
    "gradient_surprise",
    "signal_to_noise",
    "eps_dominated",
)

DIAGNOSTICS: tuple[str, ...] = (
    "parameter_norm",
    "normalised_update_rms",
    "normalised_update_max",
    "zero_gradient_share",
    "zero_second_moment_share",
    "lost_update_share",
    "decay_ratio",
)
"""What the rules read beside QUANTITIES: ‖θ‖; rms and maximum of |m̂|/(√v̂+ε), which has the noise floor
√((1-β₁)/(1+β₁)) and a bound; shares of elements with g = 0, with v = 0, and of 16-bit weights that did not move; and the
decay's step over the optimizer's."""

COLUMNS = QUANTITIES + DIAGNOSTICS
"""The columns of a snapshot's table."""

LOG10_EDGES = np.linspace(-12.0, 8.0, 81)
"""Histogram edges in quarter decades; the first bin also holds everything smaller, zero included.

Up to 1e8, because elements with v = 0 have the effective rate α/ε: 1e5 with Adam's defaults α = 1e-3, ε = 1e-8."""

BINS = len(LOG10_EDGES) - 1


def log10_counts(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Counts of log10(values) between LOG10_EDGES; NaN is left out, what lies outside goes to the outer bins.

    Args:
        values: flat, not negative.
        weights: how many elements each stands for; 1 by default.
    """
    inner = sent((10.0 ** LOG10_EDGES[1:-1]).astype(np.float32), values.device)
    counted = torch.ones_like(values) if weights is None else weights
    bins = torch.bucketize(values.float(), inner, right=True)
    return torch.zeros(BINS, dtype=counted.dtype, device=values.device).scatter_add_(
        0, bins, torch.where(values.isnan(), 0.0, counted)
    )
