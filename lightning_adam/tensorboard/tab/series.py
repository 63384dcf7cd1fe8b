"""Reads what the monitors wrote, through TensorBoard's data provider (both loaders have one)."""

from __future__ import annotations

import bisect
import itertools
import json
import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tensorboard.data import provider

from lightning_adam.tensorboard.tab.loader import KEPT_STEPS
from lightning_adam.tensorboard.tab.tiles import Matrix
from lightning_adam.tensorboard.tags import PLUGIN

LOG = logging.getLogger(__name__)
CACHED_BYTES = 256 * 2**20
MESSAGE_BYTES = 128 * 2**20
EVERYTHING = 10**6
MATRIX, EVENTS = "_matrix/", "_events"
SEVERITIES = ("info", "warning", "critical")


@dataclass
class OptimizerSeries:
    """What one optimizer of one run has.

    Attributes:
        prefix: first part of its tags.
        quantities: names after ``<prefix>_matrix/``.
        names: tensor names in model order.
        max_step: last logged step.
        max_wall_time: when it was written, seconds since 1970.
        findings: has any.
    """

    prefix: str
    quantities: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    max_step: int = -1
    max_wall_time: float = 0.0
    findings: bool = False


class SeriesReader:
    """Series of an experiment (TensorBoard's word for a log folder).

    Args:
        data: TensorBoard's data provider.
        limits: points kept per plugin, as ``--samples_per_plugin`` gives them; 0 is all.
    """

    def __init__(self, data: Any, limits: Mapping[str, int | None]) -> None:
        self._data = data
        self._kept = limits.get(PLUGIN, KEPT_STEPS) or EVERYTHING
        self._kept_scalars = limits.get("scalars", 1000) or EVERYTHING
        self._cache, self._reading = _Cache(), threading.Lock()

    def runs(self, context: Any, experiment: str) -> list[str]:
        """All runs, with our tags or without."""
        return sorted(run.run_name for run in self._data.list_runs(context, experiment_id=experiment))

    def optimizers(self, context: Any, experiment: str, run: str | None = None) -> dict[str, list[OptimizerSeries]]:
        """What each run has of ours, or one run."""
        listing = self._data.list_tensors(
            context, experiment_id=experiment, plugin_name=PLUGIN, run_tag_filter=_only(run, None)
        )
        return {name: _optimizers(tags) for name, tags in listing.items()}

    def matrices(self, context: Any, experiment: str, run: str, tags: Sequence[str]) -> dict[str, Matrix]:
        """Quantities of all tensors by tag; a tag that the run lacks is left out."""
        listing = self._data.list_tensors(
            context, experiment_id=experiment, plugin_name=PLUGIN, run_tag_filter=_only(run, tags)
        ).get(run, {})
        keys = {tag: _Key(experiment, run, tag, series.max_step, series.max_wall_time) for tag, series in listing.items()}
        with self._reading:  # what many ask for at once is read for the first, and is in the cache for the others
            return self._read_matrices(context, keys, listing)

    def _read_matrices(self, context: Any, keys: Mapping[str, _Key], listing: Mapping[str, Any]) -> dict[str, Matrix]:
        found = {tag: matrix for tag, key in keys.items() if (matrix := self._cache.get(key)) is not None}
        for part in _parts([tag for tag in keys if tag not in found], listing, self._kept):
            key = keys[part[0]]
            for tag, points in self._tensors(context, key.experiment, key.run, part, PLUGIN).items():
                found[tag] = Matrix.stack((point.step, point.numpy) for point in points)
                self._cache.put(keys[tag], found[tag])
        return found

    def findings(self, context: Any, experiment: str, run: str, prefix: str) -> list[dict[str, Any]]:
        """All findings in order of their steps; what is no finding, or is of a stretch that was done again, is left out."""
        tag, counters = prefix + EVENTS, [f"{prefix}/log10_lr", f"{prefix}/findings_total"]
        points = self._tensors(context, experiment, run, [tag], PLUGIN).get(tag, [])
        written = [p for points in self._scalars(context, experiment, run, counters).values() for p in points]
        went_on = _lowest_later(written)
        kept = [point for point in points if went_on(point.wall_time) >= point.step]
        texts = [text for point in kept for text in point.numpy.reshape(-1).tolist()]
        return sorted((f for text in texts for f in _findings(text)), key=lambda finding: int(finding["step"]))

    def scalar_tags(self, context: Any, experiment: str, run: str) -> list[str]:
        """Scalars of a run, without those of single tensors and groups."""
        listing = self._data.list_scalars(
            context, experiment_id=experiment, plugin_name="scalars", run_tag_filter=_only(run, None)
        )
        return [tag for tag in listing.get(run, {}) if not tag.split("/")[0].endswith((".tensors", ".groups"))]

    def scalars(self, context: Any, experiment: str, run: str, tags: Sequence[str]) -> dict[str, list[list[float]]]:
        """Tag to [steps, values]; where a resumed run goes back, it replaces what was there from that step on."""
        found = {tag: _latest(points) for tag, points in self._scalars(context, experiment, run, tags).items()}
        return {tag: [[p.step for p in points], [p.value for p in points]] for tag, points in found.items()}

    def _scalars(self, context: Any, experiment: str, run: str, tags: Sequence[str]) -> dict[str, list[Any]]:
        series = self._data.read_scalars(
            context,
            experiment_id=experiment,
            plugin_name="scalars",
            downsample=self._kept_scalars,
            run_tag_filter=_only(run, tags),
        )
        return {tag: list(points) for tag, points in series.get(run, {}).items()}

    def histogram(self, context: Any, experiment: str, run: str, tag: str, step: int) -> dict[str, Any]:
        """The kept histogram nearest to ``step``: its step, and [low, high, count] per bin."""
        points = self._tensors(context, experiment, run, [tag], "histograms").get(tag, [])
        if not points:
            return {"step": None, "bins": []}
        nearest = min(points, key=lambda point: abs(point.step - step))
        return {"step": nearest.step, "bins": nearest.numpy.tolist()}

    def _tensors(self, context: Any, experiment: str, run: str, tags: Sequence[str], plugin: str) -> dict[str, Any]:
        try:
            series = self._data.read_tensors(
                context, experiment_id=experiment, plugin_name=plugin, downsample=self._kept, run_tag_filter=_only(run, tags)
            )
        except (ValueError, TypeError) as error:  # TensorBoard cannot decode one of its tensors
            LOG.warning("Adam tab: %s of %s cannot be read: %s", ", ".join(tags), run, error)
            return {}
        return dict(series.get(run, {}))


@dataclass(frozen=True)
class _Key:
    """A series as far as it was written when it was read."""

    experiment: str
    run: str
    tag: str
    max_step: int
    max_wall_time: float


class _Cache:
    """The matrices that were asked for last, from several server threads."""

    def __init__(self) -> None:
        self._matrices: OrderedDict[_Key, Matrix] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: _Key) -> Matrix | None:
        with self._lock:
            if key in self._matrices:
                self._matrices.move_to_end(key)
            return self._matrices.get(key)

    def put(self, key: _Key, matrix: Matrix) -> None:
        with self._lock:
            self._matrices[key] = matrix
            while len(self._matrices) > 1 and sum(m.values.nbytes for m in self._matrices.values()) > CACHED_BYTES:
                self._matrices.popitem(last=False)


def _parts(tags: Sequence[str], listing: Mapping[str, Any], steps: int) -> list[Sequence[str]]:
    """Tags in parts that fit into one message of the data server."""
    rows = max((len(_row_names(listing[tag].plugin_content)) for tag in tags), default=0)
    size = max(1, MESSAGE_BYTES // (4 * max(1, rows) * steps))
    return [tags[at : at + size] for at in range(0, len(tags), size)]


def _only(run: str | None, tags: Iterable[str] | None) -> Any:
    return provider.RunTagFilter(runs=None if run is None else [run], tags=None if tags is None else list(tags))


def _optimizers(tags: Mapping[str, Any]) -> list[OptimizerSeries]:
    found: dict[str, OptimizerSeries] = {}
    for tag, series in tags.items():
        prefix, is_matrix, quantity = tag.partition(MATRIX)
        if not is_matrix and not tag.endswith(EVENTS):
            continue
        prefix = prefix if is_matrix else tag.removesuffix(EVENTS)
        optimizer = found.setdefault(prefix, OptimizerSeries(prefix))
        if is_matrix:
            optimizer.quantities.append(quantity)
            optimizer.names = optimizer.names or _row_names(series.plugin_content)
            optimizer.max_step = max(optimizer.max_step, series.max_step)
        optimizer.max_wall_time = max(optimizer.max_wall_time, series.max_wall_time)
        optimizer.findings |= not is_matrix
    return sorted(found.values(), key=lambda optimizer: optimizer.prefix)


def _latest(points: Sequence[Any]) -> list[Any]:
    """By step: each point that no later one precedes or replaces."""
    kept: list[Any] = []
    for point in points:  # as they were written
        while kept and kept[-1].step >= point.step:
            kept.pop()
        kept.append(point)
    return kept


def _lowest_later(points: Sequence[Any]) -> Callable[[float], float]:
    """The lowest step that was written after a time; infinite where nothing was."""
    ordered = sorted(points, key=lambda point: point.wall_time)
    times = [point.wall_time for point in ordered]
    lowest = [*itertools.accumulate((point.step for point in reversed(ordered)), min)][::-1]
    return lambda time: lowest[at] if (at := bisect.bisect_right(times, time)) < len(lowest) else math.inf


def _row_names(content: bytes) -> list[str]:
    try:
        return [str(name) for name in json.loads(content)["rows"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


def _findings(text: Any) -> list[dict[str, Any]]:
    try:
        stored = json.loads(text)
        return [_finding(f) for f in stored if isinstance(f, dict)] if isinstance(stored, list) else []
    except (ValueError, TypeError, OverflowError, RecursionError):
        return []


def _finding(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Every field there and of the right type, whatever the file says: the page relies on it."""
    evidence, parameters = stored.get("evidence"), stored.get("parameters")
    severity = stored.get("severity")
    return {
        "rule": str(stored.get("rule", "?")),
        "severity": severity if severity in SEVERITIES else "info",
        "step": int(stored.get("step", 0)),
        "message": str(stored.get("message", "")),
        "evidence": {str(k): v for k, v in evidence.items() if _is_simple(v)} if isinstance(evidence, dict) else {},
        "parameters": [str(p) for p in parameters] if isinstance(parameters, list) else [],
        "remedy": str(stored.get("remedy", "")),
    }


def _is_simple(value: Any) -> bool:
    return isinstance(value, str | int | float)
