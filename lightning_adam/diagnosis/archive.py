"""Findings and signals as files beside a log that has no place for them: what the doctor reads back.

``findings.json`` holds all findings of a run. ``adam_signals.jsonl`` holds a line per stretch of signals: it is only ever
appended to, so that a run that was killed loses its last line at most.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from lightning_adam.diagnosis.finding import Finding

VERSION = 1
FINDINGS_FILE = "findings.json"
SIGNALS_FILE = "adam_signals.jsonl"
_NOT_OURS = (KeyError, TypeError, AttributeError, OverflowError, RecursionError)
"""What valid JSON raises where it is read as ours and is not."""


class Stretch(NamedTuple):
    """A line of ``adam_signals.jsonl``.

    Attributes:
        prefix: the optimizer's.
        step: where it was written.
        payload: what :func:`lightning_adam.diagnosis.decode` reads.
    """

    prefix: str
    step: int
    payload: bytes


def findings_document(findings: Mapping[str, Sequence[Finding]]) -> str:
    """The content of ``findings.json``: all findings by the optimizer's prefix; a run without any has empty lists."""
    stored = {prefix: [finding.to_dict() for finding in found] for prefix, found in findings.items()}
    return json.dumps({"version": VERSION, "findings": stored}, indent=1, default=str)


def read_findings_document(text: str) -> dict[str, list[Finding]]:
    """The inverse of :func:`findings_document`.

    Raises:
        ValueError: the text is none of ours, is cut off, or is of a newer version.
    """
    try:
        content = json.loads(text)
        _check_version(content)
        return {prefix: [Finding.from_dict(one) for one in found] for prefix, found in content["findings"].items()}
    except _NOT_OURS as error:
        raise ValueError("this is no findings.json of lightning-adam") from error


def stretch_line(stretch: Stretch) -> str:
    """A line of ``adam_signals.jsonl``, without its end."""
    payload = base64.b64encode(stretch.payload).decode()
    return json.dumps({"version": VERSION, "prefix": stretch.prefix, "step": stretch.step, "payload": payload})


def read_stretches(lines: Iterable[str]) -> tuple[list[Stretch], int]:
    """The stretches of ``adam_signals.jsonl``, and how many of its lines could not be read."""
    found, damaged = [], 0
    for line in lines:
        try:
            found.append(_stretch(json.loads(line)))
        except (ValueError, *_NOT_OURS):
            damaged += bool(line.strip())
    return found, damaged


def _stretch(content: dict[str, Any]) -> Stretch:
    _check_version(content)
    return Stretch(str(content["prefix"]), int(content["step"]), base64.b64decode(content["payload"], validate=True))


def _check_version(content: Mapping[str, Any]) -> None:
    if not isinstance(content.get("version"), int) or content["version"] > VERSION:
        raise ValueError(f"it is of version {content.get('version')!r}, this lightning-adam reads up to {VERSION}")
