"""What counts as a number in an argument, and arguments as Python's own values."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any


def is_finite(value: Any) -> bool:
    """Whether it is an int or a float that a float can hold; True and False are none.

    Example:
        >>> [is_finite(value) for value in (2, 0.5, True, "2", float("nan"), 10**400)]
        [True, True, False, False, False, False]
    """
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def is_count(value: Any, least: int = 1) -> bool:
    """Whether it is a whole number, an int, of that size or more; True is none.

    Example:
        >>> [is_count(value) for value in (3, 0, True, 3.0)]
        [True, False, False, False]
    """
    return isinstance(value, int) and is_finite(value) and value >= least


def plain_number(value: Any) -> Any:
    """NumPy's numbers and fractions as Python's own; anything else as it is."""
    if isinstance(value, (bool, int, float)) and type(value).__module__ != "numpy":
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value


def plain(value: Any) -> Any:
    """Mappings as dicts, sequences as lists (tuples stay), NumPy's numbers as Python's; anything else as it is."""
    if isinstance(value, Mapping):
        return {plain(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return type(value)(map(plain, value)) if type(value) is tuple else [plain(entry) for entry in value]
    return plain_number(value)
