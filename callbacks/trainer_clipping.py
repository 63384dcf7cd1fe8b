"""The norms that the Trainer's own clipping measures: Lightning lets them go, and a monitor would measure them again."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import Precision
from torch.optim import Optimizer

from lightning_adam.clipping import gradients_of
from lightning_adam.gradient_norms import GradientNorms
from lightning_adam.monitoring.gradients import torchs_norms
from lightning_adam.monitoring.guard import Guard
from lightning_adam.monitoring.step_hooks import with_hooks

METHOD = "clip_grad_by_norm"


class TrainerClipping:
    """Stands in for one precision plugin's clipping by norm while a fit is watched, and keeps what it measures.

    Norm and scaling are those of ``torch.nn.utils.clip_grad_norm_``, which is made of the same two: gradients are the same
    to the last bit. What it cannot measure so (shards, 16 bits) is left to the plugin.

    Args:
        plugin: whose method is Lightning's own.
        guard: that catches what measuring raises.
    """

    def __init__(self, plugin: Precision, guard: Guard) -> None:
        self._plugin, self._guard = plugin, guard
        self._optimizer: Optimizer | None = None
        self._norms: GradientNorms | None = None

    def __call__(self, optimizer: Any, clip_val: float) -> None:
        """As the plugin's method."""
        self._norms = None
        self._guard.run("the norms of the trainer's clipping", self._measure, optimizer)
        if self._norms is None:
            type(self._plugin).clip_grad_by_norm(self._plugin, optimizer, clip_val)
        else:
            torch.nn.utils.clip_grads_with_norm_(self._plugin.main_params(optimizer), clip_val, self._norms.total)

    @torch.no_grad()
    def _measure(self, optimizer: Any) -> None:
        self._optimizer = with_hooks(optimizer)
        self._norms = torchs_norms(gradients_of(list(self._plugin.main_params(optimizer))))

    def last(self, optimizer: Optimizer) -> GradientNorms | None:
        """What it measured when it clipped this optimizer's gradients; None where it clipped another's since."""
        return self._norms if self._optimizer is optimizer else None


def keep_norms(trainer: Trainer) -> TrainerClipping | None:
    """Have the trainer's clipping keep what it measures until :func:`let_go`; None where its plugin clips its own way."""
    plugin = trainer.precision_plugin
    known = vars(plugin).get(METHOD)
    if isinstance(known, TrainerClipping):
        return known
    if known is not None or type(plugin).clip_grad_by_norm is not Precision.clip_grad_by_norm:
        return None
    clipping = TrainerClipping(plugin, Guard())
    setattr(plugin, METHOD, clipping)
    return clipping


def let_go(trainer: Trainer) -> None:
    """The plugin is as it was; may be called twice."""
    if isinstance(vars(trainer.precision_plugin).get(METHOD), TrainerClipping):
        delattr(trainer.precision_plugin, METHOD)
