"""The share of activations that a training step drops, read off its loss' autograd graph: modules, functions, masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_adam.preflight.nodes import can_be_read, nodes_behind

NODES, LOOKED_AT = 2000, 4096
"""Operations, and elements of one mask: enough to tell a share of 0.9 from one of 0.5."""
FEWEST = 64
"""Elements of a mask whose share of zeros says something."""
DOUBT = 0.05
"""By how much the share of zeros of a mask may differ from what its scale says."""


@torch.no_grad()
def largest_dropped_share(loss: Tensor) -> float:
    """The largest share that is dropped on the way to a loss; 0 where nothing is.

    Dropout multiplies by zeros and 1/(1-p) (Srivastava et al. 2014, JMLR 15, section 10, as "inverted"). On a GPU it is one
    operation that knows its share; on a CPU it is a product with a mask, and so is one that was written by hand.

    Args:
        loss: before its backward, which frees what the graph holds.
    """
    shares = (_dropped_by(node) for node in nodes_behind(loss, NODES))
    return max((share for share in shares if share is not None), default=0.0)


def _dropped_by(node: Any) -> float | None:
    name = node.name()
    if name.startswith("NativeDropoutBackward"):
        return float(node._saved_p)
    if not name.startswith("MulBackward") or not can_be_read(node):
        return None
    factors = (getattr(node, saved, None) for saved in ("_saved_other", "_saved_self"))  # a number is not saved
    mask = next((factor for factor in factors if _may_be_a_mask(factor)), None)
    return None if mask is None else _share_of(mask)


def _may_be_a_mask(factor: Any) -> bool:
    is_known = isinstance(factor, Tensor) and factor.is_floating_point() and not factor.requires_grad
    return is_known and factor.numel() >= FEWEST


def _share_of(mask: Tensor) -> float | None:
    """Of the zeros, where all else is one number that makes up for them."""
    values = mask.flatten()[:LOOKED_AT].float()
    kept = values[values != 0]
    if not len(kept) or not bool((kept == kept[0]).all()) or not float(kept[0]) > 1:
        return None
    share = 1 - 1 / float(kept[0])
    return share if abs(1 - len(kept) / len(values) - share) < DOUBT else None
