"""In which row of its tables a tensor stands: in the same one for as long as the file is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from lightning_adam.statistics import QUANTITIES, Snapshot
from lightning_adam.tensorboard.names import ABSENT

GRADIENT_NORM = [*QUANTITIES].index("gradient_norm")
_ROWS: WeakKeyDictionary[Any, dict[str, dict[str, int]]] = WeakKeyDictionary()
"""By file and prefix, the rows' names and numbers of elements. TensorBoard shows its plugins what the first event of a
series says of them, and no later one; but experts take turns, and layers are dropped, frozen and unfrozen."""


def in_its_rows(file: Any, prefix: str, snapshot: Snapshot) -> Snapshot:
    """The snapshot, each tensor in the row in which the file had it first; new ones behind, absent ones empty."""
    sizes = _ROWS.setdefault(file, {}).setdefault(prefix, {})
    for name, size in zip(snapshot.names, snapshot.sizes, strict=True):
        sizes.setdefault(name, size)
    names = list(sizes)
    if names == snapshot.names:
        return snapshot
    place = {name: row for row, name in enumerate(names)}
    rows = [place[name] for name in snapshot.names]
    table = np.full((len(names), snapshot.table.shape[1]), np.nan, dtype=snapshot.table.dtype)
    table[:, GRADIENT_NORM] = ABSENT
    table[rows] = snapshot.table
    return replace(
        snapshot,
        names=names,
        sizes=list(sizes.values()),
        table=table,
        histograms=_histograms_in_rows(snapshot, rows, len(names)),
    )


def _histograms_in_rows(snapshot: Snapshot, rows: Sequence[int], count: int) -> Any:
    counted = snapshot.histograms
    if not len(counted):
        return counted
    placed = np.zeros((count, *counted.shape[1:]), dtype=counted.dtype)
    placed[rows] = counted
    return placed
