"""Reads event files back: scalars, and the series that this package writes. Needs neither torch nor a TensorBoard server.

A record is a length, a checksum of it, the event and its checksum (TFRecord framing). The data's checksum is not
verified: in pure Python that alone takes ten times as long as everything else. Where a record makes no sense, the next
place whose length agrees with its checksum is looked for, and the gap is noted.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_STRING

from lightning_adam.diagnosis import Finding

EVENT_FILE = "tfevents"
"""What TensorBoard, too, knows an event file by: this word in its name."""

RECORDS = "_signals"
"""Ending of the tag of recorded signals, which are written in stretches."""

EVENTS = "_events"
"""Ending of the tag of findings, as they were told."""

_LENGTH = struct.Struct("<Q")
_HEADER, _FOOTER = 12, 4
_WINDOW = 1 << 20


@dataclass(frozen=True)
class Series:
    """One scalar over the run.

    Attributes:
        steps: int64 [n], strictly ascending.
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


def folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder at or below ``root`` with the names of its files, sorted; links are followed, each folder comes once.

    A folder comes under its own name rather than a link's, where both are there.
    """
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        if os.path.realpath(folder) in seen:
            subfolders.clear()
            continue
        seen.add(os.path.realpath(folder))
        subfolders.sort(key=lambda name: (os.path.islink(os.path.join(folder, name)), name))
        yield Path(folder), sorted(names)


def find_event_files(root: Path) -> dict[Path, list[Path]]:
    """Every run folder under ``root`` (itself included) with its event files, oldest first."""
    return {folder: files for folder, names in folders(root) if (files := event_files(folder, names))}


def event_files(folder: Path, names: Iterable[str]) -> list[Path]:
    """Those of a folder's files; pipes and devices are none, and reading them would not end."""
    files = [folder / name for name in names if EVENT_FILE in name]
    return [file for file in files if file.is_file() or not file.exists()]


def read_run(name: str, path: Path, files: Sequence[Path]) -> RunLog:
    """All of a run's event files as one log.

    Where steps go back (a resumed run), what was written later wins, as in TensorBoard.

    Args:
        name: the run's name.
        path: its folder.
        files: its event files, oldest first.
    """
    run = RunLog(name, path)
    collected = _Collected()
    for file in files:
        try:
            content = file.read_bytes()
        except OSError as error:
            run.notes.append(f"{file.name} could not be read: {error.strerror}")
            continue
        problems = _Problems()
        collected.begin_file()
        for record in records(content, problems):
            _take_in(record, collected, problems)
        run.damaged |= problems.corrupt > 0
        run.notes += [f"{file.name}: {note}" for note in problems.notes()]
    run.scalars = {tag: _series(points) for tag, points in collected.scalars.items()}
    run.tables = {tag: _table(points) for tag, points in collected.tables.items()}
    run.texts = {tag: _texts(points, tag.endswith(RECORDS)) for tag, points in collected.texts.items()}
    return run


@dataclass
class _Problems:
    """What was wrong with one file."""

    corrupt: int = 0
    skipped: int = 0
    cut_off: int = 0

    def notes(self) -> list[str]:
        """In words."""
        notes = []
        if self.corrupt:
            notes.append(f"{self.corrupt} damaged record(s), {self.skipped} bytes skipped")
        if self.cut_off:
            notes.append(f"the last record is cut off ({self.cut_off} bytes): the run was killed, or is still writing")
        return notes


def records(content: bytes, problems: _Problems) -> Iterator[Any]:
    """Every event of a file; damage and a cut-off end are noted and skipped."""
    unpack, parse = _LENGTH.unpack_from, Event.FromString
    place, end = 0, len(content)
    while place + _HEADER <= end:
        (length,) = unpack(content, place)
        stop = place + _HEADER + length
        if length and stop + _FOOTER <= end:
            try:
                yield parse(content[place + _HEADER : stop])
                place = stop + _FOOTER
                continue
            except DecodeError:
                pass
        following = _after_damage(content, place, problems)
        if following is None:
            return
        place = following
    problems.cut_off += end - place


def _after_damage(content: bytes, place: int, problems: _Problems) -> int | None:
    """Where to go on after a record that could not be read; None at the end of the file."""
    end = len(content)
    (length,) = _LENGTH.unpack_from(content, place)
    if _is_header(content, place) and length:
        stop = place + _HEADER + length + _FOOTER
        if stop > end:
            problems.cut_off += end - place
            return None
        following = stop
    else:
        following = next_header(content, place + 1)
    problems.corrupt += 1
    problems.skipped += following - place
    return following if following < end else None


def next_header(content: bytes, start: int) -> int:
    """The next place whose eight bytes of length agree with the checksum behind them, or the end."""
    for begin in range(start, len(content) - _HEADER + 1, _WINDOW):
        count = min(_WINDOW + _HEADER - 1, len(content) - begin)
        bytes_there = np.frombuffer(content, np.uint8, count, begin)
        rows = np.lib.stride_tricks.sliding_window_view(bytes_there, _HEADER)
        low, high = (np.bitwise_or.reduce([rows[:, i] for i in part]) for part in (range(4), range(4, 8)))
        places = np.flatnonzero((high == 0) & (low != 0))  # a length of up to 4 GiB
        right = places[_agrees(rows[places])]
        if right.size:
            return begin + int(right[0])
    return len(content)


def _is_header(content: bytes, place: int) -> bool:
    row = np.frombuffer(content[place : place + _HEADER], np.uint8)
    return len(row) == _HEADER and bool(_agrees(row[None])[0])


def _agrees(headers: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether the last four bytes are the checksum of the eight before; [n, 12] to [n]."""
    stored = np.ascontiguousarray(headers[:, 8:]).view("<u4")[:, 0]
    agrees: NDArray[np.bool_] = masked_crc32c(headers[:, :8]) == stored
    return agrees


def _crc_table() -> NDArray[np.uint32]:
    """Of CRC-32C, reflected polynomial 0x82F63B78."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> np.uint32(1)) ^ np.where(table & np.uint32(1), np.uint32(0x82F63B78), np.uint32(0))
    return table


_CRC = _crc_table()


def masked_crc32c(rows: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """CRC-32C (Castagnoli) of each row, rotated by 15 bits plus a constant, as TFRecord files carry it.

    Args:
        rows: [n, bytes].
    """
    crc = np.full(len(rows), 0xFFFFFFFF, dtype=np.uint32)
    for column in rows.T:
        crc = (crc >> np.uint32(8)) ^ _CRC[(crc ^ column) & np.uint32(0xFF)]
    crc = ~crc
    return ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(0xA282EAD8)


class _Collected:
    """The points of a run in the order in which they were written: per tag a list of steps and one of values."""

    def __init__(self) -> None:
        self.scalars: dict[str, tuple[list[int], list[float]]] = {}
        self.tables: dict[str, tuple[list[int], list[tuple[bytes, NDArray[Any]]]]] = {}
        self.texts: dict[str, tuple[list[int], list[list[bytes]]]] = {}
        self._names: dict[str, bytes] = {}
        self._own_step, self._new_file = -1, False

    def begin_file(self) -> None:
        """What a later file writes from its first step on replaces what earlier files wrote from there."""
        self._new_file = bool(self.tables or self.texts)

    def purge_all(self, step: int) -> None:
        """Forget everything from this step on: the writer was told to (``purge_step``)."""
        _cut(self.scalars.values(), step)
        self._purge_own(step)

    def _purge_own(self, step: int) -> None:
        _cut(self.tables.values(), step)
        _cut((points for tag, points in self.texts.items() if not tag.endswith(RECORDS)), step)

    def _going_on(self, tag: str, step: int) -> None:
        """Where our own series go back, findings of the abandoned stretch go too, though none may replace them."""
        if not tag.split("/")[0].endswith(("_matrix", EVENTS)):
            return
        if self._new_file or step < self._own_step:
            self._purge_own(step)
        self._own_step, self._new_file = step, False

    def add_tensor(self, step: int, value: Any) -> None:
        """A float vector is a table's row, strings are texts; anything else is somebody else's."""
        tensor, tag = value.tensor, value.tag
        content = value.metadata.plugin_data.content
        if content:
            self._names[tag] = content
        if tensor.dtype == DT_STRING:
            self._going_on(tag, step)
            self._append(self.texts, tag, step, list(tensor.string_val))
        elif tensor.dtype == DT_FLOAT and tag in self._names:
            self._going_on(tag, step)
            values = np.frombuffer(tensor.tensor_content, "<f4") if tensor.tensor_content else np.array(tensor.float_val)
            self._append(self.tables, tag, step, (self._names[tag], values))

    @staticmethod
    def _append(into: dict[str, tuple[list[int], list[Any]]], tag: str, step: int, value: Any) -> None:
        steps, values = into.setdefault(tag, ([], []))
        steps.append(step)
        values.append(value)


def _cut(all_points: Iterable[tuple[list[int], list[Any]]], step: int) -> None:
    for steps, values in all_points:
        keep = [i for i, known in enumerate(steps) if known < step]
        steps[:], values[:] = [steps[i] for i in keep], [values[i] for i in keep]


def _take_in(event: Any, collected: _Collected, problems: _Problems) -> None:
    step, scalars = event.step, collected.scalars
    if event.session_log.status == SessionLog.START and event.HasField("session_log"):
        collected.purge_all(step)
    for value in event.summary.value:
        kind = value.WhichOneof("value")
        if kind == "simple_value":
            points = scalars.get(value.tag)
            if points is None:
                points = scalars[value.tag] = ([], [])
            points[0].append(step)
            points[1].append(value.simple_value)
        elif kind == "tensor":
            try:
                collected.add_tensor(step, value)
            except ValueError:
                problems.corrupt += 1


def latest(steps: NDArray[np.int64]) -> NDArray[np.intp]:
    """Which points stay when a step that is written again, or goes back, replaces all from there on.

    Example:
        >>> latest(np.array([0, 10, 20, 30, 20, 30, 40])).tolist()
        [0, 1, 4, 5, 6]
    """
    lowest_after = np.minimum.accumulate(steps[::-1])[::-1]
    return np.flatnonzero(np.append(steps[:-1] < lowest_after[1:], np.ones(min(len(steps), 1), dtype=bool)))


def _series(points: tuple[list[int], list[float]]) -> Series:
    steps = np.asarray(points[0], dtype=np.int64)
    kept = latest(steps)
    return Series(steps[kept], np.asarray(points[1], dtype=np.float64)[kept])


def _texts(points: tuple[list[int], list[list[bytes]]], whole: bool) -> list[tuple[int, bytes]]:
    kept = range(len(points[0])) if whole else latest(np.asarray(points[0], dtype=np.int64)).tolist()
    return [(points[0][i], text) for i in kept for text in points[1][i]]


def _table(points: tuple[list[int], list[tuple[bytes, NDArray[Any]]]]) -> Table:
    steps = np.asarray(points[0], dtype=np.int64)
    kept = latest(steps)
    contents = dict.fromkeys(points[1][i][0] for i in kept)
    names = {content: _row_names(content) for content in contents}
    rows = tuple(dict.fromkeys(name for content in contents for name in names[content]))
    places = {content: [rows.index(name) for name in names[content]] for content in contents}
    values = np.full((len(kept), len(rows)), np.nan)
    for line, index in enumerate(kept):
        content, row = points[1][index]
        columns = places[content][: len(row)]
        values[line, columns] = row[: len(columns)]
    return Table(rows, steps[kept], values)


def _row_names(content: bytes) -> list[str]:
    try:
        return [str(name) for name in json.loads(content)["rows"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
