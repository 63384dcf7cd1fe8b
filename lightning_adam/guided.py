"""The optimizer's step as the helper guides it: closure, unscale, clip, step, and only then the next learning rate.

Clipping happens inside ``optimizer.step``, after the closure and after unscaling: the one place that is right under
32-bit, bf16 and fp16, with fused optimizers, with accumulation, in manual optimization and in a plain loop.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from lightning_adam.clipping import AdaptiveClip, Clip, ClipRecord
from lightning_adam.errors import ConfigError
from lightning_adam.optimizers.adamz import AdamZ
from lightning_adam.resume import match_by_name
from lightning_adam.schedules import Schedule

CLIP_STATE = "adam_clip_rule"


def guide(optimizer: Optimizer, clip: Clip | None, schedule: Schedule) -> Optimizer:
    """Have the optimizer clip inside its step, tell the schedule of each real update, and resume by parameter name.

    Its class becomes a subclass of the same name, so that ``isinstance``, checkpoints and LearningRateMonitor's tags
    stay as they are. After each step ``optimizer.adam_clip`` holds the ClipRecord (None without clipping).
    """
    optimizer.__class__ = _guided(type(optimizer))  # type: ignore[assignment,arg-type]
    guided: Any = optimizer
    guided.adam_rule, guided.adam_clip, guided.adam_schedule = clip, None, schedule
    optimizer.register_load_state_dict_pre_hook(_restore)
    if isinstance(clip, AdaptiveClip):
        optimizer.register_state_dict_post_hook(_save_clip)
    return optimizer


@functools.cache
def _guided(kind: type[Optimizer]) -> type[Optimizer]:
    """A subclass with the same memory layout, which a second base would change: methods are copied in."""
    methods = {name: value for name, value in vars(_GuidedStep).items() if name not in ("__dict__", "__weakref__")}
    named = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (kind,), {**methods, **named, "adam_kind": kind})


class _GuidedStep:
    adam_kind: Any
    adam_rule: Clip | None = None
    adam_clip: ClipRecord | None = None
    adam_schedule: Schedule | None = None
    adam_arguments: Mapping[str, Any]  # what a companion hands to the next step: a loss, a Hessian estimate

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One optimizer step.

        The closure runs here and not in the optimizer: torch's step hooks then see this step's gradients, and the
        post-step hooks still see the learning rate that the step used.
        """
        if isinstance(self, LBFGS):
            return self._step_repeatedly(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        updates = self._clip()
        arguments = self.__dict__.pop("adam_arguments", None) or ({"loss": loss} if isinstance(self, AdamZ) else {})
        self.adam_kind.step(self, **arguments)
        if updates and not _overflowed(self) and self.adam_schedule is not None:
            self.adam_schedule.advance()
        return loss

    # torch wraps the ``step`` of a class once to call the hooks, and again when a copy is unpickled: ``adam_kind`` has them.
    step.hooked = True  # type: ignore[attr-defined]

    def _step_repeatedly(self, closure: Callable[[], Any] | None) -> Any:
        """L-BFGS evaluates the batch several times: each time, clip."""
        if closure is None:
            raise ConfigError("lbfgs evaluates the batch several times per step: call optimizer.step(closure).")

        def evaluate() -> Any:
            loss = closure()
            self._clip()
            return loss

        loss = self.adam_kind.step(self, evaluate)
        if self.adam_schedule is not None:
            self.adam_schedule.advance()
        return loss

    def _clip(self) -> bool:
        """Unscale and clip; whether there is anything to step with."""
        groups: Any = self.param_groups  # type: ignore[attr-defined]
        parameters = [p for group in groups for p in group["params"] if p.grad is not None]
        _unscale(self, parameters)
        self.adam_clip = self.adam_rule(parameters) if self.adam_rule is not None and parameters else None
        return bool(parameters)


def _unscale(optimizer: Any, parameters: Sequence[Tensor]) -> None:
    """Under GradScaler a fused optimizer would unscale in its kernel, too late for clipping: do it here instead."""
    scale = getattr(optimizer, "grad_scale", None)
    if scale is not None and parameters:
        inverse = scale.to(parameters[0].device).double().reciprocal().float()
        torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], inverse)
        optimizer.grad_scale = None


def _overflowed(optimizer: Any) -> bool:
    """Whether GradScaler told a fused optimizer to leave the weights alone; others it does not call at all."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def _restore(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any] | None:
    rule = getattr(optimizer, "adam_rule", None)
    if isinstance(rule, AdaptiveClip) and CLIP_STATE in state_dict:
        rule.load_state_dict(state_dict[CLIP_STATE])
    return match_by_name(optimizer, state_dict)


def _save_clip(optimizer: Any, state_dict: dict[str, Any]) -> None:
    state_dict[CLIP_STATE] = optimizer.adam_rule.state_dict()
