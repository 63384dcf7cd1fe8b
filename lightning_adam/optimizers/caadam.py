"""CaAdam: Adam with each tensor's step scaled by its number of connections (Genet & Inzirillo 2024, arXiv:2410.24216)."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch

from lightning_adam.errors import ConfigError, nearest
from lightning_adam.optimizers._foreach import (
    ForeachOptimizer,
    Tensors,
    adam_step,
    check_adam,
    check_range,
)

Scaling = Literal["additive", "multiplicative", "depth"]
GAMMA: dict[str, float] = {"additive": 0.95, "multiplicative": 5.0, "depth": 1.0}
"""The paper's strength of each scaling."""


def connection_scales(connections: Sequence[int], scaling: Scaling = "additive", gamma: float | None = None) -> list[float]:
    """S per tensor from its number of connections (elements), tensors in order from the input.

    With x the distance from the median, between -1 (the largest) and 1 (the smallest): additive 1 + γx, multiplicative
    γˣ, depth (1+γ)^((D-1-d)/D). Multiplicative follows the paper's text, which damps large layers; the authors' code takes
    |x| and never goes below 1. All alike: 1.

    Example:
        >>> connection_scales([10, 20, 40])
        [1.95, 1.0, 0.050000000000000044]
    """
    strength = GAMMA[scaling] if gamma is None else gamma
    count = len(connections)
    if scaling == "depth":
        return [(1 + strength) ** ((count - 1 - d) / count) for d in range(count)]
    distances = _distances(connections)
    if scaling == "additive":
        return [1 + strength * x for x in distances]
    return [float(strength**x) for x in distances]


def _distances(connections: Sequence[int]) -> list[float]:
    if not connections or min(connections) == max(connections):
        return [0.0] * len(connections)
    low, middle, high = min(connections), statistics.median(connections), max(connections)
    below, above = (middle - low) or 1.0, (high - middle) or 1.0
    return [(middle - c) / (below if c <= middle else above) for c in connections]


class CaAdam(ForeachOptimizer):
    """Connection-aware Adam.

    Tensors of fewer than two dimensions (biases, norms) have no connections of their own: their scale is 1. The reference
    counts them as 0 connections and so scales them beyond the smallest layer, which its text does not ask for.
    ε is added to √v̂; the reference adds it to √v.

    Args:
        params: parameters or groups, from the input to the output (``depth`` counts in this order).
        lr: learning rate.
        betas: decay rates of the moments.
        eps: added to √v̂; the paper uses 1e-7.
        weight_decay: decoupled.
        scaling: ``additive``, ``multiplicative`` or ``depth``.
        gamma: strength; by default 0.95, 5 and 1.

    Raises:
        ConfigError: an unknown scaling, or a hyper-parameter out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-7,
        weight_decay: float = 0.0,
        scaling: Scaling = "additive",
        gamma: float | None = None,
    ) -> None:
        check_adam(lr, betas, eps, weight_decay)
        if scaling not in GAMMA:
            known = ", ".join(GAMMA)
            raise ConfigError(f"scaling={scaling!r} is not known.{nearest(str(scaling), GAMMA)} Known: {known}.")
        strength = GAMMA[scaling] if gamma is None else gamma
        check_range("gamma", strength, 0.0, 1.0 if scaling == "additive" else float("inf"))
        self.scaling, self.gamma = scaling, strength
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def prepare(self, group: dict[str, Any], parameter: torch.Tensor) -> None:
        """The scale is part of the state: a checkpoint of a partly frozen model keeps it."""
        super().prepare(group, parameter)
        state = self.state[parameter]
        if "scale" not in state:
            state["scale"] = self._scales().get(id(parameter), 1.0)

    def _scales(self) -> dict[int, float]:
        layers = [p for group in self.param_groups for p in group["params"] if p.dim() >= 2]
        scales = connection_scales([p.numel() for p in layers], self.scaling, self.gamma)
        return {id(p): scale for p, scale in zip(layers, scales, strict=True)}

    def update(self, group: dict[str, Any], weights: Tensors, gradients: Tensors, states: Sequence[Any]) -> None:
        """Adam with α·S(tensor) in place of α."""
        adam_step(group, weights, gradients, states, [group["lr"] * float(state["scale"]) for state in states])
