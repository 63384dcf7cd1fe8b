"""Raw rows: what one pass over a tensor adds up, before anything is divided or rooted.

A row is additive over pieces of the tensor (sums and samples by +, maxima by max), so that blocks, threads and the shards
of several ranks combine alike. :mod:`lightning_adam.statistics.finalise` makes the table's columns of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_adam.statistics.quantities import BINS
from lightning_adam.statistics.reading import TensorReading

KERNEL_SUMS = (
    "gradient_squared",
    "zero_gradient",
    "parameter_squared",
    "first_squared",
    "second",
    "alive",
    "ratio",
    "ratio_squared",
    "swamped",
    "surprise_squared",
)
"""Σg², #(g = 0), Σθ², Σm², Σv, #(v ≠ 0), Σ|m̂|/(√v̂+ε), its square, Σε/(√v̂+ε) over v ≠ 0, Σg²/max(v̂,ε²); m and v raw."""

SUMS = (*KERNEL_SUMS, "step_squared", "lost")
"""With Σ|Δθ|² and the number of lost updates; after them come the counts of both histograms. NaN: not to be had."""

KERNEL_MAXIMA = ("first_max", "second_max", "minus_second_max", "ratio_max")
MAXIMA = (*KERNEL_MAXIMA, "step_max")
"""Of |m|, v, -v, |m̂|/(√v̂+ε) and |Δθ|. Whether a NaN was among them, the sums tell: MAX over ranks may lose it."""

EXACT = 4096
"""Up to so many elements the sample is the whole tensor."""

LARGEST_SAMPLE = 16384


def sample_stride(numel: int) -> int:
    """Elements per sampled element: 1 up to 4,096 elements; then 2,048 to 4,096 samples, and up to 16,384 from 4M on."""
    return max(1, -(-numel // min(max(EXACT, numel // 256), LARGEST_SAMPLE)))


def sample_size(numel: int) -> int:
    """How many elements of a tensor are sampled."""
    return numel // sample_stride(numel)


def sample_positions(numel: int, device: torch.device | str = "cpu") -> Tensor:
    """Flat indices of the sampled elements, int64, ascending; they depend on the whole tensor's size only.

    One per cell of ``sample_stride`` elements. Where in its cell, the golden-ratio sequence says (Knuth, TAOCP 3, 6.4):
    a fixed place would meet the same columns of a matrix again and again.
    """
    stride = sample_stride(numel)
    cells = torch.arange(sample_size(numel), device=device)
    return cells * stride + (((cells * 2654435761) & 0xFFFFFFFF) * stride >> 32)


@dataclass(frozen=True)
class RawTable:
    """The raw rows of all tensors on one device. To combine shards: SUM over ``sums`` and ``sample``, MAX over ``maxima``.

    Attributes:
        sums: [n_tensors, len(SUMS) + 2·BINS], float64 (float32 on MPS): SUMS, then the histograms of step size and
            effective learning rate.
        maxima: [n_tensors, len(MAXIMA)], of the same dtype.
        sample: float32, the sampled α/(√v̂+ε) of one tensor after the other; 0 at places that other shards hold.
    """

    sums: Tensor
    maxima: Tensor
    sample: Tensor

    def on_host(self) -> RawTable:
        """The same on the CPU, by one read."""
        parts = (self.sums, self.maxima, self.sample)
        if self.sums.device.type == "cpu":
            return self
        packed = torch.cat([part.flatten().view(torch.uint8) for part in parts]).cpu()
        pieces = packed.split([part.numel() * part.element_size() for part in parts])
        return RawTable(
            *(piece.clone().view(part.dtype).view(part.shape) for piece, part in zip(pieces, parts, strict=True))
        )


def empty_table(readings: Sequence[TensorReading], device: torch.device) -> RawTable:
    """Rows to be filled: nothing measured yet."""
    wide = wide_dtype(device)
    sums = torch.full((len(readings), len(SUMS) + 2 * BINS), math.nan, dtype=wide, device=device)
    maxima = torch.full((len(readings), len(MAXIMA)), -math.inf, dtype=wide, device=device)
    return RawTable(sums, maxima, torch.zeros(int(sample_begins(readings)[-1]), device=device))


def sample_begins(readings: Sequence[TensorReading]) -> NDArray[np.int64]:
    """Where each tensor's part of the sample begins, int64 [n_tensors + 1]."""
    return np.cumsum([0, *(sample_size(reading.total) for reading in readings)], dtype=np.int64)


def wide_dtype(device: torch.device) -> torch.dtype:
    """What sums run in: MPS has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def bias_scale(beta: float, step: int) -> float:
    """1/(1-βᵗ), Adam's bias correction."""
    gap = 1.0 - beta**step
    return 1.0 / gap if gap else math.inf
