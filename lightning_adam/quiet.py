"""Hides warnings for a while, and leaves what the user was told once as it is."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def without_warnings(message: str = "") -> Iterator[None]:
    """Hide warnings whose text begins with ``message``, a regular expression; all by default.

    ``warnings.catch_warnings`` forgets on its way out which warnings were shown once: the user would be told each of them
    again, after every use of it. A filter that is put in and taken out by hand leaves that memory alone.

    Args:
        message: what the text begins with.
    """
    filters: Any = warnings.filters
    ours = ("ignore", re.compile(message, re.IGNORECASE) if message else None, Warning, None, 0)
    filters.insert(0, ours)
    try:
        yield
    finally:
        with suppress(ValueError):  # somebody has reset all filters in the meantime
            filters.remove(ours)
