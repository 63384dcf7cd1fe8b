"""Raw rows: what one pass over a tensor adds up, before anything is divided or rooted.

A row is additive over pieces of the tensor (sums and samples by +, maxima by max), so that blocks, threads and the shards
of several ranks combine alike. :mod:`lightning_adam.statistics.finalise` makes the table's columns of it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_adam.statistics.quantities import BINS

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
"""With Σ|Δθ|² and the number of lost updates. NaN: not to be had."""

KERNEL_MAXIMA = ("first_max", "second_max", "minus_second_max", "ratio_max")
MAXIMA = (*KERNEL_MAXIMA, "step_max")
"""Of |m|, v, -v, |m̂|/(√v̂+ε) and |Δθ|. Whether a NaN was among them, the sums tell: MAX over ranks may lose it."""

HOST = "cpu"

BUDGET, FEWEST, MOST = 1 << 17, 512, 4096


@dataclass(frozen=True)
class Sampling:
    """Which elements of each tensor stand for it in the quantiles and histograms of effective learning rates and steps.

    All of them up to 4,096 elements, while the model has at most 32 tensors; of more tensors 2¹⁷ in all, at least 512 of
    each. A larger tensor gives between half of that and all. The choice depends on the whole tensors' sizes only: shards
    together choose what the whole does.

    Attributes:
        totals: elements of each tensor.
        strides: elements per sampled element.
        sizes: sampled elements.
        begins: where each tensor's part of the sample begins, int64 [n_tensors + 1].
    """

    totals: NDArray[np.int64]
    strides: NDArray[np.int64]
    sizes: NDArray[np.int64]
    begins: NDArray[np.int64]

    @classmethod
    def of_sizes(cls, totals: Sequence[int] | NDArray[np.int64]) -> Sampling:
        """For tensors of so many elements."""
        return _sampling(tuple(np.asarray(totals).tolist()))

    def positions(self, index: int) -> NDArray[np.int64]:
        """Flat indices of the sampled elements in the whole tensor, ascending: one per cell of ``stride`` elements.

        Where in its cell, the golden-ratio sequence says (Knuth, TAOCP 3, 6.4): a fixed place would meet the same columns
        of a matrix again and again.
        """
        return place(np.arange(self.sizes[index]), self.strides[index])

    def first_cells(self, rows: NDArray[np.int64], begins: NDArray[np.int64]) -> NDArray[np.int64]:
        """For each of some rows the first sampled element that lies at ``begins`` or after it."""
        strides = self.strides[rows]
        cells = begins // strides
        found: NDArray[np.int64] = np.minimum(cells + (place(cells, strides) < begins), self.sizes[rows])
        return found

    def part(self, index: int) -> slice:
        """Where a tensor's part of the sample lies."""
        return slice(int(self.begins[index]), int(self.begins[index + 1]))

    def weights(self) -> NDArray[np.float64]:
        """Elements that each sampled one stands for, float64 [n_tensors]."""
        return self.totals / np.maximum(1, self.sizes)


def place(cells: NDArray[np.int64], strides: NDArray[np.int64] | np.int64) -> NDArray[np.int64]:
    """Where in the whole tensor the sampled elements of some cells lie, as :meth:`Sampling.positions` says."""
    places: NDArray[np.int64] = cells * strides + (((cells * 2654435761) & 0xFFFFFFFF) * strides >> 32)
    return places


@functools.lru_cache(maxsize=16)
def _sampling(sizes: tuple[int, ...]) -> Sampling:
    """A model's tensors keep their sizes from step to step."""
    totals = np.array(sizes, dtype=np.int64)
    usual = min(max(BUDGET // max(1, len(totals)), FEWEST), MOST)
    strides = np.maximum(1, -(-totals // usual))
    strides = 1 << np.ceil(np.log2(strides)).astype(np.int64)
    sampled = totals // strides
    return Sampling(totals, strides, sampled, np.concatenate([[0], np.cumsum(sampled)]))


@dataclass(frozen=True)
class RawTable:
    """The raw rows of all tensors on one device. To combine shards: MAX over ``maxima``, SUM over the rest.

    Attributes:
        sums: [n_tensors, len(SUMS)], float64 (float32 on MPS).
        maxima: [n_tensors, len(MAXIMA)], of the same dtype.
        counts: [2, BINS], of the same dtype: histograms of step size and effective learning rate over all that counts.
        sample: float32, the sampled α/(√v̂+ε) of one tensor after the other; 0 at places that other shards hold.
    """

    sums: Tensor
    maxima: Tensor
    counts: Tensor
    sample: Tensor

    def on_host(self, extra_scalars: Mapping[str, Tensor | float]) -> tuple[RawTable, dict[str, float]]:
        """The same on the CPU, and numbers that travel with it, by one read.

        Args:
            extra_scalars: by name; tensors without dimensions.
        """
        if self.sums.device.type == HOST:
            return self, {name: float(number) for name, number in extra_scalars.items()}
        along = {
            name: n.detach() for name, n in extra_scalars.items() if isinstance(n, Tensor) and n.device == self.sums.device
        }
        some = [number.to(self.sums.dtype) for number in along.values()]
        numbers = torch.stack(some) if some else self.sums.new_empty(0)
        *table, read = read_at_once((self.sums, self.maxima, self.counts, self.sample, numbers))
        found = dict(zip(along, read.tolist(), strict=True))
        return RawTable(*table), {name: found[name] if name in found else float(n) for name, n in extra_scalars.items()}


def read_at_once(parts: Sequence[Tensor]) -> list[Tensor]:
    """On the CPU, tensors of one device and of any dtypes, by one copy."""
    packed = torch.cat([part.flatten().view(torch.uint8) for part in parts]).cpu()
    pieces = torch.split(packed, [part.numel() * part.element_size() for part in parts])
    return [piece.clone().view(part.dtype).view(part.shape) for piece, part in zip(pieces, parts, strict=True)]


def empty_table(sampling: Sampling, device: torch.device) -> RawTable:
    """To be filled: sums that are zero, maxima of nothing."""
    n_tensors, wide = len(sampling.totals), wide_dtype(device)
    return RawTable(
        torch.zeros(n_tensors, len(SUMS), dtype=wide, device=device),
        torch.full((n_tensors, len(MAXIMA)), -math.inf, dtype=wide, device=device),
        torch.zeros(2, BINS, dtype=wide, device=device),
        torch.zeros(int(sampling.begins[-1]), dtype=torch.float32, device=device),
    )


def wide_dtype(device: torch.device) -> torch.dtype:
    """What sums run in: MPS has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def bias_scales(beta: NDArray[np.float64], step: NDArray[np.float64]) -> NDArray[np.float64]:
    """1/(1-βᵗ), Adam's bias correction; infinite where β is 1."""
    with np.errstate(divide="ignore"):
        scales: NDArray[np.float64] = 1.0 / (1.0 - beta**step)
    return scales
