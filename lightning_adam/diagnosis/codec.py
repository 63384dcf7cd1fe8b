"""Signals as bytes, and back: what the monitor writes to the log, the doctor reads, and the benchmark keeps.

Compressed JSON: the field names once, then one array per record. Floats survive exactly (Python prints the shortest digits
that read back the same).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

from lightning_adam.diagnosis.signals import HeavySignals, NonFinite, RunSignals, StepSignals

Record = RunSignals | StepSignals
VERSION = 1
MOST_BYTES, MOST_TIMES = 1 << 24, 100
"""Of a stretch when it is inflated: so many in all, and times its size."""
MOST_STEPS = 2**63
"""What no step reaches."""

_KINDS: dict[str, type] = {"run": RunSignals, "step": StepSignals, "heavy": HeavySignals, "non_finite": NonFinite}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_VALUES = {name: attrgetter(*(f.name for f in fields(kind))) for name, kind in _KINDS.items()}
_PARTS = {
    name: [index for index, f in enumerate(fields(kind)) if f.name in ("non_finite", "heavy")]
    for name, kind in _KINDS.items()
}
"""By the kind of a record, which of its fields may hold another one."""


def encode(records: Iterable[Record]) -> bytes:
    """Records in order, as bytes that :func:`decode` turns back into equal records."""
    layout = {name: [f.name for f in fields(kind)] for name, kind in _KINDS.items()}
    content = {"version": VERSION, "fields": layout, "records": [_plain(record) for record in records]}
    return zlib.compress(json.dumps(content, separators=(",", ":")).encode(), 6)


def decode(stored: bytes) -> list[Record]:
    """The inverse of :func:`encode`; fields that are not known any more are left out, new ones have their defaults.

    Raises:
        ValueError: the bytes are none of ours, or of a newer version.
    """
    try:
        content = json.loads(_inflated(stored))
        if content["version"] > VERSION:
            raise ValueError(f"they are of version {content['version']}, this lightning-adam reads up to {VERSION}")
        return [_checked(_restored(record, content["fields"])) for record in content["records"]]
    except ValueError as error:
        raise ValueError(f"These bytes are not recorded signals: {error}.") from error
    except (zlib.error, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"These bytes are not recorded signals ({type(error).__name__}: {error}).") from error


def _inflated(stored: bytes) -> bytes:
    """A kilobyte may stand for a megabyte of nothing; signals shrink to a tenth or so."""
    most = min(MOST_BYTES, max(MOST_BYTES // 16, MOST_TIMES * len(stored)))
    inflating = zlib.decompressobj()
    content = inflating.decompress(stored, most)
    if inflating.unconsumed_tail:
        raise ValueError(f"{len(stored)} bytes are more than {most} when inflated")
    if not inflating.eof:
        raise ValueError("they are cut off")
    return content


def _checked(record: Any) -> Record:
    """Of the types that are declared: the rules reckon with them.

    Raises:
        ValueError: a field is of another, or beyond what a whole number of 64 bits holds.
    """
    if not isinstance(record, Record):
        raise ValueError(f"a record is {type(record).__name__}")
    for part in (record, getattr(record, "heavy", None), getattr(record, "non_finite", None)):
        for name, is_one in _TYPES.get(type(part), {}).items():
            if not is_one(getattr(part, name)):
                raise ValueError(f"{name} is {str(getattr(part, name))[:40]!r}")
    return record


def _is_whole(value: Any) -> bool:
    return type(value) is int and abs(value) < MOST_STEPS


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or _is_whole(value)


_IS_OF: dict[str, Callable[[Any], bool]] = {
    "int": _is_whole,
    "float": _is_number,
    "bool": lambda value: isinstance(value, bool),
    "str": lambda value: isinstance(value, str),
    "tuple[str, ...]": lambda value: isinstance(value, tuple) and all(isinstance(word, str) for word in value),
    "tuple[float, ...]": lambda value: isinstance(value, tuple) and all(map(_is_number, value)),
    "Mapping[str, Any] | None": lambda value: value is None or isinstance(value, Mapping),
    "NonFinite | None": lambda value: value is None or isinstance(value, NonFinite),
    "HeavySignals | None": lambda value: value is None or isinstance(value, HeavySignals),
    "Literal['loss', 'gradient', 'moment', 'parameter']": lambda value: value in ("loss", "gradient", "moment", "parameter"),
}
"""By a field's annotation, whether a value is of it."""
_TYPES = {kind: {f.name: _IS_OF[str(f.type)] for f in fields(kind)} for kind in _KINDS.values()}


def _plain(value: Any) -> Any:
    name = _NAMES.get(type(value))
    if name is None:
        return value
    values = list(_VALUES[name](value))
    for index in _PARTS[name]:
        values[index] = _plain(values[index])
    return [name, *values]


def _restored(stored: Sequence[Any], layout: Mapping[str, Sequence[str]]) -> Any:
    name, *values = stored
    kind = _KINDS[name]
    known = {f.name for f in fields(kind)}
    given = {k: _value(v, layout) for k, v in zip(layout[name], values, strict=True) if k in known}
    return kind(**given)


def _value(stored: Any, layout: Mapping[str, Sequence[str]]) -> Any:
    if not isinstance(stored, list):
        return stored
    is_record = bool(stored) and stored[0] in _KINDS and len(stored) == len(layout[stored[0]]) + 1
    return _restored(stored, layout) if is_record else tuple(stored)
