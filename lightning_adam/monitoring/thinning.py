"""Which of very many are written, where a log is only ever added to."""

from __future__ import annotations


class Thinning:
    """All of the first ones; then every second, and every fourth once they are twice as many, and so on.

    What is kept grows with the logarithm of the run, and no gap is wider than ``2 / whole`` of the run up to there.

    Args:
        whole: how many are kept before any is left out.
        seen: how many there were in an earlier part of the run.
    """

    def __init__(self, whole: int, seen: int = 0) -> None:
        self.seen = seen
        self._whole = whole

    def take(self) -> bool:
        """Whether the next one is kept."""
        stride = 1 << (self.seen // self._whole).bit_length()
        kept = self.seen < self._whole or self.seen % stride == 0
        self.seen += 1
        return kept
