"""Findings as the engine follows them: each is one sickness, from the step where it was seen first until it is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from lightning_adam.diagnosis.finding import Finding, readable_findings
from lightning_adam.diagnosis.stored import is_list_of

T = TypeVar("T", int, bool)


@dataclass
class Episode:
    """One sickness.

    Attributes:
        finding: what is told of it; brought up to date as the run goes on.
        seen: the count of steps when it was seen last.
        began: the count of steps when it began.
        is_suspected: whether it is information only until the loss agrees.
    """

    finding: Finding
    seen: int
    began: int
    is_suspected: bool

    @property
    def counts(self) -> bool:
        """More than information, or about to be."""
        return self.finding.severity != "info" or self.is_suspected


def stored(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Plain types: Lightning loads checkpoints with ``weights_only=True``."""
    return {
        "findings": [episode.finding.to_dict() for episode in episodes],
        "seen": [episode.seen for episode in episodes],
        "began": [episode.began for episode in episodes],
        "suspected": [episode.is_suspected for episode in episodes],
    }


def restored(state: Mapping[str, Any], now: int) -> tuple[list[Episode], list[str]]:
    """What :func:`stored` gave, maybe by another version, and the names of what cannot be used.

    Args:
        state: the whole state of a diagnosis.
        now: the count of steps, for episodes of which it is not known when they were seen.
    """
    findings = readable_findings(state.get("findings"))
    if "suspected" not in state:  # an older version had no suspicions
        state = {**state, "suspected": [False] * len(findings)}
    seen, began = (_matching(int, state.get(name), findings) for name in ("seen", "began"))
    suspected = _matching(bool, state.get("suspected"), findings)
    columns = {"seen": seen, "began": began, "suspected": suspected}
    damaged = [name for name, column in columns.items() if column is None]
    damaged += ["findings"] if None in findings or not isinstance(state.get("findings"), list) else []
    readable = [finding for finding in findings if finding is not None]
    count = len(readable)
    known = zip(readable, seen or [now] * count, began or [now] * count, suspected or [False] * count, strict=True)
    return [Episode(*parts) for parts in known], damaged


def _matching(kind: type[T], column: Any, findings: Sequence[Finding | None]) -> list[T] | None:
    """Of the findings that can be read; None where there is not one for each finding."""
    if not is_list_of(kind, column) or len(column) != len(findings):
        return None
    return [value for value, finding in zip(column, findings, strict=True) if finding is not None]
