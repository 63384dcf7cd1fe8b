"""Files of a log folder, where anybody may have put anything: only plain ones are opened, and none is read without end."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

EVENT_FILE = "tfevents"
"""What TensorBoard, too, knows an event file by: this word in its name."""
MOST_BYTES = 1 << 28
"""Of a file that is read at once; event files are read piece by piece."""


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
    """Those of a folder's files, oldest first; pipes and devices are none, and reading them would not end."""
    files = [folder / name for name in sorted(names, key=_by_numbers) if EVENT_FILE in name]
    return [file for file in files if file.is_file() or not file.exists()]


def _by_numbers(name: str) -> list[tuple[int, str]]:
    """Sorts ``….9`` before ``….10``: event files end in a count, which alone tells apart those of one second."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]{1,18})", name)]


def open_plain(place: Path) -> tuple[BinaryIO, int]:
    """A plain file and its present size: opening a pipe would wait for somebody who writes, for ever.

    Raises:
        OSError: it is none, or cannot be opened.
    """
    handle = os.open(place, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    found = os.fstat(handle)
    if stat.S_ISREG(found.st_mode):
        return os.fdopen(handle, "rb"), found.st_size
    os.close(handle)
    raise OSError(errno.EINVAL, "it is no plain file", str(place))


def read_plain(place: Path) -> bytes:
    """All of a plain file.

    Raises:
        OSError: it is none, cannot be read, or has more than ``MOST_BYTES``.
    """
    file, size = open_plain(place)
    with file:
        if size > MOST_BYTES:
            raise OSError(errno.EFBIG, f"it has {size} bytes, more than the {MOST_BYTES} that are read", str(place))
        return file.read(size)  # what is added meanwhile, or what a file of /proc has, is not waited for
