"""Findings as the page relies on them: every field there and of the right type, and until when each was seen."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from lightning_adam.diagnosis.finding import SEVERITIES

_ROW = re.compile(r"^\| (\d+)(?:–(\d+))?([^|]*)\| \*\*([^*|]+)\*\* \|", re.MULTILINE)


class Span(NamedTuple):
    """Until when a finding was seen, and whether it has been silent for so long that it counts as past."""

    last_step: int
    over: bool


Spans = Mapping[tuple[str, int], Span]
"""By rule and first step."""


def parsed(text: Any) -> list[dict[str, Any]]:
    """The findings of one event; what is no finding is left out."""
    try:
        stored = json.loads(text)
        return [_finding(f) for f in stored if isinstance(f, dict)] if isinstance(stored, list) else []
    except (ValueError, TypeError, OverflowError, RecursionError):
        return []


def spans(table: str) -> Spans:
    """From the table that the monitor writes whenever it finds something and at the end, see ``findings_table``."""
    rows = _ROW.findall(table)
    return {(rule, int(first)): Span(int(last or first), "(over)" in more) for first, last, more, rule in rows}


def is_whole(table: str) -> bool:
    """Whether it has all findings: of very many only the first and the last ones are in it."""
    return "\n| … |" not in table


def _finding(stored: Mapping[str, Any]) -> dict[str, Any]:
    evidence, parameters = stored.get("evidence"), stored.get("parameters")
    severity, step = stored.get("severity"), int(stored.get("step", 0))
    return {
        "rule": str(stored.get("rule", "?")),
        "severity": severity if severity in SEVERITIES else "info",
        "step": step,
        "last_step": max(step, int(stored.get("last_step", step))),
        "over": stored.get("over") is True,
        "message": str(stored.get("message", "")),
        "evidence": {str(k): v for k, v in evidence.items() if _is_simple(v)} if isinstance(evidence, dict) else {},
        "parameters": [str(p) for p in parameters] if isinstance(parameters, list) else [],
        "remedy": str(stored.get("remedy", "")),
    }


def _is_simple(value: Any) -> bool:
    return isinstance(value, str | int | float)
