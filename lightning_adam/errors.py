"""What goes wrong at configuration time, and how the message finds the nearest right spelling."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ConfigError(ValueError):
    """An argument is wrong: the message names it, what it got, what is allowed, and what to write instead."""


class LightningAdamWarning(UserWarning):
    """Something was changed or left out, and training goes on."""


def nearest(word: str, allowed: Iterable[str]) -> str:
    """A question to append to a message, or nothing.

    Example:
        >>> nearest("adamww", ["adam", "adamw"])
        " Did you mean 'adamw'?"
    """
    matches = get_close_matches(word, list(allowed), n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""
