"""Reads event files back: scalars, and the series that this package writes. Needs neither torch nor a TensorBoard server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import SessionLog
from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_STRING

from lightning_adam.diagnosis import Finding
from lightning_adam.tensorboard.event_records import Problems, Stretch, masked_crc32c, stretches
from lightning_adam.tensorboard.files import find_event_files, open_plain
from lightning_adam.tensorboard.names import ABSENT
from lightning_adam.tensorboard.scalar_columns import Number, ScalarColumns, kept, latest

__all__ = [
    "EVENTS",
    "RECORDS",
    "RunLog",
    "Series",
    "Table",
    "find_event_files",
    "latest",
    "masked_crc32c",
    "read_replaced",
    "read_run",
]

RECORDS = "_signals"
"""Ending of the tag of recorded signals, which are written in stretches."""
ROWS = "_rows"
"""Ending of the tag that tells which tensors the rows of the tables are, from its event on."""

EVENTS = "_events"
"""Ending of the tag of findings, as they were told."""

MOST_CELLS = 1 << 23
"""Numbers of one table that are kept (64 MiB): of longer or wider ones every n-th logged step."""
MOST_OF_NAME = 1000
"""Characters of a tensor's name that are kept."""


@dataclass(frozen=True)
class Series:
    """One scalar over the run.

    Attributes:
        steps: int64 [n], strictly ascending (but for what was written over).
        values: float64 [n].
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """One quantity of all tensors over the run.

    Attributes:
        rows: the tensors' names.
        steps: int64 [n], strictly ascending.
        values: float64 [n, rows]; NaN where a tensor had no row at that step.
    """

    rows: tuple[str, ...]
    steps: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass
class RunLog:
    """What one run left behind.

    Attributes:
        name: its folder, relative to the one that was asked for.
        path: its folder, or its file.
        scalars: by tag.
        tables: by tag, such as ``adam_matrix/update_ratio``.
        texts: series of strings by tag, such as ``adam_events``: (step, content) in order. ``…_signals`` is kept as it
            was written, stretches that a resumed run did again included: its records tell where they go on.
        findings: all findings of a live monitor by the optimizer's prefix, where ``findings.json`` lies beside the log; a
            prefix without any was watched, and nothing was found.
        unread_findings: how many findings are in a ``findings.json`` that is damaged, at least.
        damaged: whether a part between others could not be read: recorded signals may be missing.
        notes: what could not be read.
    """

    name: str
    path: Path
    scalars: dict[str, Series] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    texts: dict[str, list[tuple[int, bytes]]] = field(default_factory=dict)
    findings: dict[str, list[Finding]] = field(default_factory=dict)
    unread_findings: int = 0
    damaged: bool = False
    notes: list[str] = field(default_factory=list)


def read_run(name: str, path: Path, files: Sequence[Path]) -> RunLog:
    """All of a run's event files as one log.

    Where steps go back (a resumed run), what was written later wins, as in TensorBoard.

    Args:
        name: the run's name.
        path: its folder.
        files: its event files, oldest first.
    """
    run, collected = _read_files(name, path, files)
    run.scalars = {tag: Series(steps, values) for tag, steps, values in collected.scalars.kept(collected.purged)}
    run.tables = {tag: _table(tag, points, collected.purged_own, run.notes) for tag, points in collected.tables.items()}
    run.texts = {tag: _texts(tag, points, collected.purged_own) for tag, points in collected.texts.items()}
    return run


def read_replaced(folder: Path, files: Sequence[Path]) -> dict[str, Series]:
    """By tag the scalars that a resumed run wrote over, which :func:`read_run` leaves out; what has none is left out.

    Args:
        folder: the run's.
        files: its event files, oldest first.
    """
    _, collected = _read_files(folder.name, folder, files)
    replaced = collected.scalars.replaced(collected.purged)
    return {tag: Series(steps, values) for tag, steps, values in replaced if len(steps)}


def _read_files(name: str, path: Path, files: Sequence[Path]) -> tuple[RunLog, _Collected]:
    run, collected = RunLog(name, path), _Collected()
    for file in files:
        _read_file(file, run, collected)
    return run, collected


def _read_file(file: Path, run: RunLog, collected: _Collected) -> None:
    """What it holds goes to the rest, what is wrong with it into the run's notes."""
    try:
        opened, size = open_plain(file)
    except OSError as error:
        run.notes.append(f"{file.name} could not be read: {error.strerror}")
        return
    problems = Problems()
    collected.begin_file()
    with opened:
        for stretch in stretches(opened, size, problems, collected.scalars.tags):
            _take_in(stretch, collected, problems)
    run.damaged |= problems.corrupt > 0
    run.notes += [f"{file.name}: {note}" for note in problems.notes()]


@dataclass
class _Points:
    """Of one tag, in the order in which they were written; ``epochs``: how many purges there had been before each."""

    steps: list[int] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)

    def append(self, step: int, value: Any, epoch: int) -> None:
        self.steps.append(step)
        self.values.append(value)
        self.epochs.append(epoch)

    def kept(self, purged: Sequence[int]) -> NDArray[np.intp]:
        """Those that are neither purged nor replaced by a later one."""
        return kept(np.array(self.steps, dtype=np.int64), np.array(self.epochs, dtype=np.int64), purged)


class _Collected:
    """The points of a run by tag, and the steps from which on everything before, or all of ours before, was purged."""

    def __init__(self) -> None:
        self.scalars = ScalarColumns()
        self.tables: dict[str, _Points] = {}
        self.texts: dict[str, _Points] = {}
        self.purged: list[int] = []
        self.purged_own: list[int] = []
        self._names: dict[str, bytes] = {}
        self._own_step, self._new_file = -1, False

    def begin_file(self) -> None:
        """What a later file writes from its first step on replaces what earlier files wrote from there."""
        self._new_file = bool(self.tables or self.texts)

    def purge_all(self, step: int) -> None:
        """Forget everything from this step on: the writer was told to (``purge_step``)."""
        self.purged.append(step)
        self.purged_own.append(step)

    def _going_on(self, tag: str, step: int) -> None:
        """Where our own series go back, findings of the abandoned stretch go too, though none may replace them."""
        if not tag.split("/")[0].endswith(("_matrix", EVENTS)):
            return
        if self._new_file or step < self._own_step:
            self.purged_own.append(step)
        self._own_step, self._new_file = step, False

    def add_tensor(self, step: int, value: Any) -> None:
        """A float vector is a table's row, strings are texts; anything else is somebody else's."""
        tensor, tag = value.tensor, value.tag
        content = value.metadata.plugin_data.content
        if content:
            self._names[tag] = content
        if tensor.dtype == DT_STRING:
            self._going_on(tag, step)
            self.texts.setdefault(tag, _Points()).append(step, list(tensor.string_val), len(self.purged_own))
        elif tensor.dtype == DT_FLOAT and tag in self._names:
            self._going_on(tag, step)
            values = np.frombuffer(tensor.tensor_content, "<f4") if tensor.tensor_content else np.array(tensor.float_val)
            self.tables.setdefault(tag, _Points()).append(step, (self._names[tag], values), len(self.purged_own))


def _take_in(stretch: Stretch, collected: _Collected, problems: Problems) -> None:
    """What has another form than a plain number is looked at one by one, in the order in which it was written."""
    purges, before, numbers = list[int](), len(collected.purged), list[Number]()
    for record, event in stretch.others:
        what = event.WhichOneof("what")
        if what == "session_log" and event.session_log.status == SessionLog.START:
            collected.purge_all(event.step)
            purges.append(record)
        elif what == "summary":
            _take_summary(record, event, collected, numbers, problems)
    collected.scalars.add(stretch.scalars, numbers, before, purges)


def _take_summary(record: int, event: Any, collected: _Collected, numbers: list[Number], problems: Problems) -> None:
    for value in event.summary.value:
        if value.HasField("simple_value"):
            numbers.append((record, collected.scalars.tags[value.tag.encode()], event.step, value.simple_value))
        elif value.HasField("tensor"):
            try:
                collected.add_tensor(event.step, value)
            except ValueError:
                problems.corrupt += 1


def _texts(tag: str, points: _Points, purged: Sequence[int]) -> list[tuple[int, bytes]]:
    kept = range(len(points.steps)) if tag.endswith(RECORDS) else points.kept(purged).tolist()
    return [(points.steps[i], text) for i in kept for text in points.values[i]]


def _table(tag: str, points: _Points, purged: Sequence[int], notes: list[str]) -> Table:
    kept = points.kept(purged)
    names = _names_by_content([points.values[i] for i in kept.tolist()])
    columns = {name: column for column, name in enumerate(dict.fromkeys(n for several in names.values() for n in several))}
    every = max(1, -(-len(kept) * len(columns) // MOST_CELLS))
    if every > 1:
        notes.append(f"{tag} has {len(kept)} steps of {len(columns)} tensors: one in {every} was read")
    kept = kept[(len(kept) - 1) % every :: every] if len(kept) else kept  # the last one always
    places = {content: np.array([columns[name] for name in several], dtype=int) for content, several in names.items()}
    values = np.full((len(kept), len(columns)), np.nan)
    for line, index in enumerate(kept.tolist()):
        content, row = points.values[index]
        into = places[content][: len(row)]
        values[line, into] = row[: len(into)]
    values[values == ABSENT] = np.nan
    return Table(tuple(columns), np.asarray(points.steps, dtype=np.int64)[kept], values)


def _names_by_content(rows: Sequence[tuple[bytes, NDArray[Any]]]) -> dict[bytes, list[str]]:
    """The names that each plugin content gives, as far as a row has numbers for them."""
    widest: dict[bytes, int] = {}
    for content, row in rows:
        widest[content] = max(widest.get(content, 0), len(row))
    return {content: _row_names(content)[:width] for content, width in widest.items()}


def _row_names(content: bytes) -> list[str]:
    try:
        return [str(name)[:MOST_OF_NAME] for name in json.loads(content)["rows"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
