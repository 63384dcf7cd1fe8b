"""HN-Adam: Adam whose norm adapts to the gradient (Reyad, Sarhan & Arafa 2023, doi 10.1007/s00521-023-08568-z)."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from lightning_adam.optimizers._foreach import ForeachOptimizer, Tensors, check_adam, check_range, column


class HNAdam(ForeachOptimizer):
    """Hybrid of Adam and AMSGrad with an adaptive norm Λ instead of 2.

    Per element, with m and v before the step on the right-hand sides::

        Λ = Λ₀ - adapt·|m|/max(|m|, |g|)
        m ← β₁m + (1-β₁)g
        v ← β₂v + (1-β₂)|g|^Λ
        w ← max(w, v) where Λ ≤ 2 (AMSGrad), v elsewhere
        θ ← θ - α·m/(w^(1/Λ) + ε)

    The full text could not be had; three choices are ours. |m| stands where the equations have m, so that Λ stays in
    [Λ₀-1, Λ₀] whatever the sign. There is no bias correction, as the step is written without. The maximum is kept for
    every element and used where Λ ≤ 2 holds at this step.

    With ``adapt=0`` and ``norm=2`` it is exactly AMSGrad without bias correction.

    Args:
        params: parameters or groups.
        lr: learning rate.
        betas: decay rates of the moments.
        eps: added to w^(1/Λ).
        weight_decay: decoupled.
        norm: Λ₀ in [2, 4]; None draws it once from Python's generator, as the paper does.
        adapt: how far Λ may fall below Λ₀; the paper's 1.

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
        adapt: float = 1.0,
    ) -> None:
        check_adam(lr, betas, eps, weight_decay)
        start = random.uniform(2.0, 4.0) if norm is None else norm
        check_range("norm", start, 2.0, 4.0)
        check_range("adapt", adapt, 0.0, 1.0)
        shared = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**shared, "norm": start, "adapt": adapt})

    def update(self, group: dict[str, Any], weights: Tensors, gradients: Tensors, states: Sequence[Any]) -> None:
        """The equations above, in their order."""
        beta1, beta2 = group["betas"]
        first, second = column(states, "exp_avg"), column(states, "exp_avg_sq")
        sizes = list(torch._foreach_abs(gradients))
        norms = adaptive_norms(first, sizes, group["norm"], group["adapt"])
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_lerp_(second, power_(sizes, norms), 1 - beta2)
        largest = column(states, "max_exp_avg_sq")
        torch._foreach_maximum_(largest, second)
        chosen = torch._foreach_mul(largest, [(n <= 2).to(n.dtype) for n in norms])
        torch._foreach_maximum_(chosen, second)  # the largest is never below v: this takes v where Λ > 2
        torch._foreach_reciprocal_(norms)
        denominators = power_(list(chosen), norms)
        torch._foreach_add_(denominators, group["eps"])
        torch._foreach_addcdiv_(weights, first, denominators, -group["lr"])


def power_(bases: Tensors, exponents: Tensors) -> Tensors:
    """bases^exponents in place, bases ≥ 0: 2^(y·log x/log 2) takes half the time of pow."""
    torch._foreach_log_(bases)
    torch._foreach_mul_(bases, exponents)
    torch._foreach_mul_(bases, 1 / math.log(2))
    for base in bases:
        base.exp2_()
    return bases


def adaptive_norms(first: Tensors, sizes: Tensors, start: float, adapt: float) -> Tensors:
    """Λ per element; Λ₀ where both m and g are 0."""
    previous = torch._foreach_abs(first)
    bounds = torch._foreach_maximum(previous, sizes)
    torch._foreach_add_(bounds, torch.finfo(bounds[0].dtype).tiny)
    torch._foreach_div_(previous, bounds)
    torch._foreach_mul_(previous, -adapt)
    torch._foreach_add_(previous, start)
    return list(previous)
