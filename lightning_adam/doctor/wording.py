"""What all forms of the report say alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lightning_adam.diagnosis import Finding
from lightning_adam.doctor.judgement import RunReport
from lightning_adam.doctor.live import SEVERITIES, plural

if TYPE_CHECKING:
    from lightning_adam.doctor.reporting import Report


_STEERING = (*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C)
"""Escape codes, and marks that turn the direction of reading (Unicode's UAX 9)."""
_HALVES = range(0xD800, 0xE000)
"""Surrogates: Python's stand-ins for bytes of a file's name that are no UTF-8; nothing can write them."""
CONTROLS = {code: "\N{REPLACEMENT CHARACTER}" for code in (*_STEERING, *_HALVES) if code != ord("\n")}
"""A log that somebody else wrote must not steer the reader's terminal, or look like another."""


def shown(text: str) -> str:
    """Text of a log as it may be shown anywhere."""
    return text.translate(CONTROLS)


def headline(report: Report) -> str:
    """The whole report in one sentence."""
    sick = [run for run in report.runs if run.findings]
    runs = plural(len(report.runs), "run")
    if not sick:
        return f"{runs}, no findings"
    counts = [(sum(run.count(severity) for run in sick), severity) for severity in SEVERITIES]
    told = ", ".join(f"{count} {severity}" for count, severity in counts if count)
    return f"{runs}, {len(sick)} with findings: {told}"


def state(run: RunReport) -> str:
    """A run in two or three words; healthy is only one of which everything could be judged."""
    counts = [f"{run.count(severity)} {severity}" for severity in SEVERITIES if run.count(severity)]
    if counts:
        return ", ".join(counts)
    return "nothing found" if run.gaps else "healthy"


def leading(run: RunReport) -> str:
    """The first of the gravest findings: advice at step 0 must not hide what broke the run."""
    gravest = next((finding for finding in run.findings if finding.severity == run.worst), None)
    return f"{gravest.rule} at {gravest.step}" if gravest else ""


def extent(run: RunReport) -> str:
    """First and last step that anything is known of."""
    return f"{run.steps[0]}–{run.steps[1]}" if run.curves or run.findings else "none yet"


def loss_course(run: RunReport) -> str:
    """Where the loss came from and where it went."""
    loss = next((curve for curve in run.curves if curve.title == "loss"), None)
    if loss is None:
        return "not logged"
    first, last = float(loss.values[0]), float(loss.values[-1])
    return f"{first:.3g} → {last:.3g}" if len(loss.values) > 1 else f"{first:.3g}"


BARS = "▁▂▃▄▅▆▇█"


def sparkline(run: RunReport, width: int = 16) -> str:
    """The loss as a row of bars; × where it was not finite.

    The upper end is the largest finite value, so a spike stays visible.
    """
    loss = next((curve for curve in run.curves if curve.title == "loss"), None)
    if loss is None:
        return ""
    values = loss.values.tolist()
    size = max(1, math.ceil(len(values) / width))
    buckets = [values[i : i + size] for i in range(0, len(values), size)]
    tops = [max(bucket) if all(map(math.isfinite, bucket)) else math.nan for bucket in buckets]
    finite = [top for top in tops if math.isfinite(top)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    return "".join("×" if math.isnan(top) else BARS[_level(top, low, high)] for top in tops)


def _level(value: float, low: float, high: float) -> int:
    """Which bar; halves, so that no difference of two floats overflows."""
    room = high / 2 - low / 2
    return int(7 * min(1.0, (value / 2 - low / 2) / room)) if room > 0 else 0


def evidence_text(evidence: Mapping[str, float | str]) -> str:
    """The numbers behind a finding, in one line."""
    return ", ".join(f"{name.replace('_', ' ')} {_number(value)}" for name, value in evidence.items())


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def gap_texts(run: RunReport) -> list[str]:
    """What could not be judged, a sentence each."""
    return [f"{', '.join(gap.rules)}: the log has no {gap.missing}. Turn on {gap.remedy}." for gap in run.gaps]


def span(finding: Finding) -> str:
    """When it was seen. NON-FINITE is told once, where it began: its silence afterwards is no recovery."""
    steps = f"step {finding.step}" if finding.last_step == finding.step else f"steps {finding.step}–{finding.last_step}"
    return f"{steps}, not since" if finding.over and finding.rule != "NON-FINITE" else steps


def code(finding: Finding) -> str:
    """The remedy as arguments of ``la.configure_optimizers``; empty where no argument mends it."""
    return ", ".join(f"{name}={value!r}" for name, value in finding.changes.items())
