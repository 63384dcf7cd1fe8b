"""Numbers that all ranks must have alike, lest their replicas step differently and drift apart without a word."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def from_first_rank(value: float, device: torch.device) -> float:
    """Rank 0's value."""
    if not has_ranks():
        return value
    shared = torch.tensor(value, device=device)
    distributed.broadcast(shared, src=0)
    return float(shared)


def mean_over_ranks(value: Tensor | float, device: torch.device) -> Tensor | float:
    """The mean of all ranks' values, the same bits on each; the value itself where there is one process."""
    if not has_ranks():
        return value
    total = torch.as_tensor(value, device=device).detach().to(torch.float64, copy=True)
    distributed.all_reduce(total)
    return total / distributed.get_world_size()


def has_ranks() -> bool:
    """Whether torch.distributed is in use."""
    return distributed.is_available() and distributed.is_initialized()
