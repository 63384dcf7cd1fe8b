"""Moments that take less room than a number per element, as the optimizer keeps them; and what they stand for.

The compiled pass reads them as they are: unpacked, they would be written and read once more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor


class Packed(ABC):
    """A moment that is not kept as a tensor of its parameter's shape."""

    @abstractmethod
    def unpacked(self) -> Tensor:
        """float32, in the shape of the parameter."""


@dataclass(frozen=True)
class Blockwise(Packed):
    """bitsandbytes' 8-bit numbers (Dettmers et al. 2022, arXiv:2110.02861, section 2).

    Attributes:
        codes: uint8, shape of the parameter, contiguous.
        table: what each code stands for, float32 [256].
        scales: the largest number of each block, float32 [n_blocks].
        block: elements of a block.
    """

    codes: Tensor
    table: Tensor
    scales: Tensor
    block: int

    def unpacked(self) -> Tensor:
        """By the library's own function."""
        from bitsandbytes.functional import dequantize_blockwise  # type: ignore[import-untyped,unused-ignore]

        restored: Tensor = dequantize_blockwise(self.codes, absmax=self.scales, code=self.table, blocksize=self.block)
        return restored


@dataclass(frozen=True)
class Outer(Packed):
    """The outer product of a column and a row, as of a factored second moment.

    Attributes:
        scales: float32 [..., n, 1].
        table: float32 [..., 1, m].
    """

    scales: Tensor
    table: Tensor

    def unpacked(self) -> Tensor:
        """[..., n, m]."""
        return self.scales * self.table
