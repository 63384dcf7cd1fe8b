"""Moments that take less room than a number per element, as the optimizer keeps them.

The compiled pass reads them as they are: unpacked, they would be written and read once more.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Blockwise:
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
        """float32, in the shape of the parameter, by the library's own function."""
        from bitsandbytes.functional import dequantize_blockwise  # type: ignore[import-untyped,unused-ignore]

        restored: Tensor = dequantize_blockwise(self.codes, absmax=self.scales, code=self.table, blocksize=self.block)
        return restored
