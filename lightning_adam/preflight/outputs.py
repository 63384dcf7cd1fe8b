"""What the nets of a step gave, and whether its loss leads back to any of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from lightning_adam.preflight.step import Trace


def given(trace: Trace) -> list[Tensor]:
    """All tensors with a gradient in what the outer modules gave."""
    values = [value for _, output in trace.outer for value in tree_leaves(_plain(output))]
    return [value for value in values if isinstance(value, Tensor) and value.requires_grad]


def _plain(output: Any) -> Any:
    """Model outputs of Hugging Face are dicts of a kind that torch's trees do not know."""
    return dict(output) if hasattr(output, "items") else output


def ends_before(loss: Tensor, trace: Trace) -> bool:
    """Whether nets gave something with a gradient, and the loss leads back to none of it."""
    outputs = given(trace)
    if not outputs or not loss.requires_grad:
        return False
    return all(g is None for g in torch.autograd.grad(loss, outputs, retain_graph=True, allow_unused=True))
