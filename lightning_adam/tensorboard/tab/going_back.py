"""A run that was resumed into its own folder: which points its later part replaced, as the doctor judges it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lightning_adam.tensorboard.reader import latest


def parted(points: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """TensorBoard's points, as they were written, in two: those that count, and those that were written over."""
    kept = latest(np.array([point.step for point in points], dtype=np.int64)).tolist()
    lost = np.ones(len(points), dtype=bool)
    lost[kept] = False
    return [points[i] for i in kept], [points[i] for i in np.flatnonzero(lost).tolist()]


def abandoned(event: Any, series: Iterable[Sequence[Any]]) -> bool:
    """Whether the run went back before this event after it was written.

    Nothing may have replaced it in its own series: the part that was done again need not have had any event.

    Args:
        event: with its step and its time.
        series: what the optimizer logs at every logged step.
    """
    return any(_goes_back(points, event) for points in series)


def _goes_back(points: Sequence[Any], event: Any) -> bool:
    before = -1
    for point in points:
        again = point.step < event.step or (point.step == event.step and before >= point.step)
        if again and point.wall_time > event.wall_time:
            return True
        before = point.step
    return False
