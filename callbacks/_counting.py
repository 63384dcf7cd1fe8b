"""What clipping and the GradScaler did, counted where it happens: on the device, until a logged step asks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_adam.statistics import log10

Number = Tensor | float


class StepCounts:
    """Steps that clipping changed and steps that the scaler skipped, by the optimizer's prefix (``"adam"``)."""

    def __init__(self) -> None:
        self._clipped: dict[str, Number] = {}
        self._skipped: dict[str, Number] = {}

    def expect_skips(self, prefix: str) -> None:
        """A scaler is there: none skipped so far is a number too."""
        self._skipped.setdefault(prefix, 0)

    def add_skips(self, prefix: str, number: Number) -> None:
        """That many were attempted and did not happen."""
        self._skipped[prefix] = self._skipped.get(prefix, 0) + number

    def after_step(self, prefix: str, optimizer: Optimizer) -> None:
        """Adds on the device: a host read at every step would stall a GPU."""
        record = getattr(optimizer, "adam_clip", None)
        if record is not None:
            self._clipped[prefix] = self._clipped.get(prefix, 0) + record.clipped.detach().to(torch.int64)
        found = getattr(optimizer, "found_inf", None)
        if isinstance(found, Tensor):  # a fused optimizer is called, and leaves the weights alone by itself
            self.add_skips(prefix, (found.detach() > 0).to(torch.int64).sum())

    def totals(self, prefix: str) -> dict[str, Number]:
        """By tag; only what there is."""
        found = {f"{prefix}/clipped_steps_total": self._clipped, f"{prefix}.amp/skipped_steps_total": self._skipped}
        return {tag: counts[prefix] for tag, counts in found.items() if prefix in counts}

    def state_dict(self) -> dict[str, dict[str, int]]:
        """As plain numbers."""
        named = {"clipped": self._clipped, "skipped": self._skipped}
        return {name: {prefix: int(count) for prefix, count in counts.items()} for name, counts in named.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting."""
        self._clipped, self._skipped = dict(state["clipped"]), dict(state.get("skipped", {}))


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
