"""Tensors × steps, thinned out to what a screen can show."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_CELLS = 1 << 26
"""Numbers of one quantity that are held (256 MiB): of wider ones only the first tensors."""


@dataclass(frozen=True)
class Matrix:
    """One quantity of all tensors.

    Attributes:
        steps: int64 [n_steps], ascending.
        values: float32 [n_steps, n_tensors].
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float32]

    @classmethod
    def stack(cls, points: Iterable[tuple[int, NDArray[Any]]]) -> Matrix:
        """From (step, values) in any order. Of a step that was logged twice the later counts; short rows end in NaN."""
        latest = {int(step): values.reshape(-1) for step, values in points if values.dtype.kind in "fiu"}
        steps = np.array(sorted(latest), dtype=np.int64)
        width = min(max((len(row) for row in latest.values()), default=0), MOST_CELLS // max(1, len(steps)))
        values = np.full((len(steps), width), np.nan, dtype=np.float32)
        for index, step in enumerate(steps.tolist()):
            row = latest[step][:width]
            values[index, : len(row)] = row
        return cls(steps, values)

    def between(self, first: int | None, last: int | None) -> Matrix:
        """The logged steps from ``first`` to ``last``, with one more on either side: a cell reaches half-way to it."""
        low = 0 if first is None else max(0, int(np.searchsorted(self.steps, first)) - 1)
        high = len(self.steps) if last is None else int(np.searchsorted(self.steps, last, side="right")) + 1
        return Matrix(self.steps[low:high], self.values[low:high])


def tile(matrix: Matrix, columns: int) -> bytes:
    """At most ``columns`` columns, each the largest value of consecutive logged steps (NaN wins): a spike stays visible.

    Returns:
        uint32 length of the header; the header in JSON (``rows``, ``columns``, ``first`` and ``last`` step of each column)
        and spaces up to a multiple of four bytes; float32 [rows, columns]. All little-endian. JSON could not carry NaN.
    """
    logged, rows = matrix.values.shape
    starts = np.unique(np.linspace(0, logged, min(columns, logged), endpoint=False).astype(np.int64))
    values = np.maximum.reduceat(matrix.values, starts, axis=0) if logged else matrix.values
    ends = np.append(starts[1:], logged) - 1 if logged else starts
    header = json.dumps(
        {
            "rows": rows,
            "columns": len(starts),
            "first": matrix.steps[starts].tolist(),
            "last": matrix.steps[ends].tolist(),
        }
    ).encode()
    header += b" " * (-len(header) % 4)
    return struct.pack("<I", len(header)) + header + np.ascontiguousarray(values.T, dtype="<f4").tobytes()
