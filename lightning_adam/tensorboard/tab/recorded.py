"""What the diagnosis recorded at every step, for a run that did not log it: loss, learning rate and gradient norm."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from lightning_adam.diagnosis import StepSignals, decode
from lightning_adam.diagnosis.codec import Record

LOG = logging.getLogger(__name__)
RECORDED = {"loss": "loss (recorded)", "lr": "learning rate (recorded)", "gradient_norm": "gradient norm (recorded)"}
"""Signal to the name by which it stands among the tags of the scalars that were logged."""
RECORDED_LOSS = RECORDED["loss"]


class RecordedPoint(NamedTuple):
    """As TensorBoard's points of scalars; the time is that at which its stretch was written."""

    step: int
    value: float
    wall_time: float


def recorded_points(stretches: Iterable[Any], signals: Collection[str], most: int) -> dict[str, list[RecordedPoint]]:
    """Of each signal every step at which it was known, in the order in which they were written.

    Args:
        stretches: TensorBoard's points of recorded signals.
        signals: some of ``RECORDED``.
        most: points to keep of each; the last one is always among them.
    """
    steps = [(s.wall_time, record) for s in stretches for record in records(s) if isinstance(record, StepSignals)]
    return {signal: _thinned(_known(steps, signal), most) for signal in signals}


def _known(steps: Iterable[tuple[float, StepSignals]], signal: str) -> list[RecordedPoint]:
    values = ((record, getattr(record, signal), time) for time, record in steps)
    return [RecordedPoint(record.step, value, time) for record, value, time in values if _is_known(value, record)]


def records(stretch: Any) -> list[Record]:
    """Of one point; none where it cannot be read."""
    try:
        return decode(stretch.numpy.reshape(-1)[0])
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        LOG.warning("Adam tab: the signals written at step %s cannot be read: %s", stretch.step, error)
        return []


def _is_known(value: float, record: StepSignals) -> bool:
    """What is not a number was measured where something was found not to be finite; else it was not known."""
    return not math.isnan(value) or record.non_finite is not None


def _thinned(points: Sequence[RecordedPoint], most: int) -> list[RecordedPoint]:
    apart = -(-len(points) // most)
    return [*points[:-1:apart], *points[-1:]] if apart > 1 else [*points]
