"""What ``la.watch`` is told of the loop, checked before the first step: a monitor loses what it cannot compute with."""

from __future__ import annotations

import os
from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from lightning_adam.errors import ConfigError
from lightning_adam.real_numbers import is_count, is_finite

ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        ("every_n_steps", "accumulation", "total_steps", "check_every_n_steps"), (is_count, "a positive whole number")
    ),
    "first_step": (lambda value: is_count(value, 0), "a whole number of 0 or more"),
    **dict.fromkeys(
        ("steps_per_epoch", "clip_norm"), (lambda value: is_finite(value) and value > 0, "a finite number above 0")
    ),
    "scaler": (lambda value: hasattr(value, "is_enabled"), "the torch.amp.GradScaler that scales the loss"),
    "schedulers": (
        lambda value: all(hasattr(one, "step") for one in value),
        "torch's learning-rate schedulers, one or several",
    ),
    "log_dir": (lambda value: isinstance(value, (str, os.PathLike)), "a folder, such as 'runs/plain'"),
}
"""Which values an argument may have, and the same in words."""
OPEN = frozenset({"total_steps", "steps_per_epoch", "clip_norm", "scaler", "log_dir"})
"""What may be left out."""


def check_loop(**told: Any) -> None:
    """Refuse what cannot be.

    Args:
        **told: arguments of ``la.watch``, by their names.

    Raises:
        ConfigError: names the argument, what it got, and what to give.
    """
    for name, value in told.items():
        allows, words = ALLOWED[name]
        if not (value is None and name in OPEN) and not allows(value):
            raise ConfigError(f"{name}={value!r}: give {words}.")


def as_loss(value: Any) -> Tensor:
    """A loss that was handed over as a number: of it the first step's checks see no graph.

    Raises:
        ConfigError: it is no number.
    """
    if isinstance(value, Real):
        return torch.tensor(float(value))
    has_loss = isinstance(getattr(value, "loss", None), Tensor)
    kind, meant = type(value).__name__, "outputs.loss" if has_loss else "loss"
    raise ConfigError(f"watch.loss() was given {kind}: give it the loss itself, watch.loss({meant}).backward().")
