"""LAMB: Adam with a trust ratio per tensor, for large batches (You et al. 2019, arXiv:1904.00962)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_adam.optimizers._foreach import ForeachOptimizer, Tensors, adam_direction, check_adam


class LAMB(ForeachOptimizer):
    """Every tensor moves by the learning rate times its own norm, whatever the size of its gradients.

    Algorithm 2 of the paper with φ(z) = z, per tensor::

        m ← β₁m + (1-β₁)g,   v ← β₂v + (1-β₂)g²
        r = m̂/(√v̂ + ε)                              with Adam's bias corrections
        θ ← θ - α·‖θ‖/‖r + λθ‖·(r + λθ)

    The ratio is 1 where one of the norms is 0, as in the authors' code, so that zeros can move. The paper's authors clip
    the total gradient norm at 1 beforehand; here that is the helper's default.

    Args:
        params: parameters or groups.
        lr: learning rate.
        betas: decay rates of the moments.
        eps: added to √v̂.
        weight_decay: λ; inside the trust ratio.

    Raises:
        ConfigError: a hyper-parameter out of range.
    """

    in_pieces = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        check_adam(lr, betas, eps, weight_decay)
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def decay(self, group: dict[str, Any], weights: Tensors, gradients: Tensors) -> Tensors:
        """None here: the trust ratio is that of the decayed direction."""
        return gradients

    def update(self, group: dict[str, Any], weights: Tensors, gradients: Tensors, states: Sequence[Any]) -> None:
        """θ ← θ - α·‖θ‖/‖r + λθ‖·(r + λθ)."""
        directions = adam_direction(group, gradients, states)
        torch._foreach_add_(directions, weights, alpha=group["weight_decay"])
        ratios = trust_ratios(weights, directions)
        for state, ratio in zip(states, ratios, strict=True):
            state["trust_ratio"] = ratio
        torch._foreach_mul_(directions, ratios)
        torch._foreach_add_(weights, directions, alpha=-group["lr"])


def trust_ratios(weights: Tensors, directions: Tensors) -> Tensors:
    """‖θ‖/‖r + λθ‖ per tensor; 1 where one of them is 0."""
    pairs = zip(torch._foreach_norm(weights), torch._foreach_norm(directions), strict=True)
    return [_ratio(weight, direction) for weight, direction in pairs]


def _ratio(weight: Tensor, direction: Tensor) -> Tensor:
    return torch.where((weight > 0) & (direction > 0), weight / direction, torch.ones_like(weight))
