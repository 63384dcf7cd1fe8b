"""All scalars of a run as columns, and which points of a series count when a run went back."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_adam.tensorboard.plain_scalars import PlainScalars, TagNumbers

Integers = NDArray[np.int64]

Number = tuple[int, int, int, float]
"""A record of a stretch, and the number of its tag, the step and the value."""


class ScalarColumns:
    """The points of all scalars in the order in which they were written."""

    def __init__(self) -> None:
        self.tags = TagNumbers()
        self._stretches: list[tuple[Integers, Integers, NDArray[np.float64], Integers]] = []

    def add(self, plain: PlainScalars, others: Sequence[Number], purges: int, purged_at: Sequence[int]) -> None:
        """Those of a stretch.

        Args:
            plain: of events that hold nothing else.
            others: of other events.
            purges: that there had been before the stretch.
            purged_at: the stretch's records that are purges.
        """
        records, tags, steps, values = _merged(plain, others) if others else plain
        epochs = purges + np.searchsorted(np.array(purged_at, dtype=np.int64), records)
        self._stretches.append((tags, steps, values, epochs))

    def kept(self, purged: Sequence[int]) -> Iterator[tuple[str, Integers, NDArray[np.float64]]]:
        """Tag, steps and values of each series without what was purged or replaced, by their first points.

        Args:
            purged: from which step on each purge took what was there.
        """
        for tag, steps, values, epochs in self._series():
            chosen = kept(steps, epochs, purged)
            yield tag, steps[chosen], values[chosen]

    def replaced(self, purged: Sequence[int]) -> Iterator[tuple[str, Integers, NDArray[np.float64]]]:
        """What :meth:`kept` leaves out of each series, as it was written."""
        for tag, steps, values, epochs in self._series():
            chosen = np.delete(np.arange(len(steps)), kept(steps, epochs, purged))
            yield tag, steps[chosen], values[chosen]

    def _series(self) -> Iterator[tuple[str, Integers, NDArray[np.float64], Integers]]:
        """Tag, steps, values and epochs of each, in the order in which they were written."""
        if not self._stretches:
            return
        tags, steps, values, epochs = (np.concatenate(parts) for parts in zip(*self._stretches, strict=True))
        order = np.argsort(tags, kind="stable")
        borders = np.flatnonzero(np.diff(tags[order], prepend=-1, append=-1))
        series = [order[begin:end] for begin, end in itertools.pairwise(borders.tolist())]
        for own in sorted(series, key=lambda own: int(own[0])):
            yield self.tags.names[tags[own[0]]], steps[own], values[own], epochs[own]


def _merged(plain: PlainScalars, others: Sequence[Number]) -> PlainScalars:
    """In the order of their records."""
    columns = zip(plain, zip(*others, strict=True), strict=True)
    merged = PlainScalars._make(np.concatenate([column, np.array(more, dtype=column.dtype)]) for column, more in columns)
    return merged.chosen(np.argsort(merged.records, kind="stable"))


def kept(steps: Integers, epochs: Integers, purged: Sequence[int]) -> NDArray[np.intp]:
    """Which points of a series are left when each purge has taken what was there from its step on, and later ones have
    replaced earlier ones.

    Args:
        steps: in the order in which they were written.
        epochs: how many purges there had been before each.
        purged: from which step on each purge took.
    """
    lowest_later = np.minimum.accumulate(np.array([*purged, 2**63 - 1], dtype=np.int64)[::-1])[::-1]
    left = np.flatnonzero((epochs == len(purged)) | (steps < lowest_later[epochs]))
    return left[latest(steps[left])]


def latest(steps: Integers) -> NDArray[np.intp]:
    """Which points stay when a step that is written again, or goes back, replaces all from there on.

    Example:
        >>> latest(np.array([0, 10, 20, 30, 20, 30, 40])).tolist()
        [0, 1, 4, 5, 6]
    """
    lowest_after = np.minimum.accumulate(steps[::-1])[::-1]
    return np.flatnonzero(np.append(steps[:-1] < lowest_after[1:], np.ones(min(len(steps), 1), dtype=bool)))
