"""Signals as bytes, and back: what the monitor writes to the log, the doctor reads, and the benchmark keeps.

Compressed JSON: the field names once, then one array per record. Floats survive exactly (Python prints the shortest digits
that read back the same).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from lightning_adam.diagnosis.signals import HeavySignals, NonFinite, RunSignals, StepSignals

Record = RunSignals | StepSignals
VERSION = 1

_KINDS: dict[str, type] = {"run": RunSignals, "step": StepSignals, "heavy": HeavySignals, "non_finite": NonFinite}
_NAMES = {kind: name for name, kind in _KINDS.items()}


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
        content = json.loads(zlib.decompress(stored))
    except zlib.error as error:
        raise ValueError(f"These bytes are not recorded signals: {error}.") from error
    if content["version"] > VERSION:
        raise ValueError(f"The signals are of version {content['version']}, this lightning-adam reads up to {VERSION}.")
    return [_restored(record, content["fields"]) for record in content["records"]]


def _plain(value: Any) -> Any:
    name = _NAMES.get(type(value))
    return value if name is None else [name, *(_plain(getattr(value, f.name)) for f in fields(value))]


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
