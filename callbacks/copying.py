"""Copies of a monitor's callback: each follows a fit of its own."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from lightning_adam.callbacks._lightning import ATTACHED
from lightning_adam.callbacks.first_step import FirstStepChecks

if TYPE_CHECKING:
    from lightning_adam.callbacks.monitor_callback import MonitorCallback


def state_without_run(callback: MonitorCallback) -> dict[str, Any]:
    """Without the run that it follows, and what Lightning has attached for it."""
    kept = {name: value for name, value in vars(callback).items() if name not in ATTACHED}
    return {**kept, "_monitor": None, "_first": FirstStepChecks()}


def deep_copy(callback: MonitorCallback, memo: dict[int, Any]) -> Any:
    """With an outcome of its own, which the original shows as long as it has none itself."""
    copied = type(callback).__new__(type(callback))
    memo[id(callback)] = copied
    vars(copied).update(copy.deepcopy(state_without_run(callback), memo))
    callback._outcome.copies.append(copied._outcome)
    return copied
