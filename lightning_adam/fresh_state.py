"""What state an optimizer makes under its present configuration: what a checkpoint's state is compared with."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

COMPANIONS_OWN = "training_weights"
"""What a companion of schedule-free optimizers keeps in their state."""
_QUANTISED = "__bnb_optimizer_quant_state__"
"""Where bitsandbytes hides tensors of its state from FSDP."""

State = Mapping[str, Any]
Kind = tuple[int, torch.Size, torch.dtype, torch.device]


def fresh_states(optimizer: Any) -> dict[Tensor, dict[str, Any]] | None:
    """The state that each parameter would begin with; None where it cannot be known.

    A stand-in for each shape in each group takes a step with zero gradients, under a copy of the optimizer:
    what an optimizer keeps depends on its options and on the shape, and only its own step knows how.
    """
    if isinstance(optimizer, LBFGS):  # one history for all parameters, and no step without a closure
        return None
    stand_ins: dict[Kind, Tensor] = {}
    twin = _twin(optimizer, stand_ins)
    devices = {p.device for p in stand_ins.values() if p.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=list(devices)):
            twin.step(**_arguments(twin, list(stand_ins.values())))
    except Exception:  # whatever a library's optimizer raises on zeros: then nothing is known
        return None
    groups = enumerate(optimizer.param_groups)
    return {p: twin.state[stand_ins[_kind(index, p)]] for index, group in groups for p in group["params"]}


def _twin(optimizer: Any, stand_ins: dict[Kind, Tensor]) -> Any:
    """The library's optimizer with the same settings, on ``stand_ins``, which are made here."""
    groups = []
    for index, group in enumerate(optimizer.param_groups):
        first = {_kind(index, p): p for p in group["params"]}
        made = {kind: _stand_in(p) for kind, p in first.items()}
        stand_ins.update(made)
        groups.append({**group, "params": list(made.values())})
    kind: type[Optimizer] = optimizer.adam_kind
    twin = kind.__new__(kind)
    twin.__setstate__({**optimizer.__getstate__(), "param_groups": groups, "state": defaultdict(dict)})
    return twin


def _kind(group: int, parameter: Tensor) -> Kind:
    return group, parameter.shape, parameter.dtype, parameter.device


def _stand_in(parameter: Tensor) -> Tensor:
    """All ones: what an optimizer copies from the weights is told from what begins near zero."""
    stand_in = torch.ones_like(parameter.detach()).requires_grad_(parameter.requires_grad)
    stand_in.grad = torch.zeros_like(stand_in)
    return stand_in


def _arguments(twin: Any, parameters: list[Tensor]) -> dict[str, Any]:
    """Sophia would differentiate for its Hessian estimate."""
    takes_hessian = "hessian" in inspect.signature(type(twin).step).parameters
    return {"hessian": [torch.zeros_like(p) for p in parameters]} if takes_hessian else {}


def unwrapped(state: State) -> dict[str, Any]:
    """A parameter's saved state with bitsandbytes' tensors among the others."""
    return {**{key: value for key, value in state.items() if key != _QUANTISED}, **state.get(_QUANTISED, {})}


def completed(saved: State, fresh: State, options: Collection[str]) -> dict[str, Any] | None:
    """The saved state with what ``fresh`` has more, where that begins near zero, and without what it has not.

    ``options`` are no state, though SOAP keeps a copy of two there: they are the fresh ones. None where the two states do
    not belong together.
    """
    missing = {key: value for key, value in fresh.items() if key not in saved}
    fits = all(_alike(saved[key], value) for key, value in fresh.items() if key in saved)
    if not fits or not all(value is None or _begins_near_zero(value) for value in missing.values()):
        return None
    kept = {key: value for key, value in saved.items() if key in fresh or key == COMPANIONS_OWN}
    renewed = {key: fresh[key] for key in fresh if key in options and not isinstance(fresh[key], Tensor)}
    return {**kept, **renewed, **{key: _copy(value) for key, value in missing.items()}}


def is_like(saved: State, fresh: State) -> bool:
    """Whether the two have the same entries of the same shapes."""
    return saved.keys() - {COMPANIONS_OWN} == fresh.keys() and all(_alike(saved[key], fresh[key]) for key in fresh)


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and one.is_floating_point() == other.is_floating_point()
    scalars = [not isinstance(value, Tensor) or value.numel() == 1 for value in (one, other)]
    return one is None or other is None or all(scalars)


def _begins_near_zero(value: Any) -> bool:
    """AdaBelief adds ε at each step."""
    return isinstance(value, Tensor) and value.dim() > 0 and bool((value.detach().abs() < 1e-4).all())


def _copy(value: Any) -> Any:
    """A twin's parameter may stand for many."""
    return value.detach().clone() if isinstance(value, Tensor) else value
