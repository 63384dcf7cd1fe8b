"""What runs have told, as it was read: findings and configuration come out of it without another request."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_adam.diagnosis import RunSignals
from lightning_adam.tensorboard.configuration import CONFIG, configured, configured_rate
from lightning_adam.tensorboard.reader import EVENTS
from lightning_adam.tensorboard.tab.findings import is_whole, parsed, spans
from lightning_adam.tensorboard.tab.going_back import abandoned

TABLE = "/findings/text_summary"
CLOCKS = ("/log10_lr", "/findings_total")
"""Endings of what an optimizer's monitors log at every logged step."""


def told_tags(prefix: str) -> list[str]:
    """What it takes to know an optimizer's findings."""
    return [prefix + EVENTS, prefix + TABLE, *(prefix + clock for clock in CLOCKS)]


@dataclass(frozen=True)
class Bulk:
    """TensorBoard's points by run and tag.

    Attributes:
        words: series of strings.
        scalars: series of numbers.
    """

    words: Mapping[str, Mapping[str, Any]]
    scalars: Mapping[str, Mapping[str, Any]]

    def points(self, run: str, tag: str) -> Sequence[Any]:
        """Of a scalar; empty where the run has none of that name."""
        return self.scalars.get(run, {}).get(tag) or []

    def configuration(self, run: str, prefix: str) -> RunSignals | None:
        """How the optimizer was configured; None where no table tells."""
        text = self._last_text(run, prefix + CONFIG)
        return None if text is None else configured(_decoded(text))

    def rate(self, run: str, prefix: str) -> float:
        """The highest learning rate that the optimizer is known to have had; NaN where none is known."""
        text, points = self._last_text(run, prefix + CONFIG), self.points(run, prefix + CLOCKS[0])
        logged = [10**point.value for point in points]
        known = [rate for rate in (*logged, configured_rate(_decoded(text)) if text is not None else math.nan) if rate > 0]
        return max((float(f"{rate:.3g}") for rate in known if math.isfinite(rate)), default=math.nan)

    def findings(self, run: str, prefix: str) -> list[dict[str, Any]]:
        """All findings in order of their steps, as the doctor judges them.

        Left out is what is no finding, what a resumed run went back before, and what turned out to be another finding; of a
        suspicion that was confirmed the first telling.
        """
        clocks = [self.points(run, prefix + clock) for clock in CLOCKS]
        table = self._last_text(run, prefix + TABLE)
        found = [
            _until(finding, table, event.wall_time)
            for event in self.words.get(run, {}).get(prefix + EVENTS, [])
            if not abandoned(event, clocks)
            for text in event.numpy.reshape(-1).tolist()
            for finding in parsed(text)
        ]
        as_told_last = {(f["rule"], f["step"], "action" in f["evidence"]): f for f in found if f is not None}
        return sorted(as_told_last.values(), key=lambda finding: int(finding["step"]))

    def _last_text(self, run: str, tag: str) -> Any:
        points = self.words.get(run, {}).get(tag, [])
        return points[-1] if points and points[-1].numpy.size else None


def _decoded(point: Any) -> str:
    content = point.numpy.reshape(-1)[0]
    return content.decode(errors="replace") if isinstance(content, bytes) else str(content)


def _until(finding: dict[str, Any], table: Any, told: float) -> dict[str, Any] | None:
    """With the step where it was seen last, and whether it is over; None where a later table knows it under another code."""
    if table is None:
        return finding
    text = _decoded(table)
    span = spans(text).get((finding["rule"], finding["step"]))
    if span is None:
        return None if table.wall_time > told and is_whole(text) else finding
    return finding | {"last_step": max(span.last_step, finding["last_step"]), "over": span.over}
