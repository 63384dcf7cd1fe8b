"""Preflight's checks of the first step, in a loop that nobody watches while it makes its loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_adam.integrations.loop_run import LoopRun
from lightning_adam.monitoring import Monitor
from lightning_adam.preflight.cheap import first_step_of
from lightning_adam.preflight.graph import step_of
from lightning_adam.preflight.step import target_path


def first_look(loss: Tensor, batch: Any, run: LoopRun, monitor: Monitor) -> None:
    """The loss call as the autograd graph shows it, the module's modes and weights; the monitor tells what is found."""
    if any(hasattr(p, "to_local") for p in run.module.parameters()):
        return  # of a shard's weights nobody knows their scale without asking the other ranks
    with torch.no_grad():
        step = step_of(loss)
        step.target = target_path(step, batch)
        monitor.know(first_step_of(run.module, run.optimizers, batch, step, loss))
