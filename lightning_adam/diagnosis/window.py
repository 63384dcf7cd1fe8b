"""The median of the last values, at the cost of two insertions per step."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence


class Window:
    """The last values in order of size: their median costs two insertions per step, and no sort.

    Args:
        values: so far, oldest first.
        length: how many of them count.
    """

    def __init__(self, values: Sequence[float], length: int) -> None:
        self._length, self._by_age = length, deque(value for value in values[-length:] if math.isfinite(value))
        self._by_size = sorted(self._by_age)

    def push(self, value: float) -> float | None:
        """Take in one more; what leaves for it."""
        self._by_age.append(value)
        insort(self._by_size, value)
        if len(self._by_age) <= self._length:
            return None
        oldest = self._by_age.popleft()
        del self._by_size[bisect_left(self._by_size, oldest)]
        return oldest

    def at_least(self, pushes: int) -> float:
        """What the median will not be under after at most so many further values; NaN while there are fewer than count."""
        ordered, half = self._by_size, (self._length - 1) // 2
        return ordered[half - pushes] if len(ordered) == self._length and half >= pushes else math.nan

    def median(self) -> float:
        """The median; NaN for nothing."""
        ordered, half = self._by_size, len(self._by_size) // 2
        if not ordered:
            return math.nan
        return ordered[half] if len(ordered) % 2 else 0.5 * (ordered[half - 1] + ordered[half])
