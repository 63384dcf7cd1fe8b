"""BDS-Adam (Shao, Weng et al. 2025, Scientific Reports, doi 10.1038/s41598-025-20788-y), as its authors' code has it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_adam.optimizers._foreach import (
    ForeachOptimizer,
    Tensors,
    check_adam,
    check_range,
    column,
)

LEAST_MEMORY, MOST_MEMORY = 0.1, 0.9
"""Bounds of κ_t in the authors' code."""
LEAST_SPREAD = 1e-8
"""What their code adds to σ."""


def rectification(step: int, beta2: float) -> float | None:
    """r_t of RAdam (Liu et al. 2019, arXiv:1908.03265, algorithm 2); None while v's variance has no bound (ρ_t ≤ 5).

    Example:
        >>> rectification(5, 0.999) is None
        True
        >>> rectification(6, 0.999) < rectification(100, 0.999) < rectification(10_000, 0.999) < 1
        True
    """
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * beta2**step / (1 - beta2**step)
    if length <= 5:
        return None
    return math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))


class BDSAdam(ForeachOptimizer):
    """A gradient smoothed by how large it is, normalised by its own spread, and Adam's v with RAdam's rectification.

    The paper's equations are not public; its second author's code is (github.com/wengshiqian/BDS-Adam, adamt4.py, commit
    4a2042c, class RAdamBorges). Per tensor, from t = 1 and b = v = 0::

        g ← ∇f + λθ                                coupled decay
        κ = clamp(κ₀·(1 - tanh‖g‖₂), 0.1, 0.9)     gradient-aware smoothing: a large gradient is taken as it is
        b ← κ·b + (1-κ)·g
        σ = std(b) + 1e-8                          over the tensor's elements, divided by n-1
        ĝ = b/σ
        v ← β₂v + (1-β₂)ĝ²
        d = clamp(1/σ, low, high)·ĝ                the normalised and the scaled path
        θ ← θ - α·r_t/(1-β₁ᵗ)·d/(√v + ε)           where ρ_t > 5, with r_t of RAdam
        θ ← θ - α·d                                else: the first five steps with β₂ = 0.999

    Two things read as slips, and are followed: no m enters the step (the code keeps one, unused; here there is none), so
    that β₁ is in the correction only, and v is not corrected, so that r_t is all that damps the first steps.

    One thing is not followed: the deviation of a tensor of one element is NaN there, for ever. Here it is taken about 0:
    σ = |b|. A tensor whose gradients are all the same has σ = 1e-8 in both: its first steps are huge.

    Args:
        params: parameters or groups.
        lr: learning rate.
        betas: β₁ and β₂.
        eps: added to √v.
        weight_decay: λ; enters the gradient.
        smoothing: κ₀ in [0, 1].
        min_gradient_scale: lower bound of 1/σ in d.
        max_gradient_scale: upper bound.

    Raises:
        ConfigError: a hyper-parameter out of range.
    """

    buffers = ("smoothed", "exp_avg_sq")
    decoupled = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        smoothing: float = 0.75,
        min_gradient_scale: float = 0.3,
        max_gradient_scale: float = 2.5,
    ) -> None:
        check_adam(lr, betas, eps, weight_decay)
        check_range("smoothing", smoothing, 0.0, 1.0)
        check_range("max_gradient_scale", max_gradient_scale, 0.0, math.inf)
        check_range("min_gradient_scale", min_gradient_scale, 0.0, max_gradient_scale)
        own = {"smoothing": smoothing, "min_gradient_scale": min_gradient_scale, "max_gradient_scale": max_gradient_scale}
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, **own})

    def observe(self, group: dict[str, Any], gradients: Tensors, states: Sequence[Any]) -> None:
        """b and σ: the norm and the deviation are those of whole tensors."""
        for state, g, new in zip(states, gradients, shares(gradients, group["smoothing"]), strict=True):
            state["smoothed"].lerp_(g, new)
            state["spread"] = spread(state["smoothed"])

    def update(self, group: dict[str, Any], weights: Tensors, gradients: Tensors, states: Sequence[Any]) -> None:
        """From ĝ on."""
        spreads, second = column(states, "spread"), column(states, "exp_avg_sq")
        steps = list(torch._foreach_div(column(states, "smoothed"), spreads))
        torch._foreach_mul_(second, group["betas"][1])
        torch._foreach_addcmul_(second, steps, steps, 1 - group["betas"][1])
        torch._foreach_mul_(steps, [gradient_scale(group, s) for s in spreads])
        denominators = list(torch._foreach_sqrt(second))
        torch._foreach_add_(denominators, group["eps"])
        rates = [rate_factor(int(state["step"]), group["betas"]) for state in states]
        for denominator, rate in zip(denominators, rates, strict=True):
            if rate is None:
                denominator.fill_(1.0)
        scales = [-group["lr"] * (1.0 if rate is None else rate) for rate in rates]
        torch._foreach_addcdiv_(weights, steps, denominators, scales)


def shares(gradients: Tensors, smoothing: float) -> Tensors:
    """1 - κ per tensor: how much of this gradient enters b."""
    norms = torch._foreach_norm(gradients)
    return [1 - ((1 - n.tanh()) * smoothing).clamp(LEAST_MEMORY, MOST_MEMORY) for n in norms]


def spread(smoothed: Tensor) -> Tensor:
    """σ of one tensor."""
    deviation = smoothed.std() if smoothed.numel() > 1 else smoothed.abs().reshape(())
    return deviation + LEAST_SPREAD


def gradient_scale(group: Mapping[str, Any], sigma: Tensor) -> Tensor:
    """The share of ĝ that d takes."""
    return sigma.reciprocal().clamp(group["min_gradient_scale"], group["max_gradient_scale"])


def rate_factor(step: int, betas: tuple[float, float]) -> float | None:
    """r_t/(1-β₁ᵗ); None while the step does not divide by √v."""
    rectified = rectification(step, betas[1])
    return None if rectified is None else rectified / (1 - betas[0] ** step)
