"""What the options of a schedule's curve may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightning_adam.real_numbers import is_finite


@dataclass(frozen=True)
class Limit:
    """What an option of a schedule may be.

    Attributes:
        allows: whether a finite number is allowed.
        words: the same in words.
    """

    allows: Callable[[float], bool]
    words: str


LIMITS: dict[str, Limit] = {
    "final": Limit(lambda x: 0 < x < 1, "between 0 and 1: the share of the rate that is left at the end, such as 0.01"),
    "power": Limit(lambda x: x > 0, "above 0: 1 is a line, 2 a parabola"),
    "div_factor": Limit(lambda x: x >= 1, "1 or above: the first rate is the peak divided by it"),
    "final_div_factor": Limit(lambda x: x >= 1, "1 or above: the last rate is the first divided by it"),
}
"""Of the options that curves compute with; what plateau takes is checked there."""


def is_allowed(value: Any, limit: Limit) -> bool:
    """Whether a value is a finite number within the limit; True and False are none."""
    return is_finite(value) and limit.allows(value)
