"""What a checkpoint holds of a monitor: plain types and tensors, with a version."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning_adam.diagnosis.finding import Finding, readable_findings
from lightning_adam.errors import say_left_out

VERSION = 2


@dataclass(frozen=True)
class MonitorState:
    """A monitor's memory between two parts of a run.

    Attributes:
        statistics: counters and heatmap, by the optimizer's prefix.
        diagnoses: of each optimizer, by position.
        actions_taken: what was done about findings, as findings.
        actions: how many, and what they did to the learning rate.
    """

    statistics: dict[str, Any] = field(default_factory=dict)
    diagnoses: list[Any] = field(default_factory=list)
    actions_taken: list[Any] = field(default_factory=list)
    actions: dict[str, Any] = field(default_factory=dict)

    @property
    def findings(self) -> list[Finding]:
        """All findings that it holds, in order."""
        stored = [finding for diagnosis in self.diagnoses for finding in readable_findings(diagnosis.get("findings"))]
        found = [finding for finding in [*stored, *readable_findings(self.actions_taken)] if finding is not None]
        return sorted(found, key=lambda finding: finding.step)

    def of_earlier_fit(self) -> MonitorState:
        """For a fit that goes on with new optimizers: counters and pictures go on, findings are over, the rest is past."""
        known = [diagnosis.get("findings") for diagnosis in self.diagnoses]
        over = [
            [{**f, "over": True} for f in found if isinstance(f, Mapping)] if isinstance(found, list) else []
            for found in known
        ]
        empty = [0] * max(map(len, over), default=0)
        diagnoses: list[dict[str, Any]] = [
            {"findings": found, "seen": empty[: len(found)], "began": empty[: len(found)], "history": {}} for found in over
        ]
        return MonitorState(self.statistics, diagnoses, self.actions_taken)

    def to_dict(self) -> dict[str, Any]:
        """For a checkpoint, which Lightning loads with ``weights_only=True``."""
        return {"version": VERSION, **{name: getattr(self, name) for name in _FIELDS}}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> MonitorState:
        """The inverse of :meth:`to_dict`; of version 1, too, which had no number. Says what cannot be used."""
        if not isinstance(stored, Mapping):
            say_left_out("monitor state", ["all of it"])
            return cls()
        known = stored if "version" in stored else _of_version_1(stored)
        taken = {name: known[name] for name in _FIELDS if name in known and _IS_ONE[name](known[name])}
        say_left_out("monitor state", [name for name in _FIELDS if name not in taken])
        return cls(**taken)


def _is_by_name(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


_IS_ONE: dict[str, Callable[[Any], bool]] = {
    "statistics": lambda value: _is_by_name(value) and all(map(_is_by_name, value.values())),
    "diagnoses": lambda value: isinstance(value, list) and all(map(_is_by_name, value)),
    "actions_taken": lambda value: isinstance(value, list),
    "actions": _is_by_name,
}
_FIELDS = tuple(MonitorState.__dataclass_fields__)


def _of_version_1(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Counters and heatmaps of several optimizers were apart; an action's count and factor lay beside the diagnoses."""
    statistics: dict[str, Any] = {}
    for name, key in (("clipped", "clipped"), ("skipped", "skipped"), ("heatmap", "heatmaps")):
        for prefix, value in stored[key].items() if isinstance(stored.get(key), Mapping) else ():
            statistics.setdefault(prefix, {})[name] = value
    renamed = {"taken": "taken", "factor": "factor", "last": "last_action"}
    actions = {new: stored[old] for new, old in renamed.items() if old in stored}
    return {
        "statistics": statistics,
        "diagnoses": stored.get("diagnoses", []),
        "actions_taken": stored.get("done", []),
        "actions": actions,
    }
