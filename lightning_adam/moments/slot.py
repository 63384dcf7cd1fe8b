"""One parameter's place in an optimizer: its group, its state, and the state's tensors as plain local ones."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_adam.moments.packed import Blockwise


@dataclass(frozen=True)
class Moments:
    """The raw (not bias-corrected) moments of one tensor after a step.

    Attributes:
        stored_first: m as the optimizer keeps it; None where it keeps none.
        stored_second: v as the optimizer keeps it; None where it keeps none.
        stored_denominator: the second moment that the step divides by; v, or its running maximum under AMSGrad.
        step: t, the number of updates behind the moments; 1 where nobody counts (the betas are 0 then).
        beta1: decay rate that m̂ = m/(1-β₁ᵗ) corrects for; 0 where m is to be taken as it is.
        beta2: decay rate that v̂ = v/(1-β₂ᵗ) corrects for; 0 where v is to be taken as it is.
    """

    stored_first: Tensor | Blockwise | None
    stored_second: Tensor | Blockwise | None
    stored_denominator: Tensor | Blockwise | None
    step: int
    beta1: float
    beta2: float

    @functools.cached_property
    def first(self) -> Tensor | None:
        """m, shape of the parameter."""
        return _unpacked(self.stored_first)

    @functools.cached_property
    def second(self) -> Tensor | None:
        """v, shape of the parameter."""
        return _unpacked(self.stored_second)

    @functools.cached_property
    def denominator(self) -> Tensor | None:
        """What v̂ is rooted of, shape of the parameter; v itself where it is v."""
        return self.second if self.stored_denominator is self.stored_second else _unpacked(self.stored_denominator)


def _unpacked(stored: Tensor | Blockwise | None) -> Tensor | None:
    return stored.unpacked() if isinstance(stored, Blockwise) else stored


@dataclass(frozen=True)
class Slot:
    """What a reader sees.

    Attributes:
        optimizer: whose state it is.
        group: the parameter's group.
        parameter: the parameter, with its gradient.
        state: the parameter's state.
        known_step: t, if it has been read already.
    """

    optimizer: Optimizer
    group: Mapping[str, Any]
    parameter: Tensor
    state: Mapping[str, Any]
    known_step: int | None = None

    def tensor(self, key: str) -> Tensor:
        """A buffer of the state: local shard, dequantised, dense (SGD's momentum of sparse gradients is sparse)."""
        found = plain(self.state[key])
        return found.to_dense() if found.is_sparse else found

    @property
    def beta1(self) -> float:
        """β₁."""
        return float(self.group["betas"][0])

    @property
    def beta2(self) -> float:
        """β₂."""
        return float(self.group["betas"][1])

    @property
    def step(self) -> int:
        """t: torch keeps it in the state, pytorch-optimizer in the group, the schedule-free library as ``k``."""
        if self.known_step is not None:
            return self.known_step
        for holder, key in ((self.state, "step"), (self.group, "step"), (self.group, "k")):
            if key in holder:
                return int(holder[key])
        return 1


_PLAIN = (Tensor, torch.nn.Parameter)


def plain(tensor: Tensor) -> Tensor:
    """The local shard of a DTensor, and the numbers behind a low-bit tensor (torchao's have ``dequantize``)."""
    if type(tensor) in _PLAIN:
        return tensor
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local.dequantize() if type(local).dequantize is not Tensor.dequantize else local


def kind_of(optimizer: Optimizer) -> type[Optimizer]:
    """The library's class: an optimizer of the helper's has one of its own before it."""
    return getattr(optimizer, "adam_kind", type(optimizer))  # type: ignore[no-any-return]


def kind_names(optimizer: Optimizer) -> frozenset[str]:
    """The names of its class and of the classes that this one derives from."""
    return _names(kind_of(optimizer))  # type: ignore[arg-type]


@functools.cache
def _names(kind: type) -> frozenset[str]:
    return frozenset(base.__name__ for base in kind.__mro__)


def tiny(tensor: Tensor) -> float:
    """The smallest normal number of its dtype."""
    return float(torch.finfo(tensor.dtype).tiny)
