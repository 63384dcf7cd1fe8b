"""Reads what the monitors wrote, through TensorBoard's data provider (both loaders have one)."""

from __future__ import annotations

import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tensorboard.data import provider

from lightning_adam.diagnosis import RunSignals
from lightning_adam.tensorboard.configuration import CONFIG
from lightning_adam.tensorboard.reader import EVENTS, RECORDS, ROWS
from lightning_adam.tensorboard.tab.bulk import CLOCKS, Bulk, told_tags
from lightning_adam.tensorboard.tab.going_back import parted
from lightning_adam.tensorboard.tab.judged import Judge, Rates
from lightning_adam.tensorboard.tab.limits import Band, bands
from lightning_adam.tensorboard.tab.loader import KEPT_STEPS
from lightning_adam.tensorboard.tab.recorded import RECORDED, RecordedPoint, recorded_points, records
from lightning_adam.tensorboard.tab.row_names import RowNames, listing_of
from lightning_adam.tensorboard.tab.tiles import Matrix
from lightning_adam.tensorboard.tags import PLUGIN

LOG = logging.getLogger(__name__)
CACHED_BYTES = 256 * 2**20
MESSAGE_BYTES = 128 * 2**20
EVERYTHING = 10**6
SKETCHED_CELLS = 1 << 17
"""Numbers of a quantity that the first picture of a long run is made of; the whole run follows when it has been read."""
FEW = 50
"""Points of a scalar that a line about a run takes; the last one is always among them."""
MATRIX = "_matrix/"
UNKNOWN = RunSignals(weight_decay=math.nan)
"""Of an optimizer whose configuration was not logged."""


@dataclass
class OptimizerSeries:
    """What one optimizer of one run has.

    Attributes:
        prefix: first part of its tags.
        quantities: names after ``<prefix>_matrix/``.
        names: tensor names in model order.
        sizes: how many elements each has; empty in logs of versions that did not tell.
        max_step: last logged step.
        max_wall_time: when it was written, seconds since 1970.
        findings: has any.
        recorded: whether the diagnosis' signals were recorded.
    """

    prefix: str
    quantities: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    max_step: int = -1
    max_wall_time: float = 0.0
    findings: bool = False
    recorded: bool = False


@dataclass(frozen=True)
class Judged:
    """A quantity with its excess, and the limits that it was judged by; a ``sketch`` lacks some of the logged steps."""

    matrix: Matrix
    bands: Mapping[str, Band]
    sketch: bool = False


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
        self._rows: dict[tuple[str, str, str], tuple[_Key, RowNames]] = {}
        self._cache, self._reading, self._judging = _Cache(), threading.Lock(), threading.Lock()

    def runs(self, context: Any, experiment: str) -> list[str]:
        """All runs, with our tags or without."""
        return sorted(run.run_name for run in self._data.list_runs(context, experiment_id=experiment))

    def optimizers(self, context: Any, experiment: str, run: str | None = None) -> dict[str, list[OptimizerSeries]]:
        """What each run has of ours, or one run."""
        listing = self._data.list_tensors(
            context, experiment_id=experiment, plugin_name=PLUGIN, run_tag_filter=_only(None if run is None else [run], None)
        )
        found = {name: _optimizers(tags) for name, tags in listing.items()}
        if run is not None and run in found:
            self._name_rows(context, experiment, run, found[run], listing[run])
        return found

    def _name_rows(self, context: Any, experiment: str, run: str, optimizers: Sequence[OptimizerSeries], tags: Any) -> None:
        """Of all tensors that the run ever had: its series tell of those that it had at first."""
        for optimizer in optimizers:
            rows = self._row_names(context, experiment, run, optimizer.prefix, tags.get(optimizer.prefix + ROWS))
            if rows.rows:
                optimizer.names, optimizer.sizes = [*rows.rows], [*rows.sizes]

    def row_names(self, context: Any, experiment: str, run: str, prefix: str) -> RowNames:
        """Of one optimizer's tables; empty in logs of versions that did not tell."""
        asked = _only([run], [prefix + ROWS])
        listing = self._data.list_tensors(context, experiment_id=experiment, plugin_name=PLUGIN, run_tag_filter=asked)
        return self._row_names(context, experiment, run, prefix, listing.get(run, {}).get(prefix + ROWS))

    def _row_names(self, context: Any, experiment: str, run: str, prefix: str, told: Any) -> RowNames:
        if told is None:
            return RowNames()
        key = _Key(experiment, run, prefix + ROWS, told.max_step, told.max_wall_time)
        if self._rows.get((experiment, run, prefix), (None,))[0] != key:
            points = self.points(context, experiment, run, prefix + ROWS)
            listings = [listing_of(p.numpy.reshape(-1)[0], p.wall_time) for p in points if p.numpy.size]
            self._rows[experiment, run, prefix] = key, RowNames.of(listings)
        return self._rows[experiment, run, prefix][1]

    def matrices(self, context: Any, experiment: str, run: str, tags: Sequence[str]) -> dict[str, Matrix]:
        """Quantities of all tensors by tag; a tag that the run lacks is left out."""
        listing = self._data.list_tensors(
            context, experiment_id=experiment, plugin_name=PLUGIN, run_tag_filter=_only([run], tags)
        ).get(run, {})
        keys = {tag: _Key(experiment, run, tag, series.max_step, series.max_wall_time) for tag, series in listing.items()}
        with self._reading:  # what many ask for at once is read for the first, and is in the cache for the others
            return self._read_matrices(context, keys, listing)

    def _read_matrices(self, context: Any, keys: Mapping[str, _Key], listing: Mapping[str, Any]) -> dict[str, Matrix]:
        found = {tag: matrix for tag, key in keys.items() if (matrix := self._cache.get(key)) is not None}
        for part in _parts([tag for tag in keys if tag not in found], listing, self._kept):
            key = keys[part[0]]
            rows = self.row_names(context, key.experiment, key.run, part[0].partition(MATRIX)[0])
            for tag, points in self._tensors(context, key.experiment, key.run, part, PLUGIN).items():
                found[tag] = _stacked(points, rows, tag)
                self._cache.put(keys[tag], found[tag])
        return found

    def findings(self, context: Any, experiment: str, run: str, prefix: str) -> list[dict[str, Any]]:
        """All findings in order of their steps, as the doctor judges them.

        Left out is what is no finding, what a resumed run went back before, and what turned out to be another finding.
        """
        known = self.bulk(context, experiment, [run], told_tags(prefix), [])
        return known.findings(run, prefix)

    def configuration(self, context: Any, experiment: str, run: str, prefix: str) -> RunSignals:
        """How the optimizer was configured, as far as the log tells."""
        where = (context, experiment, run)
        known = self.bulk(*where[:2], [run], [prefix + CONFIG], []).configuration(run, prefix)
        if known is not None:
            return known
        return self.recorded_configuration(*where, prefix)

    def recorded_configuration(self, context: Any, experiment: str, run: str, prefix: str) -> RunSignals:
        """As the diagnosis recorded it; all of it unknown where it recorded nothing."""
        for stretch in self.points(context, experiment, run, prefix + RECORDS)[:1]:
            return next((record for record in records(stretch) if isinstance(record, RunSignals)), UNKNOWN)
        return UNKNOWN

    def bulk(self, context: Any, experiment: str, runs: Sequence[str], tags: Sequence[str], scalars: Sequence[str]) -> Bulk:
        """What several runs have told, in three requests to the data server however many runs there are."""
        words: dict[str, dict[str, Any]] = {run: {} for run in runs}
        for plugin in (PLUGIN, "text"):
            for run, series in self._words(context, experiment, runs, tags, plugin).items():
                words[run].update(series)
        kept = self._kept_scalars if len(runs) == 1 else FEW
        clocks = _only(runs, [tag for tag in (*tags, *scalars) if tag not in words[runs[0]]])
        numbers = self._data.read_scalars(
            context, experiment_id=experiment, plugin_name="scalars", downsample=kept, run_tag_filter=clocks
        )
        return Bulk(words, {run: dict(series) for run, series in numbers.items()})

    def recorded(
        self, context: Any, experiment: str, run: str, signals: Collection[str], most: int
    ) -> dict[str, list[RecordedPoint]]:
        """What the diagnosis of the run's first optimizer recorded, at so many steps; empty where it recorded nothing."""
        prefixes = [o.prefix for o in self.optimizers(context, experiment, run).get(run, []) if o.recorded]
        stretches = self.points(context, experiment, run, prefixes[0] + RECORDS) if prefixes else []
        return recorded_points(stretches, signals, most)

    def _words(self, context: Any, experiment: str, runs: Sequence[str], tags: Sequence[str], plugin: str) -> Any:
        """Run to tag to points; where one of them cannot be read, each is asked for alone."""
        try:
            return self._data.read_tensors(
                context,
                experiment_id=experiment,
                plugin_name=plugin,
                downsample=self._kept,
                run_tag_filter=_only(runs, tags),
            )
        except (ValueError, TypeError):
            alone = {run: [self._tensors(context, experiment, run, [tag], plugin) for tag in tags] for run in runs}
            return {run: {tag: points for part in found for tag, points in part.items()} for run, found in alone.items()}

    def scalar_tags(self, context: Any, experiment: str, runs: Sequence[str] | None = None) -> dict[str, list[str]]:
        """Scalars of each run, without those of single tensors and groups."""
        listing = self._data.list_scalars(
            context, experiment_id=experiment, plugin_name="scalars", run_tag_filter=_only(runs, None)
        )
        of_one = (".tensors", ".groups")
        return {run: [t for t in tags if not t.split("/")[0].endswith(of_one)] for run, tags in listing.items()}

    def scalars(
        self, context: Any, experiment: str, run: str, tags: Sequence[str], overwritten: bool = False
    ) -> dict[str, list[list[float]]]:
        """Tag to [steps, values]; of a resumed run what counts, or what was ``overwritten``."""
        series = self._scalars(context, experiment, run, tags)
        chosen = {tag: parted(points)[overwritten] for tag, points in series.items()}
        return {tag: [[p.step for p in points], [p.value for p in points]] for tag, points in chosen.items()}

    def judged(
        self, context: Any, experiment: str, run: str, prefix: str, quantity: str, planned: bool, sketch: bool = False
    ) -> Judged:
        """A quantity of all tensors with how far each cell is outside of its limits.

        With ``sketch`` a long run that has not been read yet is judged at some of its steps, in a tenth of the time.
        """
        where = (context, experiment, run)
        optimizer = self._optimizer(where, prefix)
        known = self.configuration(*where, prefix)
        limits = bands(known)
        what = f"{prefix} {quantity} {planned}"
        key = _Key(experiment, run, what, optimizer.max_step, optimizer.max_wall_time)
        steps = max(2, SKETCHED_CELLS // max(1, len(optimizer.names)))
        if sketch and steps < self._kept and self._cache.get(key) is None:
            judge = Judge(limits, optimizer.names, self._rates(where, prefix), planned)
            drawn = self._sketch(where, optimizer, judge, quantity, steps)
            return Judged(drawn, limits, sketch=len(drawn.steps) >= steps)
        with self._judging:  # what many ask for at once is judged for the first
            matrix = self._cache.get(key)
            if matrix is None:
                judge = Judge(limits, optimizer.names, self._rates(where, prefix), planned)
                matrix = self._judge(where, optimizer, judge, quantity)
                self._cache.put(key, matrix)
        return Judged(matrix, limits)

    def _judge(self, where: tuple[Any, str, str], optimizer: OptimizerSeries, judge: Judge, quantity: str) -> Matrix:
        tags = {f"{optimizer.prefix}{MATRIX}{name}": name for name in judge.needed(quantity)}
        return judge.judge(quantity, {tags[tag]: matrix for tag, matrix in self.matrices(*where, list(tags)).items()})

    def _sketch(
        self, where: tuple[Any, str, str], optimizer: OptimizerSeries, judge: Judge, quantity: str, steps: int
    ) -> Matrix:
        """From so many of the logged steps, which are the same ones for each quantity."""
        tags = {f"{optimizer.prefix}{MATRIX}{name}": name for name in judge.needed(quantity)}
        found = self._tensors(*where, list(tags), PLUGIN, steps)
        rows = self.row_names(*where, optimizer.prefix)
        return judge.judge(quantity, {tags[tag]: _stacked(points, rows, tag) for tag, points in found.items()})

    def judge(self, context: Any, experiment: str, run: str, prefix: str) -> Judge:
        """By the limits of the optimizer as it is configured, the schedule's decay divided out."""
        where = (context, experiment, run)
        names = self._optimizer(where, prefix).names
        return Judge(bands(self.configuration(*where, prefix)), names, self._rates(where, prefix))

    def _optimizer(self, where: tuple[Any, str, str], prefix: str) -> OptimizerSeries:
        found = self.optimizers(*where).get(where[2], [])
        return next((o for o in found if o.prefix == prefix), OptimizerSeries(prefix))

    def points(self, context: Any, experiment: str, run: str, tag: str) -> list[Any]:
        """Of one of our series, as TensorBoard has them; none where the run has no such series."""
        return list(self._tensors(context, experiment, run, [tag], PLUGIN).get(tag, []))

    def _rates(self, where: tuple[Any, str, str], prefix: str) -> Rates | None:
        tag = f"{prefix}{CLOCKS[0]}"
        steps, logs = self.scalars(*where, [tag]).get(tag, [[], []])
        return (np.array(steps, np.int64), 10.0 ** np.array(logs, np.float64)) if steps else None

    def _scalars(self, context: Any, experiment: str, run: str, tags: Sequence[str]) -> dict[str, Any]:
        series = self._data.read_scalars(
            context,
            experiment_id=experiment,
            plugin_name="scalars",
            downsample=self._kept_scalars,
            run_tag_filter=_only([run], tags),
        )
        if not (asked := [signal for signal, tag in RECORDED.items() if tag in tags]):
            return dict(series.get(run, {}))
        recorded = self.recorded(context, experiment, run, asked, self._kept_scalars)
        return {**series.get(run, {}), **{RECORDED[signal]: points for signal, points in recorded.items()}}

    def histogram(self, context: Any, experiment: str, run: str, tag: str, step: int) -> dict[str, Any]:
        """The kept histogram nearest to ``step``: its step, and [low, high, count] per bin."""
        points = self._tensors(context, experiment, run, [tag], "histograms").get(tag, [])
        if not points:
            return {"step": None, "bins": []}
        nearest = min(points, key=lambda point: abs(point.step - step))
        return {"step": nearest.step, "bins": nearest.numpy.tolist()}

    def _tensors(
        self, context: Any, experiment: str, run: str, tags: Sequence[str], plugin: str, most: int | None = None
    ) -> dict[str, Any]:
        try:
            series = self._data.read_tensors(
                context,
                experiment_id=experiment,
                plugin_name=plugin,
                downsample=self._kept if most is None else most,
                run_tag_filter=_only([run], tags),
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
            while len(self._matrices) > 1 and sum(m.nbytes for m in self._matrices.values()) > CACHED_BYTES:
                self._matrices.popitem(last=False)


def _stacked(points: Iterable[Any], rows: RowNames, tag: str) -> Matrix:
    quantity = tag.partition(MATRIX)[2]
    return Matrix.stack((point.step, rows.place(point.numpy, point.wall_time, quantity)) for point in points)


def _parts(tags: Sequence[str], listing: Mapping[str, Any], steps: int) -> list[Sequence[str]]:
    """Tags in parts that fit into one message of the data server."""
    rows = max((len(listing_of(listing[tag].plugin_content).names) for tag in tags), default=0)
    size = max(1, MESSAGE_BYTES // (4 * max(1, rows) * steps))
    return [tags[at : at + size] for at in range(0, len(tags), size)]


def _only(runs: Sequence[str] | None, tags: Iterable[str] | None) -> Any:
    return provider.RunTagFilter(runs=runs, tags=None if tags is None else list(tags))


def _optimizers(tags: Mapping[str, Any]) -> list[OptimizerSeries]:
    found: dict[str, OptimizerSeries] = {}
    for tag, series in tags.items():
        prefix, is_matrix, quantity = tag.partition(MATRIX)
        if not is_matrix and not tag.endswith((EVENTS, RECORDS)):
            continue
        prefix = prefix if is_matrix else tag.removesuffix(EVENTS).removesuffix(RECORDS)
        optimizer = found.setdefault(prefix, OptimizerSeries(prefix))
        if is_matrix:
            optimizer.quantities.append(quantity)
            rows = listing_of(series.plugin_content)
            optimizer.names, optimizer.sizes = optimizer.names or [*rows.names], optimizer.sizes or [*rows.sizes]
            optimizer.max_step = max(optimizer.max_step, series.max_step)
        optimizer.max_wall_time = max(optimizer.max_wall_time, series.max_wall_time)
        optimizer.findings |= tag.endswith(EVENTS)
        optimizer.recorded |= tag.endswith(RECORDS)
    return sorted(found.values(), key=lambda optimizer: optimizer.prefix)
