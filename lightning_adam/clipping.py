"""Clipping rules, and the optimizer step in which they act.

Clipping happens inside ``optimizer.step``, after the closure and after unscaling: the one place that is right under
32-bit, bf16 and fp16, with fused optimizers, with accumulation, in manual optimization and in a plain loop.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_adam.errors import ConfigError


@dataclass(frozen=True)
class ClipRecord:
    """What clipping did in one step; scalars on the gradients' device, so that nothing waits for them.

    Attributes:
        norm_before: total norm before clipping.
        clipped: whether a gradient was changed.
    """

    norm_before: Tensor
    clipped: Tensor


class Clip(Protocol):
    """A clipping rule: changes gradients in place, and says what it did."""

    def __call__(self, gradients: Sequence[Tensor]) -> ClipRecord: ...


@dataclass(frozen=True)
class ClipNorm:
    """Scale all gradients so that their total norm is at most ``max_norm`` (Pascanu et al. 2013, arXiv:1211.5063).

    Raises:
        ConfigError: ``max_norm`` is not a finite number above 0.
    """

    max_norm: float

    def __post_init__(self) -> None:
        _check("ClipNorm", "max_norm", self.max_norm)

    def __call__(self, gradients: Sequence[Tensor]) -> ClipRecord:
        """As ``torch.nn.utils.clip_grad_norm_``, which also divides by norm + 1e-6."""
        norm = torch.nn.utils.get_total_norm(gradients)
        torch._foreach_mul_(list(gradients), torch.clamp(self.max_norm / (norm + 1e-6), max=1.0))
        return ClipRecord(norm, norm > self.max_norm)


@dataclass(frozen=True)
class ClipValue:
    """Clamp every gradient element to ±``max_value``.

    Raises:
        ConfigError: ``max_value`` is not a finite number above 0.
    """

    max_value: float

    def __post_init__(self) -> None:
        _check("ClipValue", "max_value", self.max_value)

    def __call__(self, gradients: Sequence[Tensor]) -> ClipRecord:
        """Clamps in place."""
        tensors = list(gradients)
        norm = torch.nn.utils.get_total_norm(tensors)
        largest = torch.stack([n.to(norm.device) for n in torch._foreach_norm(tensors, math.inf)]).max()
        torch._foreach_clamp_min_(tensors, -self.max_value)
        torch._foreach_clamp_max_(tensors, self.max_value)
        return ClipRecord(norm, largest > self.max_value)


def as_clip(clip: Clip | float | None) -> Clip | None:
    """A number is the total norm.

    Raises:
        ConfigError: neither a number above 0, nor a rule, nor None.
    """
    if clip is None or isinstance(clip, (ClipNorm, ClipValue)):
        return clip
    if isinstance(clip, (int, float)) and not isinstance(clip, bool):
        return ClipNorm(clip)
    if isinstance(clip, str) or not callable(clip):
        raise ConfigError(f"clip={clip!r}: give a total norm (1.0), la.ClipNorm(1.0), la.ClipValue(0.5), or None.")
    return clip


def _check(rule: str, name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ConfigError(f"clip: {rule}({name}={value!r}): {name} must be a finite number above 0, such as 1.0.")


def guide(optimizer: Optimizer, clip: Clip | None, after_update: Callable[[], None]) -> Optimizer:
    """Have the optimizer clip inside its step, and tell the schedule of each real update.

    Its class becomes a subclass of the same name, so that ``isinstance``, checkpoints and LearningRateMonitor's tags
    stay as they are. After each step ``optimizer.adam_clip`` holds the ClipRecord (None without clipping).
    """
    optimizer.__class__ = _guided(type(optimizer))  # type: ignore[arg-type]
    guided: Any = optimizer
    guided.adam_rule, guided.adam_clip, guided.adam_after_update = clip, None, after_update
    return optimizer


@functools.cache
def _guided(kind: type[Optimizer]) -> type[Optimizer]:
    return type(kind.__name__, (_GuidedStep, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__})


class _GuidedStep:
    """Closure, unscale, clip, step with its hooks, and only then the next learning rate."""

    adam_rule: Clip | None
    adam_clip: ClipRecord | None
    adam_after_update: Callable[[], None]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One optimizer step.

        The closure runs here and not in the optimizer: torch's step hooks then see this step's gradients, and the
        post-step hooks still see the learning rate that the step used.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        parameters: Any = self
        gradients = [p.grad for group in parameters.param_groups for p in group["params"] if p.grad is not None]
        _unscale(self, gradients)
        self.adam_clip = self.adam_rule(gradients) if self.adam_rule and gradients else None
        super().step()  # type: ignore[misc]
        if gradients and not _overflowed(self):
            self.adam_after_update()
        return loss

    # torch wraps the ``step`` of a class once to call the hooks, and again when a copy is unpickled: super() has them.
    step.hooked = True  # type: ignore[attr-defined]


def _unscale(optimizer: Any, gradients: Sequence[Tensor]) -> None:
    """Under GradScaler a fused optimizer would unscale in its kernel, too late for clipping: do it here instead."""
    scale = getattr(optimizer, "grad_scale", None)
    if scale is not None and gradients:
        torch._foreach_mul_(list(gradients), scale.to(gradients[0].device).double().reciprocal().float())
        optimizer.grad_scale = None


def _overflowed(optimizer: Any) -> bool:
    """Whether GradScaler told a fused optimizer to leave the weights alone; others it does not call at all."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)
