"""What clipping and the gradient scaler did, counted where it happens: on the device, until a logged step asks."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_adam.statistics import log10

Number = Tensor | float


class StepCounters:
    """Steps of one optimizer that clipping changed and that the scaler skipped.

    Attributes:
        clipped: None while nothing says whether clipping changed a step.
        skipped: None while there is no scaler.
    """

    def __init__(self, clipped: int | None = None, skipped: int | None = None) -> None:
        self.clipped: Number | None = clipped
        self.skipped: Number | None = skipped

    def expect_skips(self) -> None:
        """A scaler is there: none skipped so far is a number too."""
        self.skipped = 0 if self.skipped is None else self.skipped

    def add_skips(self, number: Number) -> None:
        """That many were attempted and did not happen."""
        self.skipped = (0 if self.skipped is None else self.skipped) + number

    def after_step(self, optimizer: Optimizer) -> None:
        """Adds on the device: a host read at every step would stall a GPU."""
        record = getattr(optimizer, "adam_clip", None)
        if record is not None:
            self.clipped = (0 if self.clipped is None else self.clipped) + _count(record.clipped)
        found = getattr(optimizer, "found_inf", None)
        if isinstance(found, Tensor):  # a fused optimizer is called, and leaves the weights alone by itself
            self.add_skips((found.detach() > 0).to(torch.int64).sum())

    def totals(self, prefix: str) -> dict[str, Number]:
        """By tag; only what there is."""
        found = {f"{prefix}/clipped_steps_total": self.clipped, f"{prefix}.amp/skipped_steps_total": self.skipped}
        return {tag: count for tag, count in found.items() if count is not None}


def _count(flag: Tensor) -> Number:
    """0 or 1; of a GPU's flag without waiting for it."""
    return int(flag) if flag.is_cpu else flag.detach().to(torch.int64)


def norms(prefix: str, optimizer: Optimizer, before: Number) -> dict[str, Number]:
    """Gradient norms of a step by tag, not yet as log10, and whether clipping changed it.

    Args:
        prefix: the optimizer's.
        optimizer: whose record of clipping says more, if the helper made it.
        before: the norm before clipping, if it did not.
    """
    record = getattr(optimizer, "adam_clip", None)
    if record is None:
        return {f"{prefix}/log10_gradient_norm": before}
    return {
        f"{prefix}/log10_gradient_norm": record.norm_before,
        f"{prefix}.clip/clipped": record.clipped,
        f"{prefix}.clip/log10_norm_after": record.norm_after,
    }


def as_scalars(numbers: Mapping[str, float]) -> dict[str, float]:
    """To be written: log10 where the tag says so; a norm after clipping that would have taken a second pass is left out."""
    scalars = {tag: log10(value) if "/log10_" in tag else value for tag, value in numbers.items()}
    return {tag: value for tag, value in scalars.items() if not (tag.endswith("_after") and math.isnan(numbers[tag]))}
