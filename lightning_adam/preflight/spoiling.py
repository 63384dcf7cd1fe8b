"""Where a training step makes NaN or Inf of finite numbers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch._C import DisableTorchFunction
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from lightning_adam.preflight.recorder import place

MASKING = frozenset(
    ("masked_fill", "masked_fill_", "where", "full", "full_like", "empty", "empty_like", "tensor", "as_tensor")
)
"""What writes Inf on purpose, or has not been written to yet."""


def first_spoiled(step: Callable[[], Any]) -> str:
    """The call of a step that makes NaN or Inf of finite numbers, and its place; empty if none does."""
    watch = _Watch()
    with watch, suppress(Exception):
        step()
    return watch.found


class _Watch(TorchFunctionMode):
    """Hands all calls on."""

    def __init__(self) -> None:
        super().__init__()
        self.found = ""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """The first one counts: what comes after it is spoilt by it."""
        output, name = func(*args, **(kwargs or {})), getattr(func, "__name__", "")
        is_news = not self.found and name not in MASKING and _is_spoilt(output)
        if is_news and not any(_is_spoilt(leaf) for leaf in tree_leaves((args, kwargs))):
            self.found = f"{name.strip('_')} at {place()}"
        return output


def _is_spoilt(value: Any) -> bool:
    if not isinstance(value, Tensor):
        return False
    with DisableTorchFunction():
        return value.is_floating_point() and not bool(torch.isfinite(value).all())
