"""What goes wrong at configuration time, and how the message finds the nearest right spelling."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable
from difflib import get_close_matches

from lightning_adam.names import MEANT


class ConfigError(ValueError):
    """An argument is wrong: the message names it, what it got, what is allowed, and what to write instead."""


class LightningAdamWarning(UserWarning):
    """Something was changed or left out, and training goes on."""


def say_left_out(of: str, parts: Collection[str]) -> None:
    """One line of what a checkpoint holds and this version cannot use; nothing where ``parts`` is empty."""
    if parts:
        line = f"The checkpoint's {of} could not be taken up whole: left out {', '.join(parts)}."
        warnings.warn(line, LightningAdamWarning, stacklevel=3)


def check_choice(argument: str, value: object, allowed: Collection[str]) -> None:
    """Refuse a word that is not among those that an argument takes.

    Raises:
        ConfigError: it is none of them; the message has the nearest and all.
    """
    if value not in allowed:
        choices = ", ".join(map(repr, allowed))
        raise ConfigError(f"{argument}={value!r} is not known.{nearest(str(value), allowed)} Allowed: {choices}.")


def nearest(word: str, allowed: Iterable[str]) -> str:
    """A question to append to a message, or nothing. Capitals do not count.

    Example:
        >>> nearest("AdamWW", ["adam", "adamw"])
        " Did you mean 'adamw'?"
        >>> nearest("learning_rate", ["lr", "eps"])
        " Did you mean 'lr'?"
    """
    names = {name.lower(): name for name in allowed}
    meant = MEANT.get(word.lower())
    matches = [meant] if meant in names else get_close_matches(word.lower(), names, n=1)
    return f" Did you mean {names[matches[0]]!r}?" if matches else ""
