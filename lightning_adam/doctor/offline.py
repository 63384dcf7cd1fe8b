"""Runs of W&B that were not uploaded: ``run-….wandb``, as far as the installed ``wandb`` knows its records.

The file is a log as LevelDB's (https://github.com/google/leveldb/blob/main/doc/log_format.md): blocks of 32 KiB with
fragments of records, each a checksum, a length and a kind. wandb has had no reader of it in Python since it moved to Go.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_adam.doctor.tabular import Row, series_of
from lightning_adam.tensorboard.files import read_plain
from lightning_adam.tensorboard.reader import RunLog

OFFLINE_FILE = ".wandb"
"""Ending of the file with all that a run logged."""
MAGIC = b":W&B\xe1\xbe\x00"
"""How it begins; the last byte is the version."""

_FRAGMENT = struct.Struct("<IHB")
_BLOCK = 32768
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def read_offline(file: Path, name: str) -> RunLog:
    """The scalars of a run; where they cannot be read, a note with what to do."""
    run = RunLog(name, file.parent)
    try:
        run.scalars = series_of(_rows(read_plain(file), run.notes), run.notes)
    except Exception as error:  # a foreign library's import and parser, in any version: whatever they raise
        run.notes.append(f"{file.name} could not be read: {_what_to_do(error, file.parent)}")
    return run


def _what_to_do(error: Exception, folder: Path) -> str:
    export = f"`wandb sync {folder}` and export the run's history as CSV"
    if isinstance(error, ImportError):
        return f"it takes wandb, which cannot be imported ({error}). pip install wandb, or {export}"
    return f"{type(error).__name__}: {error}. Try {export}"


def _rows(content: bytes, notes: list[str]) -> list[Row]:
    import wandb.proto.wandb_internal_pb2 as wandb_records

    if not content.startswith(MAGIC):
        raise ValueError("it does not begin as the files of W&B do that are known here")
    records = (wandb_records.Record.FromString(payload) for payload in _records(content, notes))
    return [_row(record.history) for record in records if record.HasField("history")]


def _row(history: Any) -> Row:
    """One call of ``wandb.log``: numbers are JSON; lists are the parts of histograms, and stay out."""
    row = {"_step": history.step.num}
    for item in history.item:
        if not item.value_json.startswith(("[", "{")):
            row[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
    return row


def _records(content: bytes, notes: list[str]) -> Iterator[bytes]:
    """Every record that is whole."""
    parts: list[bytes] = []
    for kind, data in _fragments(content, notes):
        begins, goes_on = kind in (_WHOLE, _FIRST), kind in (_MIDDLE, _LAST) and bool(parts)
        parts = [data] if begins else [*parts, data] if goes_on else []
        if parts and kind in (_WHOLE, _LAST):
            yield b"".join(parts)
            parts = []


def _fragments(content: bytes, notes: list[str]) -> Iterator[tuple[int, bytes]]:
    """Kind and data; kind 0 in place of a block's rest that is damaged."""
    place, end, damaged = len(MAGIC), len(content), 0
    while place + _FRAGMENT.size <= end:
        left = _BLOCK - place % _BLOCK
        if left < _FRAGMENT.size:  # too little for a header: zeros
            place += left
        elif (fragment := _fragment(content, place)) is not None:
            yield fragment
            place += _FRAGMENT.size + len(fragment[1])
        else:
            yield 0, b""
            place += left
            damaged += place < end
    notes += [f"{damaged} damaged block(s) of {_BLOCK} bytes were skipped"] if damaged else []
    notes += ["the last record is cut off: the run was killed, or is still writing"] if place != end else []


def _fragment(content: bytes, place: int) -> tuple[int, bytes] | None:
    """What begins there; None where its checksum does not fit."""
    checksum, length, kind = _FRAGMENT.unpack_from(content, place)
    data = content[place + _FRAGMENT.size : place + _FRAGMENT.size + length]
    return (kind, data) if zlib.crc32(data, zlib.crc32(bytes([kind]))) == checksum else None
