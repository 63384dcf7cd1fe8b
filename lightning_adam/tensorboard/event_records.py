"""The events of an event file, as far as it is whole.

A record is a length, a checksum of it, the event and its checksum (TFRecord framing). The data's checksum is not
verified: in pure Python that alone takes ten times as long as everything else. Where a record makes no sense, the next
place whose length agrees with its checksum is looked for, and the gap is noted. Time and memory follow the file's bytes,
whatever is in them.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event

from lightning_adam.tensorboard.plain_scalars import NO_SCALARS, PlainScalars, TagNumbers, plain_scalars

_LENGTH = struct.Struct("<Q")
_HEADER, _FOOTER = 12, 4
_WINDOW = 1 << 20
MOST_RECORD = 1 << 28
"""Bytes of a record that is looked into."""
WORTH_IT = 64
"""Records in a stretch from which on plain numbers are taken out of it all at once."""


@dataclass
class Problems:
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


class _Bytes:
    """A file's bytes as they are needed, forwards; what lies behind is let go."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.size = size
        self._file, self._begin, self._held = file, 0, b""
        self._window, self._headers = range(0), np.empty(0, dtype=np.int64)

    def at(self, place: int, count: int) -> bytes:
        """So many bytes from there on; fewer at the end."""
        held, begin = self.held(place, count)
        return held[begin : begin + count]

    def held(self, place: int, count: int) -> tuple[bytes, int]:
        """A stretch that has at least these, or all up to the end, and where in it the place is."""
        begin = place - self._begin
        if begin + count > len(self._held):
            held = self._held[begin:]
            self._file.seek(place + len(held))
            self._held, self._begin, begin = held + self._file.read(max(_WINDOW, count - len(held))), place, 0
        return self._held, begin

    def next_header(self, start: int) -> int:
        """The next place whose eight bytes of length agree with the checksum behind them, or the end.

        Each byte is looked at once, however often is asked.
        """
        while start + _HEADER <= self.size:
            if start not in self._window:
                self._window = range(start, start + _WINDOW)
                self._headers = start + _headers(self.at(start, _WINDOW + _HEADER - 1))
            later = self._headers[np.searchsorted(self._headers, start) :]
            if later.size:
                return int(later[0])
            start = self._window.stop
        return self.size


class Stretch(NamedTuple):
    """Consecutive events of a file.

    Attributes:
        scalars: those that hold one number and nothing else.
        others: which of the stretch's records each of the others is, and the event.
    """

    scalars: PlainScalars
    others: list[tuple[int, Any]]


def stretches(file: BinaryIO, size: int, problems: Problems, numbers: TagNumbers) -> Iterator[Stretch]:
    """Every event of a file; damage and a cut-off end are noted and skipped.

    Args:
        file: at its beginning.
        size: of it in bytes; what was added since is left for another time.
        problems: what is wrong is added there.
        numbers: of the tags.
    """
    source, place = _Bytes(file, size), 0
    while place + _HEADER <= size:
        place = yield from _undamaged(source, place, numbers)
        if place + _HEADER <= size:
            following = _after_damage(source, place, problems)
            if following is None:
                return
            place = following
    problems.cut_off += size - place


def _undamaged(source: _Bytes, place: int, numbers: TagNumbers) -> Generator[Stretch, None, int]:
    """The events up to the first that makes no sense; gives the place where it begins, or where too little is left.

    Each stretch has twice as many as the one before: what is looked at behind damage, and again after it, is never more
    than what was sound before it.
    """
    size, most = source.size, WORTH_IT
    while place + _HEADER <= size:
        (length,) = _LENGTH.unpack_from(source.at(place, _HEADER))
        if not 0 < length <= MOST_RECORD or place + _HEADER + length + _FOOTER > size:
            return place
        held, begin = source.held(place, _HEADER + length + _FOOTER)
        borders = _borders(held, begin, min(len(held), begin + size - place), most)
        found, sound = _taken_out(held, borders, numbers)
        yield found
        place, most = place + borders[sound] - begin, 2 * most
        if sound < len(borders) - 1:
            return place
    return place


def _borders(held: bytes, begin: int, end: int, most: int) -> list[int]:
    """Where records between two places begin, as far as they are whole, and where the last of them ends.

    Hundreds of thousands go through this loop: what it needs is looked up before it.
    """
    unpack, borders = _LENGTH.unpack_from, [begin]
    add, last = borders.append, end - _HEADER
    for _ in range(most):
        if begin > last:
            break
        (length,) = unpack(held, begin)
        begin += length + _HEADER + _FOOTER
        if begin > end or not length:
            break
        add(begin)
    return borders


def _taken_out(held: bytes, borders: list[int], numbers: TagNumbers) -> tuple[Stretch, int]:
    """The events between these borders up to the first that is none, and how many records that are."""
    scalars, count = NO_SCALARS, len(borders) - 1
    rest: Iterable[int] = range(count)
    if count >= WORTH_IT:
        places = np.array(borders)
        scalars = plain_scalars(held, places[:-1] + _HEADER, places[1:] - _FOOTER, numbers)
        rest = np.delete(np.arange(count), scalars.records).tolist()
    others: list[tuple[int, Any]] = []
    for record in rest:
        try:
            others.append((record, Event.FromString(held[borders[record] + _HEADER : borders[record + 1] - _FOOTER])))
        except DecodeError:
            return Stretch(scalars.before(record), others), record
    return Stretch(scalars, others), count


def _after_damage(source: _Bytes, place: int, problems: Problems) -> int | None:
    """Where to go on after a record that could not be read; None at the end of the file."""
    (length,) = _LENGTH.unpack_from(source.at(place, _HEADER))
    if source.next_header(place) == place:
        stop = place + _HEADER + length + _FOOTER
        if stop > source.size:
            problems.cut_off += source.size - place
            return None
        following = stop
    else:
        following = source.next_header(place + 1)
    problems.corrupt += 1
    problems.skipped += following - place
    return following if following < source.size else None


def _headers(content: bytes) -> NDArray[np.intp]:
    """Where a length of up to 4 GiB stands before its checksum, ascending."""
    rows = np.lib.stride_tricks.sliding_window_view(np.frombuffer(content, np.uint8), _HEADER)
    low, high = (np.bitwise_or.reduce([rows[:, i] for i in part]) for part in (range(4), range(4, 8)))
    places = np.flatnonzero((high == 0) & (low != 0))
    return places[_agrees(rows[places])]


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
