"""The Hessian estimate that Sophia steps with (Liu et al. 2023, arXiv:2305.14342, algorithm 1)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_adam.errors import ConfigError


def takes_hessian(optimizer: Any) -> bool:
    """Whether its step takes an estimate: Sophia's and AdaHessian's."""
    kind: Any = getattr(optimizer, "adam_kind", None) or type(optimizer)
    return "hessian" in _arguments_of_step(kind)


@functools.cache
def _arguments_of_step(kind: Any) -> frozenset[str]:
    return frozenset(inspect.signature(kind.step).parameters)


def hessian_is_due(optimizer: Any) -> bool:
    """Whether the next step wants a new estimate: the first one, and every ``update_period``-th."""
    return int(optimizer.param_groups[0].get("step", 0)) % int(optimizer.update_period) == 0


def estimate_hessian(optimizer: Any, loss: Tensor, scale: float = 1.0) -> list[Tensor]:
    """Hutchinson's estimate z·(Hz) of the Hessian's diagonal, z from N(0, I): one tensor per parameter (section 2.3).

    Call it before ``loss.backward()``, and hand it to ``optimizer.step(hessian=...)``; in Lightning the helper does.

    Args:
        optimizer: whose parameters.
        loss: with its graph; the graph is kept for ``backward``.
        scale: what the loss was multiplied by.

    Returns:
        One estimate per parameter; none at all where the loss depends on no parameter, as that of another optimizer which
        is stepped by hand.

    Raises:
        RuntimeError: an operation of the model has no second derivative.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    try:
        gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
        if all(g is None for g in gradients):
            return []
        used = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None and g.requires_grad]
        noise = [torch.randn_like(p) for p, _ in used]
        products = torch.autograd.grad(
            [g for _, g in used], [p for p, _ in used], noise, retain_graph=True, allow_unused=True
        )
    except RuntimeError as error:
        raise RuntimeError(
            f"Sophia needs second derivatives, and the model has none ({error}). Attention: run it under "
            "torch.nn.attention.sdpa_kernel(SDPBackend.MATH)."
        ) from error
    estimates = {id(p): z * h for (p, _), z, h in zip(used, noise, products, strict=True) if h is not None}
    return [estimates.get(id(p), torch.zeros_like(p)).detach() / scale for p in parameters]


def prepare_step(optimizer: Any, loss: Tensor, scale: float = 1.0) -> None:
    """Give the next ``optimizer.step()`` its Hessian estimate, if one is due; in Lightning the helper does so itself.

    Call it before ``loss.backward()``, on the helper's optimizer or on Fabric's or Accelerate's wrapper of it::

        prepare_step(optimizer, loss)
        loss.backward()
        optimizer.step()

    Args:
        optimizer: Sophia or AdaHessian, made by ``la.configure_optimizers``.
        loss: with its graph.
        scale: what the loss was multiplied by.

    Raises:
        RuntimeError: an operation of the model has no second derivative.
    """
    inner = getattr(optimizer, "optimizer", optimizer)
    if hessian_is_due(inner) and "adam_arguments" not in vars(inner):  # a step takes them away: one estimate for each
        estimates = estimate_hessian(inner, loss, scale)
        if estimates:
            inner.adam_arguments = {"hessian": estimates}


def refuse_missing_estimate(optimizer: Any, arguments: Mapping[str, Any]) -> None:
    """Without an estimate the step would differentiate the gradients: they need a graph of their own.

    Raises:
        ConfigError: an estimate is due, and there is neither one nor ``backward(create_graph=True)``.
    """
    if arguments or not takes_hessian(optimizer) or not hessian_is_due(optimizer):
        return
    if not any(p.grad is not None and p.grad.requires_grad for group in optimizer.param_groups for p in group["params"]):
        raise ConfigError(
            f"{type(optimizer).__name__} needs a Hessian estimate every {optimizer.update_period} steps: before "
            "loss.backward() call lightning_adam.optimizers.sophia.prepare_step(optimizer, loss). In Lightning's automatic "
            "optimization the helper does."
        )
