"""Remembers what was read of a class: reading a signature takes longer than a step of a small network."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar, cast

Read = TypeVar("Read")


def once_per_class(read: Callable[[type[Any]], Read]) -> Callable[[type[Any]], Read]:
    """Call ``read`` once for each class; of the last 128 classes."""
    return cast(Callable[[type[Any]], Read], lru_cache(read))  # mypy holds classes not to be hashable
