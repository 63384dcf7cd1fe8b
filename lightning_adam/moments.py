"""Reads the first and second moment out of an optimizer's state: the only place that knows state keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


@dataclass(frozen=True)
class Moments:
    """The raw (not bias-corrected) moments of one tensor after a step.

    Attributes:
        first: m, shape of the parameter.
        second: v, shape of the parameter.
        denominator: the second moment that the step divides by; v, or its running maximum under AMSGrad.
        step: t, the number of updates that this tensor has had.
        beta1: decay rate of m.
        beta2: decay rate of v.
    """

    first: Tensor
    second: Tensor
    denominator: Tensor
    step: int
    beta1: float
    beta2: float


def _torch_adam(state: Mapping[str, Any], betas: tuple[float, float]) -> Moments:
    second = state["exp_avg_sq"]
    denominator = state.get("max_exp_avg_sq", second)
    return Moments(state["exp_avg"], second, denominator, int(state["step"]), *betas)


def _bitsandbytes(state: Mapping[str, Any], betas: tuple[float, float]) -> Moments:
    first, second = _dequantised(state, 1), _dequantised(state, 2)
    return Moments(first, second, second, int(state["step"]), *betas)


def _dequantised(state: Mapping[str, Any], which: int) -> Tensor:
    """Blockwise 8-bit state as float32; tensors under 4,096 elements are kept in 32 bit by bitsandbytes."""
    stored: Tensor = state[f"state{which}"]
    if stored.dtype != torch.uint8:
        return stored
    from bitsandbytes.functional import dequantize_blockwise  # type: ignore[import-untyped,unused-ignore]

    restored: Tensor = dequantize_blockwise(
        stored, absmax=state[f"absmax{which}"], code=state[f"qmap{which}"], blocksize=256
    )
    return restored


_LAYOUTS: tuple[tuple[frozenset[str], Callable[[Mapping[str, Any], tuple[float, float]], Moments]], ...] = (
    (frozenset({"exp_avg", "exp_avg_sq", "step"}), _torch_adam),
    (frozenset({"state1", "state2", "step"}), _bitsandbytes),
)


def read_moments(optimizer: Optimizer, group: Mapping[str, Any], parameter: Tensor) -> Moments | None:
    """The moments of one parameter, or None where the optimizer keeps no Adam-like pair (or has not stepped yet)."""
    state = optimizer.state.get(parameter, {})
    betas = group.get("betas", ())
    if len(betas) < 2 or not state:
        return None
    for keys, read in _LAYOUTS:
        if keys <= state.keys():
            return read(state, (float(betas[0]), float(betas[1])))
    return None


def step_is_adam_formula(optimizer: Optimizer) -> bool:
    """Whether the step without decay is exactly lr * m̂/(√v̂+ε), so that it needs no copy of the parameters.

    bitsandbytes steps before it re-quantises its state, so its dequantised moments only approximate the step taken.
    """
    return isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW))


def decay_is_decoupled(optimizer: Optimizer, group: Mapping[str, Any]) -> bool:
    """Whether weight decay shrinks the parameter itself instead of entering the gradient."""
    for key in ("decoupled_weight_decay", "weight_decouple"):
        if group.get(key) is not None:
            return bool(group[key])
    if type(optimizer).__module__.startswith("lightning_adam"):
        return True
    return "AdamW" in type(optimizer).__name__ or type(optimizer).__module__.startswith("bitsandbytes")
