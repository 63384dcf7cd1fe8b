"""Numbers that all ranks must have alike, lest their replicas step differently and drift apart without a word."""

from __future__ import annotations

import torch
from torch import distributed


def from_first_rank(value: float, device: torch.device) -> float:
    """Rank 0's value."""
    if not has_ranks():
        return value
    shared = torch.tensor(value, device=device)
    distributed.broadcast(shared, src=0)
    return float(shared)


def mean_over_ranks(value: float, device: torch.device) -> float:
    """The mean of all ranks' values."""
    if not has_ranks():
        return value
    total = torch.tensor(value, device=device)
    distributed.all_reduce(total)
    return float(total) / distributed.get_world_size()


def has_ranks() -> bool:
    """Whether torch.distributed is in use."""
    return distributed.is_available() and distributed.is_initialized()
