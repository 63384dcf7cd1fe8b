"""The optimizer's step as the helper guides it: closure, unscale, clip, step, and only then the next learning rate.

Clipping happens inside ``optimizer.step``, after the closure and after unscaling: the one place that is right under
32-bit, bf16 and fp16, with fused optimizers, with accumulation, in manual optimization and in a plain loop.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_adam.clipping import AdaptiveClip, Clip, ClipRecord
from lightning_adam.errors import ConfigError, LightningAdamWarning
from lightning_adam.gradient_norms import whole
from lightning_adam.optimizers._ranks import mean_over_ranks
from lightning_adam.optimizers.adamz import AdamZ
from lightning_adam.optimizers.choice import repeats_closure
from lightning_adam.optimizers.sophia import refuse_missing_estimate
from lightning_adam.resume import count_of, matched, options_of
from lightning_adam.saved_record import names_of, read_memory, with_record
from lightning_adam.schedules import Schedule

FAR_TOO_HIGH = 1e15
"""A loss whose square is finite in 32 bits, too: the line search interpolates with it."""


_NEEDS_CLOSURE = (
    "{} evaluates the batch several times per step: call optimizer.step(closure), with a closure that zeroes the gradients, "
    "computes the loss, goes backward and returns the loss."
)


class GuidedStep(Optimizer):
    """Put before a library's optimizer (:func:`guided_class`): clips inside its step, tells the schedule of each real
    update, and resumes by parameter name. It can be pickled and copied whole, with its rule and its schedule.

    Attributes:
        adam_kind: the library's class.
        adam_repeats: whether its step evaluates the batch itself.
        adam_rule: the clipping rule; None without clipping.
        adam_clip: what clipping did in the last step; None without clipping.
        adam_schedule: whom each real update is told.
        adam_order: the parameters' names in the module's order.
        adam_reset: whether the next checkpoint's optimizer state is left aside.
        adam_was_reset: whether one was.
        adam_fresh: the counters of each group before the first step.
        adam_shared: options that all groups have alike, because it takes the first group's for all.
        adam_arguments: what a companion hands to the next step: a loss, a Hessian estimate. Often not there.
        adam_passes: how many backward passes it is the mean of. There once a companion has handed something over.
    """

    adam_kind: ClassVar[type[Optimizer]]
    adam_repeats: ClassVar[bool]
    adam_rule: Clip | None
    adam_clip: ClipRecord | None
    adam_schedule: Schedule
    adam_order: Sequence[str] = ()
    adam_reset: bool = False
    adam_was_reset: bool = False
    adam_fresh: Sequence[Mapping[str, Any]] = ()
    adam_shared: Sequence[str] = ()
    adam_arguments: Mapping[str, Any]
    adam_passes: int
    _before_clip_hooks: OrderedDict[int, Callable[[Optimizer], None]]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One optimizer step.

        The closure runs here and not in the optimizer: torch's step hooks then see this step's gradients, and the
        post-step hooks still see the learning rate that the step used.
        """
        if closure is None and _is_dry_run(self):
            return super().step()
        self.adam_schedule.prepare()
        if self.adam_repeats:
            return self._step_repeatedly(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        updates = self._clip()
        arguments = self.__dict__.pop("adam_arguments", None) or ({"loss": loss} if isinstance(self, AdamZ) else {})
        refuse_missing_estimate(self, arguments)
        try:
            super().step(**arguments)
        except Exception:
            if updates:
                raise
            return loss  # ranger21 and others do not take a step without a gradient, which has nothing to do
        if updates and not _overflowed(self):
            self.adam_reset = False
            self.adam_schedule.advance()
        return loss

    # torch would wrap the step of this class, too, to call the step hooks: the library's has them.
    step.hooked = True  # type: ignore[attr-defined]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """One more, in mid-run as well.

        Raises:
            ConfigError: it asks for what the first group's option would silently overrule.
        """
        first = self.param_groups[0] if self.param_groups else {}
        for name in self.adam_shared:
            allowed = (first[name], first.get(f"initial_{name}", first[name])) if name in first else ()
            if allowed and name in param_group and param_group[name] not in allowed:
                raise ConfigError(
                    f"add_param_group: {self.adam_kind.__name__} has one {name} for all groups, {first[name]!r}; this group "
                    f"asks for {param_group[name]!r}. Leave {name} out of it, or take another optimizer, such as adamw."
                )
        super().add_param_group(param_group)

    def _step_repeatedly(self, closure: Callable[[], Any] | None) -> Any:
        """L-BFGS evaluates the batch several times: each time, clip.

        How often, the losses tell its line search: with the mean over the ranks, as the gradients are, all evaluate as
        often, and none waits for ever in an all-reduce that the others do not call. A point where the loss is not finite
        counts as one far too high: torch's search would take it for the lowest, or find none at all (IndexError).
        """
        if closure is None:
            raise ConfigError(_NEEDS_CLOSURE.format(type(self).__name__))
        is_first = True

        def evaluate() -> Any:
            nonlocal is_first
            loss = closure()
            if loss is None:
                raise ConfigError(_NEEDS_CLOSURE.format(type(self).__name__))
            self._clip(call_hooks=is_first)
            loss = loss.detach() if isinstance(loss, Tensor) else loss  # torch warns where its graph becomes a number
            mean = mean_over_ranks(loss, self.param_groups[0]["params"][0].device)
            is_trial, is_first = not is_first, False
            return mean if math.isfinite(float(mean)) or not is_trial else FAR_TOO_HIGH

        loss = super().step(evaluate)
        self.adam_schedule.advance()
        return loss

    def _clip(self, call_hooks: bool = True) -> bool:
        """Unscale and clip; whether there is anything to step with."""
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        _unscale(self, parameters)
        for hook in tuple(self._before_clip_hooks.values()) if call_hooks else ():
            hook(self)
        self.adam_clip = self.adam_rule(parameters) if self.adam_rule is not None and parameters else None
        return bool(parameters)

    def register_before_clip_hook(self, hook: Callable[[Optimizer], None]) -> RemovableHandle:
        """Have ``hook(optimizer)`` called in each step, when the gradients are complete, unscaled and not yet clipped.

        L-BFGS calls it for the first of a step's evaluations only. Hooks are neither copied nor pickled.
        """
        handle = RemovableHandle(self._before_clip_hooks)
        self._before_clip_hooks[handle.id] = hook
        return handle

    def state_dict(self) -> dict[str, Any]:
        """The library's, and who wrote it, with what an adaptive clipping rule remembers."""
        return with_record(self, super().state_dict())

    def load_state_dict(self, state_dict: dict[str, Any], **options: Any) -> None:
        """By parameter name, where names were saved, and under the present options; ``options`` are the library's.

        Not by torch's hooks: bitsandbytes' loading calls none.

        Raises:
            ConfigError: it is another optimizer's.
        """
        memory = read_memory(state_dict, self.adam_rule)
        if isinstance(self.adam_rule, AdaptiveClip) and memory is not None:
            self.adam_rule.load_state_dict(memory)
        self.adam_schedule.remember_rates([group.get("lr") for group in state_dict["param_groups"]])
        if self.adam_reset:
            self._start_afresh()
        else:
            super().load_state_dict(matched(self, state_dict), **options)
        self._count(state_dict)

    def _count(self, state: Mapping[str, Any]) -> None:
        """The count of updates of a checkpoint without our schedule's: plain torch's, which has none of our names."""
        count = count_of(state) if not any(names_of(group) for group in state["param_groups"]) else None
        if count is not None:
            self.adam_schedule.load_state_dict({"updates": count})

    def _start_afresh(self) -> None:
        """Once: what is loaded later (a rollback's state) is this run's own."""
        self.adam_reset, self.adam_was_reset = False, True
        self.state.clear()
        kept = options_of(type(self))
        for group, fresh in zip(self.param_groups, self.adam_fresh, strict=False):
            for counter in [key for key in group if key not in kept]:
                del group[counter]
            group.update(copy.deepcopy(fresh))
        warnings.warn(
            "reset_optimizer=True: the optimizer's state starts afresh; the weights and the count of updates are the "
            "checkpoint's. Leave reset_optimizer out when you resume the next time.",
            LightningAdamWarning,
            stacklevel=3,
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        """For pickle and copy: the class is not found under its name, where the library's is, and is made again."""
        if type(self) is not guided_class(self.adam_kind):
            return super().__reduce_ex__(protocol)
        return _blank, (self.adam_kind,), self.__getstate__()

    def __getstate__(self) -> dict[str, Any]:
        """All but hooks; torch's keeps the groups and moments only, with which L-BFGS and most others cannot step."""
        return {name: value for name, value in vars(self).items() if not self._is_bound(name)}

    def _is_bound(self, name: str) -> bool:
        """Whether it belongs to this very object: a hook, or what replaces a method, as torch's schedulers do."""
        return name.endswith("_hooks") or callable(getattr(type(self), name, None))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """torch calls it to load a state dict, too: hooks that are there stay."""
        super().__setstate__(state)
        self.__dict__.setdefault("_before_clip_hooks", OrderedDict())


_MADE: dict[type[Optimizer], type[GuidedStep]] = {}


def guided_class(kind: type[Optimizer]) -> type[GuidedStep]:
    """The library's class with the helper's step before its own, always the same one.

    It has the library's name, so that LearningRateMonitor's tags, checkpoints and messages stay as they are.
    """
    if kind not in _MADE:
        _call_step_hooks(kind)
        named = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
        _MADE[kind] = type(
            kind.__name__, (GuidedStep, kind), {**named, "adam_kind": kind, "adam_repeats": repeats_closure(kind)}
        )
    return _MADE[kind]


def _call_step_hooks(kind: Any) -> None:
    """What torch does to a class when its first instance is made, which may be one of ours."""
    if not getattr(kind.step, "hooked", False):
        kind.step = Optimizer.profile_hook_step(kind.step)
        kind.step.hooked = True


def _blank(kind: type[Optimizer]) -> GuidedStep:
    """An optimizer whose state is still to be set."""
    made = guided_class(kind)
    return made.__new__(made)


def adopted(optimizer: Optimizer) -> GuidedStep:
    """The user's own optimizer with the helper's step before its own: it shares groups, state and hooks with it."""
    made = _blank(type(optimizer))
    bound = {name for name in vars(optimizer) if callable(getattr(type(optimizer), name, None))}
    made.__setstate__({name: value for name, value in vars(optimizer).items() if name not in bound})
    return made


def guide(
    optimizer: GuidedStep, clip: Clip | None, schedule: Schedule, order: Sequence[str] = (), reset: bool = False
) -> None:
    """Give it its clipping rule and its schedule.

    Args:
        optimizer: has not stepped yet.
        clip: the rule.
        schedule: of the optimizer.
        order: the parameters' names in the module's order, in which plain torch numbers them.
        reset: leave the next checkpoint's optimizer state aside.
    """
    optimizer.adam_rule, optimizer.adam_clip, optimizer.adam_schedule = clip, None, schedule
    optimizer.adam_order, optimizer.adam_reset = tuple(order), reset
    options = options_of(type(optimizer))
    counters = [{key: value for key, value in group.items() if key not in options} for group in optimizer.param_groups]
    optimizer.adam_fresh = copy.deepcopy(counters)
    optimizer._before_clip_hooks = OrderedDict()


def _is_dry_run(optimizer: Optimizer) -> bool:
    """torch.distributed.checkpoint makes the state that it loads into by a step with rate 0 and zero gradients."""
    groups = optimizer.param_groups
    if optimizer.state or any(float(group["lr"]) != 0.0 for group in groups):
        return False
    return not any(bool(whole(p.grad.any())) for group in groups for p in group["params"] if p.grad is not None)


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
