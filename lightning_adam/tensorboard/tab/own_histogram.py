"""One tensor's histogram at one step, and between which values of its rms, or of its mean, the diagnosis finds nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_adam.diagnosis.rules_state import EPS_RULES
from lightning_adam.statistics import LOG10_EDGES
from lightning_adam.tensorboard.tab.judged import AGREEMENT, NOTHING, RATIO
from lightning_adam.tensorboard.tab.series import MATRIX, SeriesReader
from lightning_adam.tensorboard.tensor_histograms import HISTOGRAMS, counts_nothing, unpacked

STEP_SIZE, STEP_RMS, EFFECTIVE_RATE = "step_size", "step_size_rms", "effective_lr"


@dataclass(frozen=True)
class Place:
    """Which tensor of which optimizer of which run; ``asked`` is TensorBoard's request context and experiment."""

    asked: tuple[Any, str]
    run: str
    prefix: str
    row: int


@dataclass(frozen=True)
class Limit:
    """An end of what the rules allow: what ``code`` minds is a step size whose rms, or a rate whose mean, is beyond it."""

    value: float
    code: str


@dataclass(frozen=True)
class OwnHistogram:
    """What was logged nearest to a step.

    Attributes:
        step: where that was; None where the log has no histograms of single tensors.
        bins: [low, high, count] of log10 of the values, those that are not empty.
        limits: of this tensor at this step.
    """

    step: int | None = None
    bins: list[tuple[float, float, int]] | None = None
    limits: list[Limit] | None = None


def own_histogram(series: SeriesReader, place: Place, quantity: str, step: int) -> OwnHistogram:
    """Of the sampled elements of one tensor.

    Args:
        series: of the log folder.
        place: the tensor.
        quantity: one of COUNTED.
        step: the nearest one that has histograms is taken.
    """
    points = series.points(*place.asked, place.run, f"{place.prefix}{HISTOGRAMS}{quantity}")
    if not points:
        return OwnHistogram()
    nearest = min(reversed(points), key=lambda point: abs(point.step - step))  # of a step done twice the later one
    if counts_nothing(nearest.numpy):
        return OwnHistogram(nearest.step, [], [])
    counts = unpacked(nearest.numpy)
    row = series.row_names(*place.asked, place.run, place.prefix).row_as_written(place.row, nearest.wall_time)
    if row is None or not 0 <= row < len(counts):
        return OwnHistogram()
    low, high = LOG10_EDGES[:-1].tolist(), LOG10_EDGES[1:].tolist()
    bins = [bin for bin in zip(low, high, counts[row].tolist(), strict=True) if bin[2]]
    return OwnHistogram(nearest.step, bins, LIMITS[quantity](series, place, nearest.step) if quantity in LIMITS else [])


def step_limits(series: SeriesReader, place: Place, step: int) -> list[Limit]:
    """Of the rms of this tensor's steps: the update ratio's limits times the rms of its elements at this step."""
    judge = series.judge(*place.asked, place.run, place.prefix)
    tags = {f"{place.prefix}{MATRIX}{name}": name for name in (RATIO, AGREEMENT, STEP_RMS)}
    found = {tags[tag]: m for tag, m in series.matrices(*place.asked, place.run, list(tags)).items()}
    at = np.array([step])
    rms, ratio = (found.get(name, NOTHING).at(at).values[0, place.row : place.row + 1] for name in (STEP_RMS, RATIO))
    if not (len(rms) and len(ratio) and ratio[0] > 0):
        return []
    of_weights = float(rms[0] / ratio[0])
    return [Limit(end * of_weights, code) for end, code in judge.ends(place.row, step, found) if np.isfinite(of_weights)]


def rate_limits(series: SeriesReader, place: Place, step: int) -> list[Limit]:
    """Of the mean of this tensor's effective rates: α/(√v̂+ε) is α/ε times the share of ε, which EPS-HIGH limits."""
    where = (*place.asked, place.run, place.prefix)
    judge, known = series.judge(*where), series.configuration(*where)
    if not known.eps > 0 or judge.rates is None or not judge.judges_matrix(place.row):
        return []
    rate = float(np.interp(step, *judge.rates))
    return [Limit(EPS_RULES * rate / known.eps, "EPS-HIGH")] if np.isfinite(rate) else []


LIMITS = {STEP_SIZE: step_limits, EFFECTIVE_RATE: rate_limits}
