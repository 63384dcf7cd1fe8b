"""BDS-Adam, a reading of it (Shao et al. 2025, Scientific Reports, doi 10.1038/s41598-025-20788-y). Experimental."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from lightning_adam.optimizers._foreach import (
    ForeachOptimizer,
    Tensors,
    adam_step,
    check_adam,
    check_range,
    column,
)


def rectification(step: int, beta2: float) -> float:
    """r_t of RAdam (Liu et al. 2019, arXiv:1908.03265, algorithm 2); while its variance has no bound (ρ ≤ 4), the first r.

    Example:
        >>> rectification(1, 0.999) < rectification(100, 0.999) < rectification(10_000, 0.999) < 1
        True
    """
    longest = 2 / (1 - beta2) - 1
    if longest <= 4:
        return 1.0
    length = next(rho for t in itertools.count(step) if (rho := _length(t, beta2, longest)) > 4)
    return math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))


def _length(step: int, beta2: float, longest: float) -> float:
    """ρ_t, the length of the simple average that v amounts to."""
    return longest - 2 * step * beta2**step / (1 - beta2**step)


class BDSAdam(ForeachOptimizer):
    """Two gradient paths, fused before Adam's moments, and a second moment rectified against the cold start.

    The equations could not be had (searched 2026-11: only the abstract is public). The abstract fixes the four parts;
    each formula is our choice::

        s   ← κs + (1-κ)g²                 running gradient variance, elementwise, ŝ = s/(1-κᵗ)
        g₁  = √ŝ·tanh(g/√ŝ)               path 1: tanh reshapes what is large against its own scale
        c   = ŝ/(ŝ + g²)                   path 2: the more g stands out of its variance, the more it is smoothed
        u   ← u + c'(g - u), c' = 1-(1-c)·smoothing
        g₂  = u
        g̃   = g + fusion·((g₁ + g₂)/2 - g)
        m, v, m̂, v̂ of g̃ as in Adam; θ ← θ - α·r_t·m̂/(√v̂+ε), r_t of RAdam where ``rectify``

    With ``fusion=0`` and ``rectify=False`` it is exactly Adam.

    Args:
        params: parameters or groups.
        lr: learning rate.
        betas: decay rates of the moments.
        eps: added to √v̂.
        weight_decay: decoupled.
        variance_decay: κ in [0, 1).
        smoothing: strength of the second path in [0, 1]; 0 leaves the gradient as it is.
        fusion: share of the two paths in the gradient, in [0, 1].
        rectify: damp the first steps.

    Raises:
        ConfigError: a hyper-parameter out of range.
    """

    buffers = ("exp_avg", "exp_avg_sq", "gradient_variance", "smoothed")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        variance_decay: float = 0.99,
        smoothing: float = 0.5,
        fusion: float = 1.0,
        rectify: bool = True,
    ) -> None:
        check_adam(lr, betas, eps, weight_decay)
        check_range("variance_decay", variance_decay, 0.0, 1.0 - 1e-12)
        check_range("smoothing", smoothing, 0.0, 1.0)
        check_range("fusion", fusion, 0.0, 1.0)
        paths = {"variance_decay": variance_decay, "smoothing": smoothing, "fusion": fusion, "rectify": rectify}
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, **paths})

    def update(self, group: dict[str, Any], weights: Tensors, gradients: Tensors, states: Sequence[Any]) -> None:
        """Fuse, then Adam."""
        fused = fuse(group, gradients, states) if group["fusion"] else gradients
        damping = [rectification(int(s["step"]), group["betas"][1]) if group["rectify"] else 1.0 for s in states]
        adam_step(group, weights, fused, states, [group["lr"] * r for r in damping])


def fuse(group: dict[str, Any], gradients: Tensors, states: Sequence[Any]) -> Tensors:
    """g̃ from both paths; moves the running variances and the smoothed gradients on."""
    kappa, strength = group["variance_decay"], group["smoothing"]
    variances, smoothed = column(states, "gradient_variance"), column(states, "smoothed")
    squares = torch._foreach_mul(gradients, gradients)
    torch._foreach_lerp_(variances, squares, 1 - kappa)
    scaled = torch._foreach_div(variances, [1 - kappa ** float(s["step"]) for s in states])
    torch._foreach_clamp_min_(scaled, torch.finfo(gradients[0].dtype).tiny)
    torch._foreach_add_(squares, scaled)
    pulls = torch._foreach_div(scaled, squares)
    torch._foreach_mul_(pulls, strength)
    torch._foreach_add_(pulls, 1 - strength)
    torch._foreach_lerp_(smoothed, gradients, pulls)
    torch._foreach_sqrt_(scaled)
    fused = torch._foreach_div(gradients, scaled)
    torch._foreach_mul_(fused, 2.0)
    torch._foreach_sigmoid_(fused)  # tanh(x) = 2σ(2x) - 1, in a third of tanh's time
    torch._foreach_mul_(fused, 2.0)
    torch._foreach_sub_(fused, 1.0)
    torch._foreach_mul_(fused, scaled)
    torch._foreach_add_(fused, smoothed)
    torch._foreach_mul_(fused, 0.5)
    return list(fused if group["fusion"] == 1 else torch._foreach_lerp(gradients, fused, group["fusion"]))
