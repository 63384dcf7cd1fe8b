"""BDS-Adam, a reading of it (Shao et al. 2025, Scientific Reports, doi 10.1038/s41598-025-20788-y). Experimental."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from lightning_adam.optimizers._foreach import ForeachOptimizer, Tensors, check_adam, check_range


def rectification(step: int, beta2: float) -> float:
    """r_t of RAdam (Liu et al. 2019, arXiv:1908.03265, algorithm 2); 1/√5 while its variance has no bound (ρ ≤ 4).

    Example:
        >>> rectification(1, 0.999) < rectification(100, 0.999) < rectification(10_000, 0.999)
        True
    """
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * beta2**step / (1 - beta2**step)
    if length <= 4:
        return 1 / math.sqrt(5)
    return math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))


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
        for weight, gradient, state in zip(weights, gradients, states, strict=True):
            fused = fuse(group, gradient, state) if group["fusion"] else gradient
            _adam(group, weight, fused, state)


def fuse(group: dict[str, Any], gradient: torch.Tensor, state: dict[str, Any]) -> torch.Tensor:
    """g̃ from both paths; moves the running variance and the smoothed gradient on."""
    kappa, step = group["variance_decay"], float(state["step"])
    variance = state["gradient_variance"].mul_(kappa).addcmul_(gradient, gradient, value=1 - kappa)
    scale_sq = (variance / (1 - kappa**step)).clamp_(min=torch.finfo(gradient.dtype).tiny)
    scale = scale_sq.sqrt()
    reshaped = (gradient / scale).tanh_().mul_(scale)
    trust = scale_sq / torch.addcmul(scale_sq, gradient, gradient)
    pull = trust.sub_(1).mul_(group["smoothing"]).add_(1)
    smoothed = state["smoothed"].add_(pull.mul_(gradient - state["smoothed"]))
    return torch.lerp(gradient, reshaped.add_(smoothed).mul_(0.5), group["fusion"])


def _adam(group: dict[str, Any], weight: torch.Tensor, gradient: torch.Tensor, state: dict[str, Any]) -> None:
    beta1, beta2 = group["betas"]
    step = int(state["step"])
    first = state["exp_avg"].lerp_(gradient, 1 - beta1)
    second = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    rate = group["lr"] / (1 - beta1**step) * (rectification(step, beta2) if group["rectify"] else 1.0)
    weight.addcdiv_(first, second.sqrt().div_(math.sqrt(1 - beta2**step)).add_(group["eps"]), value=-rate)
