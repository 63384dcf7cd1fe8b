"""The report as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lightning_adam.doctor.judgement import RunReport
from lightning_adam.doctor.wording import CONTROLS

if TYPE_CHECKING:
    from lightning_adam.doctor.reporting import Report


def as_json(report: Report) -> str:
    """Valid JSON: it has no NaN, so NaN and infinities become strings.

    A run is ``healthy`` where nothing is found that is graver than ``info``, which is advice: what ``lightning-adam doctor``
    exits with 0 for. ``worst`` is the gravest severity, ``info`` included, or null; ``not_judged`` is what nobody looked at.
    """
    content = {"logdir": report.logdir, "runs": [_run(run) for run in report.runs]}
    text = json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False)
    return "".join(f"\\u{ord(sign):04x}" if sign != "\n" and ord(sign) in CONTROLS else sign for sign in text)


def _run(run: RunReport) -> dict[str, Any]:
    return {
        "run": run.name,
        "path": str(run.path),
        "healthy": run.healthy,
        "worst": run.worst,
        "steps": list(run.steps),
        "basis": run.basis,
        "findings": [finding.to_dict() for finding in run.findings],
        "not_judged": [asdict(gap) for gap in run.gaps],
        "notes": list(run.notes),
    }


def plain(value: Any) -> Any:
    """The same with every number that JSON cannot hold as a string.

    Example:
        >>> plain({"loss": float("nan"), "steps": (1, float("-inf"))})
        {'loss': 'NaN', 'steps': [1, '-Infinity']}
    """
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
