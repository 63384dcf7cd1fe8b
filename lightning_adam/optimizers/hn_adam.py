"""HN-Adam: Adam whose norm adapts to the gradient (Reyad, Sarhan & Arafa 2023, doi 10.1007/s00521-023-08568-z)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from lightning_adam.optimizers._foreach import ForeachOptimizer, Tensors, check_adam, check_range, column
from lightning_adam.optimizers._ranks import from_first_rank

LEAST_NORM, MOST_NORM = 2.0, 4.0
"""What the paper draws Λ₀ from."""


class HNAdam(ForeachOptimizer):
    """Hybrid of Adam and AMSGrad with an adaptive norm Λ instead of 2.

    Algorithm 2 of the paper, per element, from m = v = v̂ = 0 and one Λ₀ from [2, 4] (its numbers of the steps; two
    transcriptions quote them: github.com/jlariola/HN_Adam and HN_Adam_Benchmarking)::

        7, 8   Λ = Λ₀ - |m|/max(|m|, |g|)     (equation 20) with m before this step
        6      m ← β₁m + (1-β₁)g
        9      v ← β₂v + (1-β₂)|g|^Λ
        10-13  where Λ < 2:  v̂ ← max(v̂, v),  θ ← θ - α·m/(v̂^(1/Λ) + ε)     AMSGrad
        14-16  elsewhere:                     θ ← θ - α·m/(v^(1/Λ) + ε)

    There is no bias correction. Equation 20 has m; |m| stands here, as in one of the transcriptions: the paper wants Λ
    in [1, 4], and a negative m would lift it out. Λ = Λ₀ where m and g are both 0.

    Args:
        params: parameters or groups.
        lr: learning rate.
        betas: decay rates of the moments.
        eps: added to v^(1/Λ).
        weight_decay: decoupled; the paper has none.
        norm: Λ₀; None draws it in the first step from torch's generator, the same on all ranks.

    Raises:
        ConfigError: a hyper-parameter out of range.
    """

    buffers = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        norm: float | None = None,
    ) -> None:
        check_adam(lr, betas, eps, weight_decay)
        if norm is not None:
            check_range("norm", norm, LEAST_NORM, MOST_NORM)
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "norm": norm})

    def observe(self, group: dict[str, Any], gradients: Tensors, states: Sequence[Any]) -> None:
        """Λ₀ where it is open: the paper has one for all."""
        if group["norm"] is None and "drawn_norm" not in group:  # no option: a resumed run goes on with it
            known = [g["drawn_norm"] for g in self.param_groups if "drawn_norm" in g]
            group["drawn_norm"] = known[0] if known else from_first_rank(draw_norm(), gradients[0].device)

    def update(self, group: dict[str, Any], weights: Tensors, gradients: Tensors, states: Sequence[Any]) -> None:
        """Steps 6 to 16."""
        beta1, beta2 = group["betas"]
        first, second, largest = (column(states, name) for name in self.buffers)
        sizes = list(torch._foreach_abs(gradients))
        start = group["drawn_norm"] if group["norm"] is None else group["norm"]
        norms = adaptive_norms(first, sizes, start)
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_lerp_(second, power_(sizes, norms), 1 - beta2)
        denominators = power_(keep_largest(largest, second, norms), list(torch._foreach_reciprocal(norms)))
        torch._foreach_add_(denominators, group["eps"])
        torch._foreach_addcdiv_(weights, first, denominators, -group["lr"])


def draw_norm() -> float:
    """Λ₀, evenly from [2, 4]."""
    return LEAST_NORM + (MOST_NORM - LEAST_NORM) * float(torch.rand(()))


def adaptive_norms(first: Tensors, sizes: Tensors, start: float) -> Tensors:
    """Λ per element (equation 20)."""
    previous = torch._foreach_abs(first)
    bounds = torch._foreach_maximum(previous, sizes)
    torch._foreach_add_(bounds, torch.finfo(bounds[0].dtype).tiny)
    torch._foreach_div_(previous, bounds)
    torch._foreach_neg_(previous)
    torch._foreach_add_(previous, start)
    return list(previous)


def keep_largest(largest: Tensors, second: Tensors, norms: Tensors) -> Tensors:
    """Moves v̂ on where Λ < 2; what the step divides by: v̂ there, v elsewhere."""
    below = [n < 2 for n in norms]
    for kept, v, b in zip(largest, second, below, strict=True):
        torch.where(b, torch.maximum(kept, v), kept, out=kept)
    return [torch.where(b, kept, v) for kept, v, b in zip(largest, second, below, strict=True)]


def power_(bases: Tensors, exponents: Tensors) -> Tensors:
    """bases^exponents in place, bases ≥ 0: 2^(y·log x/log 2) takes half the time of pow."""
    torch._foreach_log_(bases)
    torch._foreach_mul_(bases, exponents)
    torch._foreach_mul_(bases, 1 / math.log(2))
    for base in bases:
        base.exp2_()
    return bases
