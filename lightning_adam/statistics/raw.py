"""Raw rows: what one pass over a tensor adds up, before anything is divided or rooted.

A row is additive over pieces of the tensor (sums and samples by +, maxima by max), so that blocks, threads and the shards
of several ranks combine alike. :mod:`lightning_adam.statistics.finalise` makes the table's columns of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_adam.statistics.quantities import BINS, MAXIMA, SUMS
from lightning_adam.statistics.sampling import Sampling

HOST = "cpu"


@dataclass(frozen=True)
class RawTable:
    """The raw rows of all tensors on one device. To combine shards: MAX over ``maxima``, SUM over the rest.

    Attributes:
        sums: [n_tensors, len(SUMS)], float64 (float32 on MPS); NaN: not to be had.
        maxima: [n_tensors, len(MAXIMA)], of the same dtype. Whether a NaN was among the elements, the sums tell: MAX over
            ranks may lose it.
        counts: int32 [n_tensors, 2, BINS], of each tensor's sampled elements: histograms of step size and effective rate.
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
        torch.zeros(n_tensors, 2, BINS, dtype=torch.int32, device=device),
        torch.zeros(int(sampling.begins[-1]), dtype=torch.float32, device=device),
    )


def wide_dtype(device: torch.device) -> torch.dtype:
    """What sums run in: MPS has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64
