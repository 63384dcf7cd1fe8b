"""Norms of gradients and parameters, wherever they are: sparse, sharded, on several devices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_adam.gradient_norms import GradientNorms, each_of, measured_one_by_one, whole


def norms_of(tensors: Sequence[Tensor]) -> Tensor | None:
    """‖·‖ of each tensor, float32 [n] on the first one's device; None for no tensors."""
    dense = [t.coalesce().values() if t.is_sparse else t for t in tensors]
    if not dense:
        return None
    is_narrow = dense[0].element_size() < 4
    each = None if is_narrow else each_of(dense)
    return _stacked(torch._foreach_norm(dense, 2, torch.float32 if is_narrow else None)) if each is None else each.float()


def wide_norms_of(tensors: Sequence[Tensor]) -> Tensor | None:
    """The same with squares in float64: in float32 those of numbers under 1e-23 are 0, and those of over 2e19 infinite."""
    dense = [t.coalesce().values() if t.is_sparse else t for t in tensors]
    return _stacked(torch._foreach_norm(dense, 2, torch.float64)) if dense else None


def _stacked(norms: Sequence[Tensor]) -> Tensor:
    """In float32 on the first one's device."""
    found = [whole(norm) for norm in norms]
    on_one = len({n.device for n in found}) == 1
    return torch.stack(found if on_one else [n.to(found[0].device) for n in found]).detach().float()


def torchs_norms(gradients: Sequence[Tensor]) -> GradientNorms | None:
    """As ``torch.nn.utils.clip_grad_norm_`` measures them, to the last bit, so that whoever clips, the same is told.

    None where they are not plain and alike, or have 16 bits: then torch's norms have three digits, too.
    """
    return measured_one_by_one(gradients) if gradients and gradients[0].element_size() >= 4 else None


def moments_of(optimizer: Optimizer, parameter: Any) -> list[Tensor]:
    """What an optimizer keeps of one tensor, but for counts, whatever it calls it."""
    state = optimizer.state.get(parameter)
    values = state.values() if isinstance(state, Mapping) else ()
    return [value for value in values if isinstance(value, Tensor) and value.dim() > 0]


@torch.no_grad()
def are_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all elements of the plain ones among them are; those of a device and dtype are read together.

    By the largest |x| of each: it does not overflow, as a sum of squares may.
    """
    plain = [t.detach() for t in tensors if type(t) in (Tensor, nn.Parameter) and t.is_floating_point() and t.numel()]
    alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in plain:
        if tensor.layout is torch.strided and not tensor.is_meta:
            alike.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    return all(bool(torch.isfinite(torch.stack(torch._foreach_norm(several, math.inf))).all()) for several in alike.values())


def total_gradient_norm(optimizer: Optimizer, flat_shards: bool = False) -> Tensor:
    """‖g‖ over all gradients, sparse ones and those of all shards included, on their device; NaN where there is none."""
    if flat_shards:
        return _norm_over_ranks(optimizer)
    placed = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    gradients = [g.coalesce().values() if g.is_sparse else g for g in placed if g.numel()]
    if not gradients:
        return torch.full((), math.nan)
    return whole(torch.nn.utils.get_total_norm(gradients))


def _norm_over_ranks(optimizer: Optimizer) -> Tensor:
    """Of FSDP1's flat shards, which torch's norms do not know to be shards; one all-reduce."""
    placed = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = [p.grad for p in placed if p.grad is not None and p.grad.numel()]
    device = placed[0].device if placed else torch.device("cpu")
    norm = torch.nn.utils.get_total_norm(gradients).to(device) if gradients else torch.zeros((), device=device)
    squared = norm.float().square()
    torch.distributed.all_reduce(squared)
    return squared.sqrt()
