"""What state an optimizer makes under its present configuration: what a checkpoint's state is compared with."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Mapping
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

    One parameter of each shape in each group takes a step with zero gradients, as a copy under a copy of the optimizer:
    what an optimizer keeps depends on its options and on the shape, and only its own step knows how.
    """
    if isinstance(optimizer, LBFGS):  # one history for all parameters, and no step without a closure
        return None
    copies: dict[Kind, Tensor] = {}
    twin = _twin(optimizer, copies)
    devices = {p.device for p in copies.values() if p.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=list(devices)):
            twin.step(**_arguments(twin, list(copies.values())))
    except Exception:  # whatever a library's optimizer raises on zeros: then nothing is known
        return None
    groups = enumerate(optimizer.param_groups)
    return {p: twin.state[copies[_kind(index, p)]] for index, group in groups for p in group["params"]}


def _twin(optimizer: Any, copies: dict[Kind, Tensor]) -> Any:
    """The library's optimizer with the same settings, on ``copies``, which are made here."""
    groups = []
    for index, group in enumerate(optimizer.param_groups):
        first = {_kind(index, p): p for p in group["params"]}
        made = {kind: _with_zero_gradient(p) for kind, p in first.items()}
        copies.update(made)
        groups.append({**group, "params": list(made.values())})
    kind: type[Optimizer] = optimizer.adam_kind
    twin = kind.__new__(kind)
    twin.__setstate__({**optimizer.__getstate__(), "param_groups": groups, "state": defaultdict(dict)})
    return twin


def _kind(group: int, parameter: Tensor) -> Kind:
    return group, parameter.shape, parameter.dtype, parameter.device


def _with_zero_gradient(parameter: Tensor) -> Tensor:
    copied = parameter.detach().clone().requires_grad_(parameter.requires_grad)
    copied.grad = torch.zeros_like(copied)
    return copied


def _arguments(twin: Any, parameters: list[Tensor]) -> dict[str, Any]:
    """Sophia would differentiate for its Hessian estimate."""
    takes_hessian = "hessian" in inspect.signature(type(twin).step).parameters
    return {"hessian": [torch.zeros_like(p) for p in parameters]} if takes_hessian else {}


def unwrapped(state: State) -> dict[str, Any]:
    """A parameter's saved state with bitsandbytes' tensors among the others."""
    return {**{key: value for key, value in state.items() if key != _QUANTISED}, **state.get(_QUANTISED, {})}


def completed(saved: State, fresh: State) -> dict[str, Any] | None:
    """The saved state with what ``fresh`` has more, where that begins at zero, and without what it has not.

    None where the two do not belong together.
    """
    missing = {key: value for key, value in fresh.items() if key not in saved}
    fits = all(_alike(saved[key], value) for key, value in fresh.items() if key in saved)
    if not fits or not all(value is None or _is_zero(value) for value in missing.values()):
        return None
    kept = {key: value for key, value in saved.items() if key in fresh or key == COMPANIONS_OWN}
    return {**kept, **{key: _copy(value) for key, value in missing.items()}}


def is_like(saved: State, fresh: State) -> bool:
    """Whether the two have the same entries of the same shapes."""
    return saved.keys() - {COMPANIONS_OWN} == fresh.keys() and all(_alike(saved[key], fresh[key]) for key in fresh)


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and one.is_floating_point() == other.is_floating_point()
    scalars = [not isinstance(value, Tensor) or value.numel() == 1 for value in (one, other)]
    return one is None or other is None or all(scalars)


def _is_zero(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and not bool(value.detach().abs().sum() != 0)


def _copy(value: Any) -> Any:
    """A twin's parameter may stand for many."""
    return value.detach().clone() if isinstance(value, Tensor) else value
