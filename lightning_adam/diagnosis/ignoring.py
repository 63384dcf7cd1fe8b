"""Which findings a user does not want to hear of: ``"LR-LOW"``, or ``"DEAD-PARAMETER:experts.*"`` for some parameters."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from lightning_adam.diagnosis.finding import Finding
from lightning_adam.errors import ConfigError, nearest


def checked_ignore(ignore: object, codes: Collection[str]) -> tuple[str, ...]:
    """The patterns, once each of them names a code.

    Raises:
        ConfigError: it is no list of codes; the message has the nearest code.
    """
    if isinstance(ignore, str) or not isinstance(ignore, Sequence):
        raise ConfigError(f"ignore={ignore!r}: give a list of codes, such as ignore=['LR-LOW'].")
    for pattern in ignore:
        code, colon, glob = str(pattern).partition(":")
        if code not in codes:
            known = ", ".join(codes)
            raise ConfigError(f"ignore has {pattern!r}, and {code!r} is no code.{nearest(code, codes)} Known: {known}.")
        if colon and not glob:
            raise ConfigError(f"ignore has {pattern!r}: write {code!r}, or a glob of parameter names behind the colon.")
    return tuple(map(str, ignore))


def is_ignored(finding: Finding, ignore: Sequence[str]) -> bool:
    """Whether a pattern has the finding's code and, where it names parameters, all those that the finding is about."""
    return any(_matches(finding, *pattern.partition(":")[::2]) for pattern in ignore)


def _matches(finding: Finding, code: str, glob: str) -> bool:
    concerned = finding.parameters
    return code == finding.rule and (not glob or (bool(concerned) and all(fnmatchcase(name, glob) for name in concerned)))
