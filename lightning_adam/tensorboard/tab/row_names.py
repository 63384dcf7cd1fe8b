"""Which tensor each row of a run's tables is: more come in when they are unfrozen, and a resumed run may have others."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_adam.tensorboard.names import ABSENT


class Listing(NamedTuple):
    """The rows of the tables that were written from a time on; that is in seconds since 1970."""

    since: float
    names: Sequence[str] = ()
    sizes: Sequence[int] = ()


@dataclass(frozen=True)
class RowNames:
    """Every tensor that a run ever had has one row.

    Attributes:
        rows: names in the order in which they came, with their row.
        sizes: how many elements each has; empty in logs of versions that did not tell.
        since: from when on each listing holds, ascending.
        places: of each listing, where its rows belong; None where they stand there.
    """

    rows: Mapping[str, int] = field(default_factory=dict)
    sizes: Sequence[int] = ()
    since: Sequence[float] = ()
    places: Sequence[list[int] | None] = ()

    @classmethod
    def of(cls, listings: Iterable[Listing]) -> RowNames:
        """From what the log tells."""
        told = sorted(listings, key=lambda listing: listing.since)
        names = list(dict.fromkeys(name for listing in told for name in listing.names))
        known = {name: size for listing in told for name, size in zip(listing.names, listing.sizes, strict=False)}
        sizes = [known[name] for name in names] if known.keys() >= set(names) else []
        rows = {name: row for row, name in enumerate(names)}
        places = [[rows[name] for name in listing.names] for listing in told]
        moved = [None if place == [*range(len(place))] else place for place in places]
        return cls(rows, sizes, [listing.since for listing in told], moved)

    def place(self, values: NDArray[Any], since: float, quantity: str) -> NDArray[Any]:
        """A row of a table, as it was written at that time, with each number where its tensor stands.

        Args:
            values: [n_rows].
            since: when it was written.
            quantity: what of; the gradient norm tells which tensors a step had.
        """
        rows = self._rows(since)
        if rows is None or values.shape != (len(rows),) or values.dtype.kind not in "fiu":
            return values
        placed = np.full(len(self.rows), ABSENT if quantity == "gradient_norm" else np.nan, dtype=np.float32)
        placed[rows] = values
        return placed

    def row_as_written(self, row: int, since: float) -> int | None:
        """In which row of a table of that time a tensor stands; None where it has none."""
        rows = self._rows(since)
        if rows is None:
            return row
        return rows.index(row) if row in rows else None

    def _rows(self, since: float) -> list[int] | None:
        """Where the rows of that time belong; None where they stand there."""
        listing = bisect_right(self.since, since) - 1
        return self.places[listing] if listing >= 0 else None


@lru_cache(maxsize=256)
def listing_of(content: bytes, since: float = 0.0) -> Listing:
    """From JSON. What is no list of names, or of sizes, is none; each request lists the series, and each repeats it."""
    try:
        told = json.loads(content)
        names, sizes = [str(name) for name in told["rows"]], told.get("sizes")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Listing(since)
    are_counts = isinstance(sizes, list) and all(type(size) is int and 0 < size < 1 << 53 for size in sizes)
    return Listing(since, names, sizes if are_counts and len(sizes) == len(names) else ())
