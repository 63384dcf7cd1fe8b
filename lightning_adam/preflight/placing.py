"""Where and in which precision a trainer that has not begun yet will have the module."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

SHARDED = ("FSDP", "DeepSpeed", "ModelParallel")


def is_sharded(trainer: Any) -> bool:
    """Whether each process will have only a part of each weight."""
    return any(name in type(getattr(trainer, "strategy", None)).__name__ for name in SHARDED)


def place(module: nn.Module, trainer: Any) -> None:
    """As the strategy will when training starts; what it changes, ``untouched`` puts back."""
    plugin, device = planned_precision(trainer), planned_device(trainer)
    if plugin is not None:
        plugin.convert_module(module)
    if device is not None:
        module.to(device)


def planned_precision(trainer: Any) -> Any:
    """The trainer's plugin; None where it is sharded, or has none."""
    return None if is_sharded(trainer) else getattr(trainer, "precision_plugin", None)


def planned_device(trainer: Any) -> torch.device | None:
    """The first device that it will use; None where it is sharded, or nobody knows."""
    device = None if is_sharded(trainer) else getattr(getattr(trainer, "strategy", None), "root_device", None)
    return device if isinstance(device, torch.device) else None
