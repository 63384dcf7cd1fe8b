"""What goes wrong at configuration time, and how the message finds the nearest right spelling."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable
from difflib import get_close_matches


class ConfigError(ValueError):
    """An argument is wrong: the message names it, what it got, what is allowed, and what to write instead."""


class LightningAdamWarning(UserWarning):
    """Something was changed or left out, and training goes on."""


def say_left_out(of: str, parts: Collection[str]) -> None:
    """One line of what a checkpoint holds and this version cannot use; nothing where ``parts`` is empty."""
    if parts:
        line = f"The checkpoint's {of} could not be taken up whole: left out {', '.join(parts)}."
        warnings.warn(line, LightningAdamWarning, stacklevel=3)


def nearest(word: str, allowed: Iterable[str]) -> str:
    """A question to append to a message, or nothing.

    Example:
        >>> nearest("adamww", ["adam", "adamw"])
        " Did you mean 'adamw'?"
    """
    matches = get_close_matches(word, list(allowed), n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""
