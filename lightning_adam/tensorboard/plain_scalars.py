"""Events that hold one number, and nothing else, taken out of a stretch of bytes all at once.

Nearly all events of a log are of this one form: time, step, and a summary of one value with a tag and a number, in this
order. Parsing them one by one, and asking each for its fields, takes ten times as long as NumPy takes for a stretch of them.
Whatever has another form, however little it differs, is left to the parser.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

_TIME, _STEP, _SUMMARY, _VALUE, _TAG, _NUMBER = b"\x09\x10\x2a\x0a\x0a\x15"
"""Keys of the fields, with how they are encoded: event.proto and summary.proto of TensorBoard."""
_LONGEST_STEP = 9
"""Bytes of a step; those of ten are negative."""


class PlainScalars(NamedTuple):
    """Numbers of a stretch in the order in which they were written, [n] each.

    Attributes:
        records: which of the stretch's records each is.
        tags: by the number that :class:`TagNumbers` gives.
        steps: as written.
        values: as written.
    """

    records: Integers
    tags: Integers
    steps: Integers
    values: NDArray[np.float64]

    def chosen(self, places: NDArray[Any]) -> PlainScalars:
        """Those at these places, or where they are true."""
        return PlainScalars._make(column[places] for column in self)

    def before(self, record: int) -> PlainScalars:
        """Those of earlier records."""
        return self.chosen(self.records < record)


NO_SCALARS = PlainScalars._make(np.empty(0, dtype) for dtype in (np.int64, np.int64, np.int64, np.float64))


class TagNumbers(dict[bytes, int]):
    """A number for each tag, in the order in which they are met first; -1 for what is no text."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __missing__(self, tag: bytes) -> int:
        try:
            self.names.append(tag.decode())
        except UnicodeDecodeError:
            self[tag] = -1
        else:
            self[tag] = len(self.names) - 1
        return self[tag]


class _Cursor:
    """One place in each of many records, that moves on in all of them; ``fits`` tells where what was read made sense."""

    def __init__(self, held: bytes, begins: Integers) -> None:
        self._bytes = np.frombuffer(held, np.uint8)
        self.places, self.fits = begins, np.ones(len(begins), dtype=bool)

    def at(self, ahead: int = 0) -> Bytes:
        """The bytes there; the last one's of all where that would be behind them."""
        return self._bytes.take(self.places + ahead, mode="clip")

    def key(self, expected: int) -> None:
        """A field begins."""
        self.fits &= self.at() == expected
        self.places = self.places + 1

    def length(self) -> Integers:
        """Of what follows; longer than two bytes hold it is not plain."""
        low, high = self.at().astype(np.int64), self.at(1).astype(np.int64)
        is_long = low > 0x7F
        self.fits &= ~is_long | (high <= 0x7F)
        self.places = self.places + 1 + is_long
        return np.where(is_long, (low & 0x7F) | high << 7, low)

    def step(self) -> Integers:
        """A whole number of 63 bits, which is left out where it is 0."""
        going_on = self.at() == _STEP
        self.places = self.places + going_on
        steps = np.zeros(len(self.places), dtype=np.int64)
        for index in range(_LONGEST_STEP):
            if not going_on.any():
                break
            digit = self.at().astype(np.int64)
            steps |= np.where(going_on, digit & 0x7F, 0) << 7 * index
            self.places = self.places + going_on
            going_on = going_on & (digit > 0x7F)
        self.fits &= ~going_on
        return steps

    def numbers(self) -> NDArray[np.float64]:
        """Floats of 32 bits."""
        rows = np.stack([self.at(index) for index in range(4)], axis=1)
        self.places = self.places + 4
        with np.errstate(invalid="ignore"):  # a signalling NaN
            return rows.view("<f4")[:, 0].astype(np.float64)


def plain_scalars(held: bytes, begins: Integers, ends: Integers, numbers: TagNumbers) -> PlainScalars:
    """The numbers among some events.

    Args:
        held: bytes that hold them all.
        begins: where each event begins, ascending.
        ends: where each ends.
        numbers: of the tags.
    """
    cursor = _Cursor(held, begins)
    cursor.key(_TIME)
    cursor.places = cursor.places + 8
    steps = cursor.step()
    for key in (_SUMMARY, _VALUE):
        cursor.key(key)
        inside = cursor.length()
        cursor.fits &= cursor.places + inside == ends
    cursor.key(_TAG)
    widths = cursor.length()
    tags = cursor.places
    cursor.places = tags + widths
    cursor.key(_NUMBER)
    values = cursor.numbers()
    records = np.flatnonzero(cursor.fits & (cursor.places == ends))
    slices = map(slice, tags[records].tolist(), (tags + widths)[records].tolist())
    numbered = np.fromiter(map(numbers.__getitem__, map(held.__getitem__, slices)), np.int64, len(records))
    return PlainScalars(records, numbered, steps[records], values[records]).chosen(numbered >= 0)
