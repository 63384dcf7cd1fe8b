"""Which parameters an argument such as ``include="*.weight"`` names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from lightning_adam.errors import ConfigError, nearest

Patterns = str | Sequence[str] | None


def as_patterns(argument: str, patterns: Patterns) -> tuple[str, ...] | None:
    """One glob or several as a tuple; None stays None.

    Raises:
        ConfigError: something else than text.
    """
    if patterns is None:
        return None
    several = (patterns,) if isinstance(patterns, str) else patterns
    if not isinstance(several, Sequence) or not several or not all(isinstance(p, str) and p for p in several):
        raise ConfigError(f'{argument}={patterns!r}: give a glob on parameter names such as "*.weight", or a list of globs.')
    return tuple(several)


def matching(argument: str, patterns: tuple[str, ...], names: Iterable[str]) -> set[str]:
    """The names that any of the patterns matches.

    Raises:
        ConfigError: a pattern that matches none; the message has the nearest name.
    """
    known = list(names)
    found: set[str] = set()
    for pattern in patterns:
        hits = {name for name in known if fnmatchcase(name, pattern)}
        if not hits:
            first = ", ".join(known[:5]) + (", …" if len(known) > 5 else "")
            raise ConfigError(
                f"{argument}={pattern!r} matches no parameter of the model.{nearest(pattern, known)} There are: {first}."
            )
        found |= hits
    return found


def selected(include: tuple[str, ...] | None, exclude: tuple[str, ...] | None, names: Iterable[str]) -> set[str]:
    """What ``include`` matches (all by default) and ``exclude`` does not.

    Raises:
        ConfigError: a pattern that matches nothing, or nothing is left.
    """
    known = list(names)
    chosen = set(known) if include is None else matching("include", include, known)
    chosen -= set() if exclude is None else matching("exclude", exclude, known)
    if known and not chosen:
        raise ConfigError(f"include={include!r} and exclude={exclude!r} together leave no parameter to look at.")
    return chosen
