"""The quantities of one tensor, and its two histograms, as pure functions of a reading.

With m̂ = m/(1-β₁ᵗ) and v̂ = v/(1-β₂ᵗ) (Kingma & Ba 2014, arXiv:1412.6980, algorithm 1). Sums run in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightning_adam.moments import Moments
from lightning_adam.statistics.reading import TensorReading

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

LOG10_EDGES = np.linspace(-12.0, 2.0, 57)
"""Histogram edges in quarter decades; the first bin also holds everything smaller, zero included."""


@dataclass(frozen=True)
class Measured:
    """One tensor's row and histogram counts, still on its device: one host read later serves all tensors."""

    row: Tensor
    step_size_counts: Tensor
    effective_lr_counts: Tensor


@dataclass(frozen=True)
class _Corrected:
    """m̂, √v̂ and √v̂+ε of one tensor (the denominator is AMSGrad's maximum where that is used); None where there is none."""

    first: Tensor | None
    root: Tensor | None
    denominator: Tensor | None


@torch.no_grad()
def measure(reading: TensorReading) -> Measured:
    """All quantities of one tensor; those that need moments are NaN where the optimizer has none."""
    corrected = _correct(reading)
    effective = reading.lr / corrected.denominator if corrected and corrected.denominator is not None else None
    step = step_size(reading, corrected)
    values = _moment_quantities(reading, corrected, effective) | _step_quantities(reading, step)
    nan = torch.full((), torch.nan, device=reading.parameter.device)
    row = torch.stack([values.get(name, nan).float() for name in COLUMNS])
    return Measured(row, log10_counts(step), log10_counts(effective))


def step_size(reading: TensorReading, corrected: _Corrected | None = None) -> Tensor | None:
    """|Δθ| per element without decoupled decay: measured where a copy exists, else α·|m̂|/(√v̂+ε)."""
    if reading.measured_step is not None:
        return reading.measured_step.float().abs()
    corrected = corrected or _correct(reading)
    if corrected is None or corrected.first is None or corrected.denominator is None:
        return None
    return (corrected.first / corrected.denominator).abs_().mul_(reading.lr)


def update_ratio(reading: TensorReading, step: Tensor | None) -> Tensor:
    """‖Δθ‖/‖θ‖; NaN where θ is all zero or the step is unknown."""
    size = torch.linalg.vector_norm(reading.parameter.float())
    if step is None:
        return torch.full_like(size, torch.nan)
    return torch.where(size > 0, torch.linalg.vector_norm(step) / size, torch.nan)


def log10_counts(values: Tensor | None) -> Tensor:
    """Counts of log10(values) between LOG10_EDGES; NaN is left out, what lies outside goes to the outer bins."""
    bins, low, high = len(LOG10_EDGES) - 1, float(LOG10_EDGES[0]), float(LOG10_EDGES[-1])
    if values is None:
        return torch.zeros(bins)
    return torch.histc(values.log10().clamp_(low, high), bins=bins, min=low, max=high)


def _correct(reading: TensorReading) -> _Corrected | None:
    moments = reading.moments
    if moments is None or moments.step < 1:
        return None
    first = _scaled(moments.first, moments.beta1, moments.step)
    root = _root(moments.second, moments)
    if moments.denominator is moments.second:
        return _Corrected(first, root, None if root is None else root + reading.eps)
    denominator = _root(moments.denominator, moments)
    return _Corrected(first, root, None if denominator is None else denominator + reading.eps)


def _scaled(moment: Tensor | None, beta: float, step: int) -> Tensor | None:
    if moment is None:
        return None
    return (torch.view_as_real(moment) if moment.is_complex() else moment).float() / (1.0 - beta**step)


def _root(moment: Tensor | None, moments: Moments) -> Tensor | None:
    scaled = _scaled(moment, moments.beta2, moments.step)
    return None if scaled is None else scaled.sqrt_()


def _moment_quantities(reading: TensorReading, corrected: _Corrected | None, effective: Tensor | None) -> dict[str, Tensor]:
    if corrected is None:
        return {}
    values: dict[str, Tensor] = {}
    if corrected.first is not None:
        values |= {"first_moment_rms": _rms(corrected.first), "first_moment_max": corrected.first.abs().amax()}
    if corrected.root is not None and corrected.denominator is not None and effective is not None:
        values |= _second_moment_quantities(reading, corrected.root, corrected.denominator, effective)
    if corrected.first is not None and corrected.denominator is not None:
        normalised = (corrected.first / corrected.denominator).abs_()
        values |= {
            "signal_to_noise": normalised.mean(),
            "normalised_update_rms": _rms(normalised),
            "normalised_update_max": normalised.amax(),
        }
    return values


def _second_moment_quantities(
    reading: TensorReading, root: Tensor, denominator: Tensor, effective: Tensor
) -> dict[str, Tensor]:
    low, middle, high = quantiles(effective, (0.01, 0.5, 0.99))
    alive = root > 0
    return {
        "second_moment_rms": _rms(root),
        "second_moment_min": root.amin(),
        "second_moment_max": root.amax(),
        "effective_lr_p01": low,
        "effective_lr_p50": middle,
        "effective_lr_p99": high,
        "gradient_surprise": _surprise(reading, root),
        "eps_dominated": (reading.eps / denominator * alive).sum() / alive.sum(),
        "zero_second_moment_share": 1 - alive.float().mean(),
    }


def _surprise(reading: TensorReading, root: Tensor) -> Tensor:
    """RMS_t = sqrt(mean(g²/max(v̂,ε²))) with v̂ after the step (Wortsman et al. 2023, arXiv:2304.13013)."""
    if reading.gradient is None:
        return torch.full((), torch.nan, device=root.device)
    floor = max(reading.eps, float(np.finfo(np.float32).tiny))
    return _rms(reading.gradient.float() / root.clamp(min=floor))


def _step_quantities(reading: TensorReading, step: Tensor | None) -> dict[str, Tensor]:
    size = torch.linalg.vector_norm(reading.parameter.float())
    values = {"update_ratio": update_ratio(reading, step), "parameter_norm": size}
    if step is not None:
        values |= {"step_size_rms": _rms(step), "step_size_max": step.amax()}
    if reading.gradient is not None:
        gradient = reading.gradient.float()
        values["gradient_norm"] = torch.linalg.vector_norm(gradient)
        values["zero_gradient_share"] = (gradient == 0).float().mean()
    if reading.lost is not None:
        values["lost_update_share"] = reading.lost
    return values | _decay_ratio(reading, size, step)


def _decay_ratio(reading: TensorReading, size: Tensor, step: Tensor | None) -> dict[str, Tensor]:
    """α·λ·‖θ‖/‖Δθ‖ where the decay is decoupled, λ·‖θ‖/‖g‖ where it enters the gradient."""
    against = step if reading.decoupled else reading.gradient
    if against is None:
        return {}
    pull = size * reading.decay * (reading.lr if reading.decoupled else 1.0)
    return {"decay_ratio": pull / torch.linalg.vector_norm(against.float())}


def _rms(values: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(values)
    return norm / math.sqrt(values.numel())


def quantiles(values: Tensor, at: tuple[float, ...]) -> list[Tensor]:
    """Quantiles with linear interpolation between neighbours, as ``numpy.quantile``; any number of elements.

    ``torch.quantile`` refuses more than 2²⁴ elements and sorts; on the CPU NumPy's selection is several times faster.
    """
    flat = values.reshape(-1)
    spots = [q * (flat.numel() - 1) for q in at]
    ranks = sorted({int(s) for s in spots} | {min(int(s) + 1, flat.numel() - 1) for s in spots})
    on_host = flat.device.type == "cpu"
    ordered = torch.from_numpy(np.partition(flat.numpy(), ranks)) if on_host else flat.sort().values
    return [torch.lerp(ordered[int(s)], ordered[min(int(s) + 1, flat.numel() - 1)], s - int(s)) for s in spots]
