"""The operations behind a loss, as autograd has recorded them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def nodes_behind(loss: Tensor, most: float = math.inf) -> Iterator[Any]:
    """Each once, the nearest first.

    Args:
        loss: before its backward, which frees what the graph holds.
        most: of them.
    """
    due: deque[Any] = deque([loss.grad_fn])
    seen: set[Any] = set()
    while due and len(seen) < most:
        node = due.popleft()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        due.extend(following for following, _ in node.next_functions)


def can_be_read(node: Any) -> bool:
    """Whether what the operation saved can be looked at without anybody noticing.

    ``torch.utils.checkpoint`` runs its region again for each look at what was saved there, BatchNorm and random numbers
    included; hooks of others (``torch.autograd.graph.saved_tensors_hooks``) may do anything. Where torch does not tell
    whether there are hooks, nothing is read.
    """
    saved = [getattr(node, name) for name in dir(node) if name.startswith("_raw_saved_")]
    tensors = [one for part in saved for one in (part if isinstance(part, (list, tuple)) else [part])]
    return all(getattr(tensor, "unpack_hook", can_be_read) is None for tensor in tensors)


def slope_to(loss: Tensor, values: Tensor) -> Tensor:
    """The derivative of the loss to values on its way; zeros where they are not."""
    if not loss.requires_grad or not values.requires_grad:
        return torch.zeros_like(values)
    (found,) = torch.autograd.grad(loss, [values], retain_graph=True, allow_unused=True)
    return torch.zeros_like(values) if found is None else found
