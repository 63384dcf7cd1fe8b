"""What an action goes back to, and whether there is a need: weights, moments, averages and buffers while they are finite."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_adam.monitoring.gradients import are_finite, moments_of
from lightning_adam.monitoring.run import Run

RATES = ("lr", "initial_lr", "max_lr", "min_lr")
"""Entries of a parameter group that stay those of now: all else, Prodigy's estimate and schedule-free's weights too, goes
back with the moments."""


@dataclass(frozen=True)
class GoodState:
    """What rollback returns to.

    Attributes:
        step: after which it was taken; -1 before the first.
        weights: the module's, and its buffers.
        optimizers: the state of each, with what its clipping rule remembers.
        averages: of the weights, as other callbacks keep them.
    """

    step: int
    weights: dict[str, Tensor]
    optimizers: list[Any]
    averages: list[dict[str, Tensor]]

    @classmethod
    def of(cls, run: Run, step: int) -> GoodState:
        """A copy of all of it."""
        optimizers = [copy.deepcopy(optimizer.state_dict()) for optimizer in run.optimizers]
        return cls(step, _copies(run.module.state_dict()), optimizers, [_copies(average) for average in run.averages()])

    def fits(self, run: Run) -> bool:
        """Whether the optimizers' groups are still those of then: some are added in mid-run."""
        saved = [[len(group["params"]) for group in state["param_groups"]] for state in self.optimizers]
        return saved == [[len(group["params"]) for group in o.param_groups] for o in run.optimizers]

    @torch.no_grad()
    def restore(self, run: Run) -> None:
        """All goes back but the learning rates."""
        _put_back(run.module.state_dict(), self.weights)
        averages = run.averages()
        same = len(averages) == len(self.averages)
        for average, kept in zip(averages, self.averages if same else [{}] * len(averages), strict=True):
            _put_back(average, kept or self._begun_anew(average))
        for optimizer, state in zip(run.optimizers, self.optimizers, strict=True):
            _restore(optimizer, state)

    def _begun_anew(self, average: Mapping[str, Any]) -> dict[str, Tensor]:
        """Of an average that there was not yet: the weights, where it is not finite any more."""
        lost = [name for name, value in average.items() if isinstance(value, Tensor) and not are_finite([value])]
        plain = {name: name.removeprefix("module.") for name in lost}
        return {name: self.weights[own] for name, own in plain.items() if own in self.weights}


def _copies(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in tensors.items() if isinstance(value, Tensor)}


def _put_back(tensors: Mapping[str, Any], kept: Mapping[str, Tensor]) -> None:
    for name, value in tensors.items():
        if name in kept and isinstance(value, Tensor) and value.shape == kept[name].shape:
            value.copy_(kept[name])


def _restore(optimizer: Optimizer, state: dict[str, Any]) -> None:
    rates = [{name: group[name] for name in RATES if name in group} for group in optimizer.param_groups]
    optimizer.load_state_dict(copy.deepcopy(state))
    for group, now in zip(optimizer.param_groups, rates, strict=True):
        group.update(now)


def is_finite(run: Run) -> bool:
    """Whether all weights and all moments are; a module's buffers may hold a mask of infinities."""
    weights = [parameter.detach() for parameter in run.module.parameters()]
    moments = [moment for o in run.optimizers for parameter in o.state for moment in moments_of(o, parameter)]
    return are_finite([*weights, *moments])


class FiniteBuffers:
    """The last finite values of a module's buffers that change: a batch that is left out has spoilt them already."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[int, Tensor]] = {}

    def keep(self, module: nn.Module) -> None:
        """Copy those that have changed since the last time and are finite."""
        for name, buffer in module.named_buffers():
            is_new = buffer.is_floating_point() and self._kept.get(name, (-1,))[0] != buffer._version
            if is_new and are_finite([buffer.detach()]):
                self._kept[name] = (buffer._version, buffer.detach().clone())

    @torch.no_grad()
    def restore(self, module: nn.Module) -> None:
        """Put back those that are not finite any more."""
        for name, buffer in module.named_buffers():
            if name in self._kept and not are_finite([buffer]):
                buffer.copy_(self._kept[name][1])
