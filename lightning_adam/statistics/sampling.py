"""Which elements of a tensor stand for it where not all can be looked at."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BUDGET, FEWEST, MOST = 1 << 17, 512, 4096
FAR = np.int64(1 << 62)
"""Elements per sampled one where none is: more than a tensor has."""


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

    @classmethod
    def none(cls, totals: NDArray[np.int64]) -> Sampling:
        """For tensors of so many elements, none of which is wanted."""
        nothing = np.zeros(len(totals) + 1, dtype=np.int64)
        return cls(totals, np.full(len(totals), FAR), nothing[1:], nothing)

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
