"""The report as Markdown."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from lightning_adam.diagnosis import Finding
from lightning_adam.doctor.judgement import RunReport
from lightning_adam.doctor.wording import (
    code,
    evidence_text,
    extent,
    gap_texts,
    headline,
    leading,
    loss_course,
    shown,
    span,
    state,
)

if TYPE_CHECKING:
    from lightning_adam.doctor.reporting import Report


def as_markdown(report: Report) -> str:
    """An overview, then each run."""
    lines = [
        f"# {escaped(report.logdir)}: {headline(report)}",
        "",
        "| run | state | steps | loss | gravest finding |",
        "|---|---|---|---|---|",
    ]
    for run in report.runs:
        cells = (escaped(run.name), state(run), extent(run), loss_course(run), escaped(leading(run)))
        lines.append(f"| {' | '.join(cells)} |")
    for run in report.runs:
        lines += ["", *_run(run)]
    return "\n".join(lines) + "\n"


def _run(run: RunReport) -> list[str]:
    lines = [f"## {escaped(run.name)}: {state(run)}", "", f"Judged by {escaped(run.basis)}."]
    if run.findings:
        lines += ["", "| when | finding | what | what to do | evidence |", "|---|---|---|---|---|"]
        lines += [_row(finding) for finding in run.findings]
    lines += [line for note in run.notes for line in ("", f"Note: {escaped(note)}.")]
    if run.gaps:
        lines += ["", "Not judged:", "", *(f"- {escaped(text)}" for text in gap_texts(run))]
    return lines


def _row(finding: Finding) -> str:
    what = f"**{escaped(finding.rule)}** ({escaped(finding.severity)})"
    remedy = " ".join(part for part in (finding.remedy, code(finding) and f"({code(finding)})") if part)
    cells = (span(finding), what, *map(escaped, (finding.message, remedy, evidence_text(finding.evidence))))
    return f"| {' | '.join(cells)} |"


_SIGNS = re.compile(r"[\\|*`\[\]~$#]|(?<!\w)_|_(?!\w)|(?<=:)/(?=/)|@(?=\w)")
"""What GitHub would make something of: emphasis, code, links, mathematics, issues, people."""


def escaped(text: str) -> str:
    """Text that stays text: names come from a log that somebody else may have written.

    Example:
        >>> escaped("a|b <script> *x*")
        'a\\\\|b &lt;script&gt; \\\\*x\\\\*'
    """
    flat = html.escape(shown(" ".join(text.split())), quote=False)
    return _SIGNS.sub(r"\\\g<0>", flat)
