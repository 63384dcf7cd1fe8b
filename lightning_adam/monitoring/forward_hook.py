"""Listens to what a module puts out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


class ForwardHook:
    """Hands on what a module puts out. A copy of the module (an averaged model) hands on nothing."""

    def __init__(self, listener: Callable[[nn.Module, Any], None]) -> None:
        self._listener: Callable[[nn.Module, Any], None] | None = listener

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._listener is not None:
            self._listener(module, output)

    def __getstate__(self) -> dict[str, Any]:
        return {"_listener": None}
