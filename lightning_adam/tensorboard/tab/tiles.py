"""Tensors × steps, thinned out to what a screen can show."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_adam.tensorboard.names import ABSENT
from lightning_adam.tensorboard.reader import latest

MOST_CELLS = 1 << 26
"""Numbers of one quantity that are held (256 MiB): of wider ones only the first tensors."""


@dataclass(frozen=True)
class Matrix:
    """One quantity of all tensors.

    Attributes:
        steps: int64 [n_steps], ascending.
        values: float32 [n_steps, n_tensors].
        excess: float32 [n_steps, n_tensors], how far outside of its band each value is, see :mod:`.judged`; None where
            no rule judges the quantity.
        worst: of the overview, [n_steps, n_tensors]: which of the judged quantities each cell shows.
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float32]
    excess: NDArray[np.float32] | None = None
    worst: NDArray[np.float32] | None = None

    @classmethod
    def stack(cls, points: Iterable[tuple[int, NDArray[Any]]]) -> Matrix:
        """From (step, values) as they were written; where steps go back, the later count. Short rows end in NaN."""
        numbers = [(int(step), values.reshape(-1)) for step, values in points if values.dtype.kind in "fiu"]
        written = [(step, np.asarray(values, dtype=np.float32)) for step, values in numbers]
        kept = [written[i] for i in latest(np.array([step for step, _ in written], dtype=np.int64))]
        width = min(max((len(row) for _, row in kept), default=0), MOST_CELLS // max(1, len(kept)))
        values = np.full((len(kept), width), np.nan, dtype=np.float32)
        for index, (_, row) in enumerate(kept):
            values[index, : min(len(row), width)] = row[:width]
        return cls(np.array([step for step, _ in kept], dtype=np.int64), values)

    @property
    def planes(self) -> list[NDArray[np.float32]]:
        """What it has of values, excess and worst, in this order."""
        return [plane for plane in (self.values, self.excess, self.worst) if plane is not None]

    @property
    def nbytes(self) -> int:
        """Of memory."""
        return sum(plane.nbytes for plane in self.planes)

    def of_tensor(self, row: int) -> list[float]:
        """One tensor's values; NaN at the steps that have not got it."""
        column = self.values[:, row]
        return [float(value) for value in np.where(column == ABSENT, np.nan, column)]

    def between(self, first: int | None, last: int | None) -> Matrix:
        """The logged steps from ``first`` to ``last``, with one more on either side: a cell reaches half-way to it."""
        low = 0 if first is None else max(0, int(np.searchsorted(self.steps, first)) - 1)
        high = len(self.steps) if last is None else int(np.searchsorted(self.steps, last, side="right")) + 1
        return Matrix(self.steps[low:high], *(plane[low:high] for plane in self.planes))

    def at(self, steps: NDArray[np.int64]) -> Matrix:
        """At these steps; NaN, and no excess, where one was not logged."""
        if np.array_equal(self.steps, steps):
            return self
        places = np.searchsorted(self.steps, steps).clip(max=max(0, len(self.steps) - 1))
        known = self.steps[places] == steps if len(self.steps) else np.zeros(len(steps), dtype=bool)
        fills = (np.nan, 0.0, 0.0)
        planes = [np.full((len(steps), p.shape[1]), fill, np.float32) for p, fill in zip(self.planes, fills, strict=False)]
        for plane, old in zip(planes, self.planes, strict=True):
            plane[known] = old[places[known]]
        return Matrix(steps, *planes)


def tile(matrix: Matrix, columns: int, about: Mapping[str, Any] | None = None) -> bytes:
    """At most ``columns`` columns, each the value of consecutive logged steps that is farthest outside, else the largest.

    A spike of one step stays visible, and NaN wins.

    Args:
        matrix: the quantity.
        columns: of the tile.
        about: goes into the header.

    Returns:
        uint32 length of the header; the header in JSON (``rows``, ``columns``, ``first`` and ``last`` step of each column,
        ``planes``) and spaces up to a multiple of four bytes; then, for each plane that the matrix has, float32
        [rows, columns]. All little-endian. JSON could not carry NaN.
    """
    logged, rows = matrix.values.shape
    starts = np.unique(np.linspace(0, logged, min(columns, logged), endpoint=False).astype(np.int64))
    ends = np.append(starts[1:], logged) if logged else starts
    chosen = _chosen(matrix, starts, ends)
    planes = [np.take_along_axis(plane, chosen, axis=0) for plane in matrix.planes] if logged else matrix.planes
    header = json.dumps(
        {
            **(about or {}),
            "rows": rows,
            "columns": len(starts),
            "first": matrix.steps[starts].tolist(),
            "last": matrix.steps[ends - 1].tolist() if logged else [],
            "planes": len(planes),
        }
    ).encode()
    header += b" " * (-len(header) % 4)
    return (
        struct.pack("<I", len(header)) + header + b"".join(np.ascontiguousarray(p.T, dtype="<f4").tobytes() for p in planes)
    )


def _chosen(matrix: Matrix, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """[columns, rows]: which logged step each cell shows."""
    rows = matrix.values.shape[1]
    if len(starts) == len(matrix.steps):
        return np.broadcast_to(starts[:, None], (len(starts), rows))
    size = np.where(np.isnan(matrix.values), np.inf, matrix.values)
    far = size if matrix.excess is None else np.where(np.isnan(matrix.excess), np.inf, np.abs(matrix.excess))
    chosen = np.empty((len(starts), rows), dtype=np.int64)
    for column, (start, end) in enumerate(zip(starts, ends, strict=True)):
        part = far[start:end]
        chosen[column] = start + np.where(part == part.max(axis=0), size[start:end], -np.inf).argmax(axis=0)
    return chosen
