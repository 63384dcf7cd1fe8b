"""What the report draws: loss, learning rate, gradient norm and update ratios on one step axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lightning_adam.diagnosis import RunSignals, StepSignals
from lightning_adam.doctor.configuration import run_signals
from lightning_adam.doctor.evidence import Record
from lightning_adam.doctor.roles import find, power_of_ten, prefixes
from lightning_adam.tensorboard.reader import RECORDS, RunLog, Series
from lightning_adam.tensorboard.tab.limits import bands

Limits = tuple[float, float]
"""Lower and upper."""


@dataclass(frozen=True)
class Curve:
    """One quantity over the run.

    Attributes:
        title: what it is.
        tag: where it was read.
        steps: int64 [n].
        values: float64 [n]; NaN and infinities as they were logged.
        low: lower edge of a band, or None.
        high: upper edge of a band, or None.
        limits: between which no rule minds it, or None where there are no such values.
    """

    title: str
    tag: str
    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None
    limits: Limits | None = None


def curves(run: RunLog, records: Mapping[str, Sequence[Record]] | None = None) -> list[Curve]:
    """The curves of a run that are there: the loss once, the others per optimizer.

    Args:
        run: the log.
        records: the recorded signals of each optimizer that is drawn: they have every step, where the log has some.
    """
    records = records or {}
    own = list(records) or prefixes(run) or [""]
    found = [_best(run, "loss", own[0], "loss", records)]
    for prefix in own:
        suffix = f" of {prefix}" if len(own) > 1 else ""
        found += [
            _best(run, "lr", prefix, f"learning rate{suffix}", records),
            _best(run, "gradient norm", prefix, f"gradient norm{suffix}", records),
            _update_ratio(run, prefix, records.get(prefix, ()), suffix),
        ]
    return [curve for curve in found if curve is not None and len(curve.steps)]


SIGNALS: dict[str, tuple[Callable[[StepSignals], float], str]] = {
    "loss": (lambda signals: signals.loss, "loss"),
    "lr": (lambda signals: signals.lr, ""),
    "gradient norm": (lambda signals: signals.gradient_norm, "gradient"),
}
"""A role's recorded signal, and what NonFinite calls it."""


def _best(run: RunLog, role: str, prefix: str, title: str, records: Mapping[str, Sequence[Record]]) -> Curve | None:
    """Recorded steps, and behind the last of them what the log has: records are written in stretches."""
    signal, name = SIGNALS[role]
    points = _points(records.get(prefix, ()), signal, name)
    found = find(run, role, prefix)
    if not points:
        return Curve(title, found[0], found[1].steps, found[1].values) if found else None
    later = zip(found[1].steps.tolist(), found[1].values.tolist(), strict=True) if found else ()
    points += [(step, value) for step, value in later if step > points[-1][0]]
    steps, values = zip(*points, strict=True)
    return Curve(title, f"{prefix}{RECORDS}", np.array(steps, dtype=np.int64), np.array(values, dtype=np.float64))


def _points(records: Sequence[Record], signal: Callable[[StepSignals], float], name: str) -> list[tuple[int, float]]:
    """(step, value); NaN means unknown, but for the step where it was the first thing that was not finite."""
    points = []
    for record in records:
        if isinstance(record, StepSignals):
            value, bad = signal(record), record.non_finite
            if not math.isnan(value) or (bad is not None and bad.where == name):
                points.append((record.step, value))
    return points


def _update_ratio(run: RunLog, prefix: str, records: Sequence[Record], suffix: str) -> Curve | None:
    """With the limits of LR-LOW and LR-HIGH: they are wider where the optimizer has less momentum."""
    curve = update_ratio_band(run, prefix, f"update ratio ‖Δθ‖/‖θ‖{suffix}") or _recorded_band(
        records, f"{prefix}{RECORDS}", f"update ratio, median to largest{suffix}"
    )
    logged = run_signals(run, prefix, first_step=0, last_step=0, optimizers=1)
    known = next((record for record in records if isinstance(record, RunSignals)), logged)
    band = bands(known)["update_ratio"]
    return None if curve is None else replace(curve, limits=(band.low, band.high))


def _recorded_band(records: Sequence[Record], tag: str, title: str) -> Curve | None:
    passes = [(r.step, r.heavy) for r in records if isinstance(r, StepSignals) and r.heavy is not None]
    if not passes:
        return None
    steps = np.array([step for step, _ in passes], dtype=np.int64)
    middle = np.array([heavy.update_ratio_p50 for _, heavy in passes])
    return Curve(title, tag, steps, middle, middle, np.array([heavy.update_ratio_max for _, heavy in passes]))


def update_ratio_band(run: RunLog, prefix: str, title: str) -> Curve | None:
    """10th percentile, median and 90th percentile over the tensors."""
    table = run.tables.get(f"{prefix}_matrix/update_ratio")
    if table is not None and table.values.size:
        low, middle, high = _quantiles(np.where(np.isfinite(table.values), table.values, np.nan))
        return Curve(title, f"{prefix}_matrix/update_ratio", table.steps, middle, low, high)
    return _logged_band(run, prefix, title)


def _quantiles(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """10 %, 50 % and 90 % of each row's numbers; NaN where there is none. NumPy takes rows with a gap one by one."""
    found, gaps = np.full((3, len(rows)), np.nan), np.isnan(rows)
    whole, some = ~gaps.any(axis=1), gaps.any(axis=1) & ~gaps.all(axis=1)
    for chosen, quantile in ((whole, np.quantile), (some, np.nanquantile)):
        found[:, chosen] = quantile(rows[chosen], (0.1, 0.5, 0.9), axis=1)
    return found


def _logged_band(run: RunLog, prefix: str, title: str) -> Curve | None:
    tags = [f"{prefix}/log10_update_ratio_{part}" for part in ("p10", "p50", "p90")]
    series = [run.scalars.get(tag) for tag in tags]
    low, middle, high = series
    if middle is None:
        return None
    edges = [_at(edge, middle.steps) if edge is not None else None for edge in (low, high)]
    return Curve(title, tags[1], middle.steps, power_of_ten(middle.values), edges[0], edges[1])


def _at(series: Series, steps: NDArray[np.int64]) -> NDArray[np.float64]:
    known = dict(zip(series.steps.tolist(), power_of_ten(series.values).tolist(), strict=True))
    return np.array([known.get(step, np.nan) for step in steps.tolist()])
