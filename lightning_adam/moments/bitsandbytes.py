"""bitsandbytes' blockwise 8-bit states (Dettmers et al. 2022, arXiv:2110.02861)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_adam.moments.packed import Blockwise
from lightning_adam.moments.slot import Moments, Slot

BLOCK_SIZES = (256, 2048, 4096, 512, 1024, 128, 64)
"""Those of its optimizers first: 256 today, 2,048 up to version 0.44."""


def pair(slot: Slot) -> Moments:
    """Adam's m and v; AdEMAMix stacks its two first moments, of which the fast one is m."""
    first, second = _moment(slot, 1), _moment(slot, 2)
    return Moments(first, second, second, slot.step, slot.beta1, slot.beta2)


def single(slot: Slot) -> Moments:
    """Lion's m, an average with β₂ (Chen et al. 2023, arXiv:2302.06675, program 1); momentum's sum; RMSprop's v."""
    moment, kind = _moment(slot, 1), getattr(slot.optimizer, "optimizer_name", "")
    if kind == "lion":
        return Moments(moment, None, None, slot.step, slot.beta2, 0.0)
    if kind in ("momentum", "lars"):
        average = (moment.unpacked() if isinstance(moment, Blockwise) else moment) * (1 - slot.beta1)
        return Moments(average, None, None, slot.step, 0.0, 0.0)
    return Moments(None, moment, moment, slot.step, 0.0, 0.0)


def _moment(slot: Slot, which: int) -> Tensor | Blockwise:
    """Of the parameter's shape; tensors under 4,096 elements are kept in 32 bit."""
    stored, absmax = slot.tensor(f"state{which}"), slot.state.get(f"absmax{which}")
    if stored.dim() > slot.parameter.dim():
        stored, absmax = stored[0], None if absmax is None else absmax[0]
    if stored.dtype != torch.uint8 or absmax is None:
        return stored
    return Blockwise(stored.contiguous(), slot.state[f"qmap{which}"], absmax, block_size(stored.numel(), absmax.numel()))


def block_size(elements: int, blocks: int) -> int:
    """The block size that cuts so many elements into so many blocks.

    Example:
        >>> block_size(6144, 24)
        256
    """
    return next(size for size in BLOCK_SIZES if math.ceil(elements / size) == blocks)
