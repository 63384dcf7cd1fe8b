"""Sees exactly whether gradients were cleared between two steps, without reading a number."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_adam.monitoring.guard import Guard


class ZeroingWatch:
    """Follows one gradient tensor of one optimizer from step to step.

    A gradient that nobody cleared is the same tensor as at the last step, and autograd's additions are the only changes to
    it: its version counter (which every in-place change raises) then moves from hook to hook by these alone. In a GAN the
    other network's backward adds to it, too: cleared before the own backward, it counts as cleared.
    """

    def __init__(self, optimizer: Optimizer, guard: Guard) -> None:
        self._guard = guard
        self._parameter = next((p for g in optimizer.param_groups for p in g["params"] if p.requires_grad), None)
        self._handle: RemovableHandle | None = None
        self._carried, self._added, self._version = False, False, -1
        if self._parameter is not None and self._parameter.is_leaf:
            self._handle = self._parameter.register_hook(self._before_addition)

    @property
    def not_zeroed(self) -> bool:
        """At a step: whether its gradient still holds the one that the last step used."""
        return self._carried and self._added

    def after_step(self) -> None:
        """The gradient is used up."""
        gradient = None if self._parameter is None else self._parameter.grad
        self._carried, self._added = gradient is not None, False
        self._version = -1 if gradient is None else gradient._version

    def detach(self) -> None:
        """Leave nothing behind."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = None

    def _before_addition(self, addition: Tensor) -> None:
        self._added = True
        if self._carried:
            self._guard.run("whether gradients are cleared", self._see_addition)

    def _see_addition(self) -> None:
        """The version that it will have is reckoned here: a second hook, after the addition, costs as much as this one.

        Autograd adds in place, which raises the version by one; while it records (``create_graph``) the sum is a new tensor.
        """
        gradient = None if self._parameter is None else self._parameter.grad
        self._carried = gradient is not None and gradient._version == self._version
        self._version = 0 if torch.is_grad_enabled() else self._version + 1
