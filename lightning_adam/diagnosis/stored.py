"""Whether what a checkpoint holds is what it should be: it may be of another version, or damaged."""

from __future__ import annotations

from typing import Any


def is_number(value: Any) -> bool:
    """An int or a float, and no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_list_of(kinds: type | tuple[type, ...], value: Any) -> bool:
    """A list with nothing else in it; a bool is no number."""
    return isinstance(value, list) and all(
        isinstance(entry, kinds) and (not isinstance(entry, bool) or kinds is bool) for entry in value
    )


def is_alike(value: Any, like: Any) -> bool:
    """Whether a stored value is of the type of a present one; lists hold numbers, dicts lists of numbers by name."""
    if isinstance(like, bool | str):
        return type(value) is type(like)
    if isinstance(like, int):
        return type(value) is int
    if isinstance(like, float):
        return is_number(value)
    if isinstance(like, list):
        return is_list_of((int, float), value)
    return isinstance(value, dict) and all(isinstance(k, str) and is_list_of((int, float), v) for k, v in value.items())
