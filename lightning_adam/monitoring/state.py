"""What a checkpoint holds of a monitor: plain types and tensors, with a version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning_adam.diagnosis import Finding

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
        stored = [finding for diagnosis in self.diagnoses for finding in diagnosis["findings"]]
        found = [Finding.from_dict(finding) for finding in [*stored, *self.actions_taken]]
        return sorted(found, key=lambda finding: finding.step)

    def to_dict(self) -> dict[str, Any]:
        """For a checkpoint, which Lightning loads with ``weights_only=True``."""
        return {"version": VERSION, **{name: getattr(self, name) for name in _FIELDS}}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> MonitorState:
        """The inverse of :meth:`to_dict`; of version 1, too, which had no number. What is not known is left out."""
        known = stored if "version" in stored else _of_version_1(stored)
        return cls(**{name: known[name] for name in _FIELDS if name in known})


_FIELDS = tuple(MonitorState.__dataclass_fields__)


def _of_version_1(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Counters and heatmaps of several optimizers were apart; an action's count and factor lay beside the diagnoses."""
    statistics: dict[str, Any] = {}
    for name, key in (("clipped", "clipped"), ("skipped", "skipped"), ("heatmap", "heatmaps")):
        for prefix, value in stored.get(key, {}).items():
            statistics.setdefault(prefix, {})[name] = value
    renamed = {"taken": "taken", "factor": "factor", "last": "last_action"}
    actions = {new: stored[old] for new, old in renamed.items() if old in stored}
    return {
        "statistics": statistics,
        "diagnoses": stored.get("diagnoses", []),
        "actions_taken": stored.get("done", []),
        "actions": actions,
    }
