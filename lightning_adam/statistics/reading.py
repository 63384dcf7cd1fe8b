"""What one optimizer step left behind for each tensor: gradient, moments, learning rate, and the step itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_adam.moments import Moments, decay_is_decoupled, read_moments, step_is_adam_formula
from lightning_adam.parameter_groups import plain_name


@dataclass(frozen=True)
class TensorReading:
    """One parameter tensor after a step; all tensors are real, dense and detached.

    Attributes:
        name: the parameter's name in the module.
        group: the name of its parameter group.
        parameter: θ after the step.
        gradient: g after unscaling and clipping, or None.
        moments: m, v, t and the betas, or None where the optimizer keeps none.
        lr: α, the learning rate that this step used.
        eps: ε.
        measured_step: Δθ without decoupled decay, measured from a copy; None where the Adam formula is exact.
        decay: λ of its group.
        decoupled: whether the decay shrinks θ itself (α·λ·θ) or enters the gradient (λ·θ).
        lost: share of elements that should have moved and did not, of 16-bit weights; else None.
    """

    name: str
    group: str
    parameter: Tensor
    gradient: Tensor | None
    moments: Moments | None
    lr: float
    eps: float
    measured_step: Tensor | None
    decay: float = 0.0
    decoupled: bool = True
    lost: Tensor | None = None


def tensor_names(named_parameters: Iterable[tuple[str, Tensor]]) -> dict[int, str]:
    """Names by the parameter's identity, without the prefixes that torch.compile and FSDP add."""
    return {id(parameter): plain_name(name) for name, parameter in named_parameters}


def copy_parameters(optimizer: Optimizer) -> dict[int, Tensor] | None:
    """Copies to measure the next step against, or None where the state tells the step exactly.

    The state tells the step of 32-bit weights; what 16-bit ones make of it, rounding decides.
    """
    exact = step_is_adam_formula(optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    return {id(p): p.detach().clone() for p in parameters if not exact or p.element_size() < 4} or None


def read_optimizer(
    optimizer: Optimizer, names: Mapping[int, str], before: Mapping[int, Tensor] | None = None
) -> list[TensorReading]:
    """All tensors that the step just taken has moved, in model order (that of ``names``).

    Args:
        optimizer: read right after its step: later its learning rate is already the next one.
        names: from :func:`tensor_names`.
        before: from :func:`copy_parameters`, taken right before the step.
    """
    order = {name: index for index, name in enumerate(names.values())}
    return sorted(_readings(optimizer, names, before or {}), key=lambda reading: order.get(reading.name, len(order)))


def _readings(optimizer: Optimizer, names: Mapping[int, str], before: Mapping[int, Tensor]) -> Iterator[TensorReading]:
    for index, group in enumerate(optimizer.param_groups):
        for parameter in group["params"]:
            if parameter.grad is None or parameter.numel() == 0:
                continue
            copy = before.get(id(parameter))
            moments = read_moments(optimizer, group, parameter)
            yield TensorReading(
                name=names.get(id(parameter), f"group{index}.parameter"),
                group=str(group.get("name", f"pg{index + 1}")),
                parameter=_real(parameter.detach()),
                gradient=_real(parameter.grad.detach()),
                moments=moments,
                lr=float(group["lr"]),
                eps=_eps(group),
                measured_step=None if copy is None else _measured(optimizer, group, parameter, copy),
                decay=float(group.get("weight_decay") or 0.0),
                decoupled=decay_is_decoupled(optimizer, group),
                lost=_lost(parameter, copy, moments) if copy is not None and parameter.element_size() < 4 else None,
            )


def _eps(group: Mapping[str, Any]) -> float:
    """ε as a number; Adafactor has two, neither of them this one."""
    eps = group.get("eps")
    return float(eps) if isinstance(eps, (int, float)) else 0.0


def _measured(optimizer: Optimizer, group: Mapping[str, Any], parameter: Tensor, before: Tensor) -> Tensor:
    decay = float(group["lr"]) * float(group.get("weight_decay") or 0.0)
    kept = 1.0 - decay if decay_is_decoupled(optimizer, group) else 1.0
    return _real(parameter.detach()).float() - _real(before).float() * kept


def _lost(parameter: Tensor, before: Tensor, moments: Moments | None) -> Tensor:
    """A step under half the spacing of the weight's dtype is rounded away."""
    wanted = parameter.grad if moments is None else moments.first
    return ((parameter.detach() == before) & (wanted != 0)).float().mean()


def _real(tensor: Tensor) -> Tensor:
    dense = tensor.to_dense() if tensor.is_sparse else tensor
    return torch.view_as_real(dense) if dense.is_complex() else dense
