"""The report in the terminal."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from lightning_adam.diagnosis import Finding
from lightning_adam.doctor.judgement import RunReport
from lightning_adam.doctor.wording import evidence_text, gap_texts, headline, loss_course, plural, sparkline, state

if TYPE_CHECKING:
    from lightning_adam.doctor.report import Report

STYLES = {"critical": "bold red", "warning": "yellow", "info": "cyan"}
PLAIN_WIDTH = 100
"""Columns where the output is no terminal."""


def show(report: Report) -> None:
    """Print to standard output, in colour where it is a terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    console.print(rendered(report))


def as_text(report: Report, width: int) -> str:
    """The same without colour."""
    buffer = io.StringIO()
    Console(file=buffer, highlight=False, width=width, color_system=None).print(rendered(report))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def rendered(report: Report) -> Group:
    """An overview where there are several runs, then each run that has something to say, the most troubled first."""
    several = len(report.runs) > 1
    parts: list[RenderableType] = [Text(f"{report.logdir}: {headline(report)}", style="bold")]
    if several:
        parts += [Text(), _overview(report)]
    parts.append(Text())
    parts += [_run(run) for run in report.runs if run.findings or run.notes or not several]
    parts += _common_gaps(report)
    return Group(*parts)


def _overview(report: Report) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("run", "state", "steps", "loss", "", "first"):
        table.add_column(column, no_wrap=column not in ("run", "state"), overflow="fold")
    for run in report.runs:
        first = f"{run.findings[0].rule} at {run.findings[0].step}" if run.findings else ""
        verdict = Text(state(run), style=STYLES[run.worst] if run.worst else "green")
        steps = f"{run.steps[0]}–{run.steps[1]}"
        table.add_row(Text(run.name), verdict, steps, loss_course(run), sparkline(run), first)
    return table


def _run(run: RunReport) -> Group:
    heading = Rule(Text(f"{run.name} · {state(run)}"), style=STYLES[run.worst] if run.worst else "green", align="left")
    parts: list[RenderableType] = [heading, Text(f"judged by {run.basis}", style="dim")]
    if run.findings:
        parts.append(_findings(run.findings))
    notes = [Text(f"note: {note}", style="yellow") for note in run.notes]
    return Group(*parts, *notes, *([Text()] if notes or not run.findings else []))


def _findings(findings: tuple[Finding, ...]) -> Table:
    table = Table(box=None, padding=(0, 2, 1, 0), show_header=False)
    table.add_column(no_wrap=True, min_width=14)
    table.add_column(overflow="fold")
    for finding in findings:
        style = STYLES.get(finding.severity, "")
        who = Text.assemble((finding.rule, style), "\n", f"step {finding.step}\n", (finding.severity, style))
        table.add_row(who, _told(finding))
    return table


def _told(finding: Finding) -> Text:
    text = Text(finding.message)
    if finding.remedy:
        text.append("\n→ ", style="bold green").append(finding.remedy, style="bold")
    if finding.evidence:
        text.append(f"\n{evidence_text(finding.evidence)}", style="dim")
    if len(finding.parameters) > 1:
        shown = ", ".join(finding.parameters[:4])
        more = f" and {len(finding.parameters) - 4} more" if len(finding.parameters) > 4 else ""
        text.append(f"\nin {shown}{more}", style="dim")
    return text


def _common_gaps(report: Report) -> list[RenderableType]:
    """What could not be judged, once for all runs that lack the same."""
    lacking: dict[str, list[str]] = {}
    for run in report.runs:
        for text in gap_texts(run):
            lacking.setdefault(text, []).append(run.name)
    if not lacking:
        return []
    parts: list[RenderableType] = [Text("Not judged", style="bold")]
    for text, runs in lacking.items():
        where = "" if len(runs) == len(report.runs) else f" ({plural(len(runs), 'run')}: {', '.join(runs[:3])})"
        parts.append(Padding(Text(text + where), (0, 0, 0, 2)))
    return parts
