"""The Hessian estimate that Sophia steps with (Liu et al. 2023, arXiv:2305.14342, algorithm 1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


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

    Raises:
        RuntimeError: an operation of the model has no second derivative.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    try:
        gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
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
