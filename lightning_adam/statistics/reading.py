"""What one optimizer step left behind for each tensor: gradient, moments, learning rate, and the step itself."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_adam.moments import (
    Decay,
    Moments,
    decays,
    gradients_are_spoiled,
    learning_rates,
    plain,
    read_moments,
    read_steps,
    step_is_adam_formula,
)
from lightning_adam.parameter_groups import plain_name

UNSHRUNK = Decay(0.0, after=False, decoupled=True)


@dataclass(frozen=True)
class TensorReading:
    """One parameter tensor after a step; all tensors are real, dense, local and detached.

    Attributes:
        name: the parameter's name in the module.
        group: the name of its parameter group.
        parameter: θ after the step.
        gradient: g after unscaling and clipping, or None.
        moments: m, v, t and the betas, or None where the optimizer keeps none that we can read.
        lr: α, the rate that this step used, with the factor that the optimizer itself puts to the group's.
        eps: ε.
        decay: λ of its group.
        decoupled: whether the decay shrinks θ itself (α·λ·θ) or enters the gradient (λ·θ).
        before: a copy of θ before the step; None where the Adam formula tells the step exactly.
        shrunk: how decay shrank it, which is no part of the step.
        group_lr: learning rate of its group; None where it is α.
        offset: of a shard: how many of the whole tensor's elements, flat, lie before it.
        whole: of a shard: elements of the whole tensor (real numbers: two per complex one); None if this is all.
        counts: of a shard: whether this rank brings it in; of several replicas only the first does.
    """

    name: str
    group: str
    parameter: Tensor
    gradient: Tensor | None
    moments: Moments | None
    lr: float
    eps: float
    decay: float = 0.0
    decoupled: bool = True
    before: Tensor | None = None
    shrunk: Decay = UNSHRUNK
    group_lr: float | None = None
    offset: int = 0
    whole: int | None = None
    counts: bool = True

    @property
    def total(self) -> int:
        """Elements of the whole tensor."""
        return self.parameter.numel() if self.whole is None else self.whole


@dataclass(frozen=True)
class Before:
    """What is gone after a step, taken right before it; tensors by the parameter's identity.

    Attributes:
        parameters: copies of those whose step must be measured.
        gradients: copies of those that the step overwrites.
        numbers: of the first group, such as Prodigy's distance.
    """

    parameters: Mapping[int, Tensor]
    gradients: Mapping[int, Tensor]
    numbers: Mapping[str, float]


_Group = tuple[dict[str, Any], str, dict[str, Any]]
"""A parameter group, the name of its parameters that have none, and what its readings have in common."""


def tensor_names(named_parameters: Iterable[tuple[str, Tensor]]) -> dict[int, str]:
    """Names by the parameter's identity, without the prefixes that torch.compile and FSDP add."""
    return {id(parameter): plain_name(name) for name, parameter in named_parameters}


def copy_parameters(optimizer: Optimizer, only: Container[int] | None = None) -> Before | None:
    """Copies to measure the next step against, or None where the state tells the step exactly.

    The state tells the step of 32-bit weights; what 16-bit ones make of it, rounding decides.

    Args:
        optimizer: right before its step.
        only: identities of the parameters to be looked at; all by default.
    """
    placed = [(group, p) for group, p in _grouped_parameters(optimizer, only) if p.requires_grad]
    parameters = {
        id(p): plain(p.detach()).clone()
        for group, p in placed
        if p.element_size() < 4 or not step_is_adam_formula(optimizer, group)
    }
    return copy_gradients(optimizer, Before(parameters, {}, _numbers(optimizer)), only) if parameters else None


def copy_gradients(optimizer: Optimizer, before: Before, only: Container[int] | None = None) -> Before:
    """Copies of the gradients that the step will overwrite, taken when they are complete."""
    gradients = {
        id(p): plain(p.grad.detach()).clone()
        for group, p in _grouped_parameters(optimizer, only)
        if p.grad is not None and gradients_are_spoiled(optimizer, group, p)
    }
    return replace(before, gradients=gradients)


def _grouped_parameters(optimizer: Optimizer, only: Container[int] | None) -> Iterator[tuple[dict[str, Any], Tensor]]:
    for group in optimizer.param_groups:
        yield from ((group, p) for p in group["params"] if only is None or id(p) in only)


def _numbers(optimizer: Optimizer) -> dict[str, float]:
    first = optimizer.param_groups[0] if optimizer.param_groups else {}
    return {key: value for key, value in first.items() if isinstance(value, (int, float))}


def read_optimizer(
    optimizer: Optimizer,
    names: Mapping[int, str],
    before: Before | None = None,
    only: Container[int] | None = None,
    shards: Mapping[int, tuple[int, int]] | None = None,
) -> list[TensorReading]:
    """All tensors that the step just taken has moved, in model order (that of ``names``).

    Args:
        optimizer: read right after its step: later its learning rate is already the next one.
        names: from :func:`tensor_names`.
        before: from :func:`copy_parameters`, taken right before the step.
        only: identities of the parameters to be looked at; all by default.
        shards: from :func:`~lightning_adam.statistics.flat_shards` under FSDP1: then what other ranks hold is read too,
            as empty tensors, so that the rows of all ranks agree.
    """
    order = {name: index for index, name in enumerate(names.values())}
    known = map(_of_group, range(len(optimizer.param_groups)), optimizer.param_groups)
    steps, placed = read_steps(optimizer), _with_group(known, only)
    readings = _readings(optimizer, names, before or Before({}, {}, {}), placed, steps, shards or {})
    return sorted(readings, key=lambda reading: order.get(reading.name, len(order)))


def read_one_of_each_group(
    optimizer: Optimizer, parameters: Mapping[int, Tensor], steps: Mapping[int, int]
) -> list[TensorReading]:
    """As :func:`read_optimizer`, of one parameter per group, by the group's number.

    Args:
        optimizer: right after its step.
        parameters: that have a gradient, by the number of their group.
        steps: t by the parameter's identity.
    """
    placed = [(_of_group(number, optimizer.param_groups[number]), p) for number, p in parameters.items()]
    return list(_readings(optimizer, {}, Before({}, {}, {}), placed, steps, {}))


def _readings(
    optimizer: Optimizer,
    names: Mapping[int, str],
    before: Before,
    placed: Iterable[tuple[_Group, Tensor]],
    steps: Mapping[int, int],
    shards: Mapping[int, tuple[int, int]],
) -> Iterator[TensorReading]:
    rate, decay_of = learning_rates(optimizer, before.numbers), decays(optimizer, before.numbers)
    for (group, unnamed, same), parameter in placed:
        key, gradient = id(parameter), parameter.grad
        elsewhere = key in shards and parameter.numel() == 0
        if not elsewhere and (gradient is None or parameter.numel() == 0):
            continue
        moments = _none_of(optimizer, parameter) if elsewhere else read_moments(optimizer, group, parameter, steps.get(key))
        gradient = before.gradients.get(key, parameter if gradient is None else gradient)
        copy = before.parameters.get(key)
        decay = decay_of(group, parameter, copy)
        offset, whole, counts = (*shards[key], True) if key in shards else _shard(parameter)
        yield TensorReading(
            name=names.get(key, unnamed),
            parameter=_real(parameter.detach()),
            gradient=_real(gradient.detach() if gradient.requires_grad else gradient),
            moments=moments,
            lr=rate(group, parameter),
            before=None if copy is None else _real(copy),
            shrunk=decay,
            decoupled=decay.decoupled,
            offset=offset,
            whole=whole,
            counts=counts,
            **same,
        )


def _of_group(index: int, group: dict[str, Any]) -> _Group:
    same = {
        "group": str(group.get("name", f"pg{index + 1}")),
        "eps": _eps(group),
        "decay": float(group.get("weight_decay") or 0.0),
        "group_lr": float(group["lr"]),
    }
    return group, f"group{index}.parameter", same


def _with_group(known: Iterable[_Group], only: Container[int] | None) -> Iterator[tuple[_Group, Tensor]]:
    for of in known:
        yield from ((of, p) for p in of[0]["params"] if only is None or id(p) in only)


def _none_of(optimizer: Optimizer, parameter: Tensor) -> Moments | None:
    """No elements of moments that other ranks hold, with the step and betas that a tensor of this rank has."""
    nothing = _real(parameter.detach())
    for group, other in _grouped_parameters(optimizer, None):
        moments = read_moments(optimizer, group, other) if other.numel() else None
        if moments is not None:
            first, second = (None if m is None else nothing for m in (moments.stored_first, moments.stored_second))
            return replace(moments, stored_first=first, stored_second=second, stored_denominator=second)
    return None


def _shard(parameter: Any) -> tuple[int, int | None, bool]:
    """Offset, whole size and whether it counts; shards lie one after the other, by the first dimension that is cut."""
    if type(parameter) is torch.nn.Parameter or not hasattr(parameter, "placements"):
        return 0, None, True
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    mesh, placements, shape = parameter.device_mesh, parameter.placements, parameter.shape
    local, begins = compute_local_shape_and_global_offset(shape, mesh, placements)
    offset = sum(math.prod(local[:d]) * begins[d] * math.prod(shape[d + 1 :]) for d in range(len(shape)))
    where = mesh.get_coordinate() or [0] * mesh.ndim
    counts = all(at == 0 for at, placement in zip(where, placements, strict=True) if not placement.is_shard())
    numbers = 2 if parameter.is_complex() else 1
    return offset * numbers, parameter.numel() * numbers, counts


def _eps(group: Mapping[str, Any]) -> float:
    """Adafactor has two, of which neither is added to √v̂."""
    eps = group.get("eps")
    return float(eps) if isinstance(eps, (int, float)) else 0.0


def _real(tensor: Tensor) -> Tensor:
    """Local, dense and real."""
    local = plain(tensor)
    dense = local.to_dense() if local.is_sparse else local
    return torch.view_as_real(dense) if dense.is_complex() else dense
