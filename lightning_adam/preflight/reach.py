"""How far a last layer's numbers can reach, read off the operation that made them."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from lightning_adam.preflight.nodes import can_be_read
from lightning_adam.preflight.recorder import LOOKS_THROUGH

Reach = tuple[float, float]
ANYWHERE: Reach = (-math.inf, math.inf)
RANGES: dict[str, Reach] = {
    "Relu": (0.0, math.inf),
    "Sigmoid": (0.0, 1.0),
    "Hardsigmoid": (0.0, 1.0),
    "Tanh": (-1.0, 1.0),
    "Softmax": (0.0, 1.0),
    "Softplus": (0.0, math.inf),
    "Exp": (0.0, math.inf),
    "Abs": (0.0, math.inf),
}
"""By autograd's name of the operation."""
LIMITS = {
    "Clamp": ("_saved_min", "_saved_max"),
    "ClampMin": ("_saved_min", ""),
    "ClampMax": ("", "_saved_max"),
    "Hardtanh": ("_saved_min_val", "_saved_max_val"),
}
"""Operations that keep their limits, and under which names."""


def reach_of(values: Tensor) -> Reach:
    """The lowest and the highest number that can come out."""
    return _reach(values.grad_fn)


def _reach(node: Any) -> Reach:
    while node is not None and node.name().startswith(tuple(LOOKS_THROUGH)) and node.next_functions:
        node = node.next_functions[0][0]
    name = "" if node is None else node.name().split("Backward")[0]
    if name in LIMITS:
        low, high = (number(getattr(node, attribute, None)) for attribute in LIMITS[name])
        return (-math.inf if low is None else low, math.inf if high is None else high)
    factor = number(getattr(node, "_saved_other", None)) if name == "Mul" and can_be_read(node) else None
    if factor is not None and factor > 0:
        low, high = _reach(node.next_functions[0][0])
        return low * factor, high * factor
    return RANGES.get(name, ANYWHERE)


def number(saved: Any) -> float | None:
    """A Python number, or a tensor of one; None for anything else."""
    if isinstance(saved, Tensor):
        return float(saved) if saved.numel() == 1 and not saved.requires_grad else None
    return float(saved) if isinstance(saved, (int, float)) else None
