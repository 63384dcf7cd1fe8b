"""The report in the terminal."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from lightning_adam.diagnosis import Finding
from lightning_adam.doctor.judgement import Gap, RunReport
from lightning_adam.doctor.wording import (
    code,
    evidence_text,
    extent,
    headline,
    leading,
    loss_course,
    shown,
    span,
    sparkline,
    state,
)

if TYPE_CHECKING:
    from lightning_adam.doctor.reporting import Report

STYLES = {"critical": "bold red", "warning": "yellow", "info": "cyan"}
PLAIN_WIDTH = 100
"""Columns where the output is no terminal."""


def show(report: Report) -> None:
    """Print to standard output, in colour where it is a terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    console.print(rendered(report, console.width))


def show_finding(run: str, finding: Finding) -> None:
    """Print one finding as a line of its own, at once."""
    line = _text(f"{run}: {finding.line()}", STYLES.get(finding.severity, ""))
    Console(highlight=False, soft_wrap=True).print(line)


def as_text(report: Report, width: int) -> str:
    """The same without colour."""
    buffer = io.StringIO()
    plain = Console(file=buffer, highlight=False, width=width, color_system=None, force_jupyter=False)
    plain.print(rendered(report, width))  # in a kernel rich would display it instead of writing it
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def rendered(report: Report, width: int) -> Group:
    """An overview where there are several runs, then each run that has something to say, the most troubled first.

    Args:
        report: all runs.
        width: of the terminal, in columns.
    """
    several = len(report.runs) > 1
    parts: list[RenderableType] = [_text(f"{report.logdir}: {headline(report)}", style="bold")]
    if several:
        parts += [Text(), _overview(report, width)]
    parts.append(Text())
    parts += [_run(run) for run in report.runs if run.findings or run.notes or not several]
    parts += _common_gaps(report)
    return Group(*parts)


def _text(content: str, style: str = "") -> Text:
    """Text of a log, which anybody may have written: no markup, and no escape codes for the terminal."""
    return Text(shown(content), style=style)


def _overview(report: Report, width: int) -> Table:
    """A narrow terminal needs the room of the steps and of the loss's picture for the names."""
    wide = width >= PLAIN_WIDTH
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("run", "state", *(["steps"] if wide else []), "loss", "gravest finding"):
        table.add_column(column, no_wrap=column not in ("run", "state"), overflow="fold")
    for run in report.runs:
        verdict = Text(state(run), style=_style(run))
        loss = f"{loss_course(run):<13}  {sparkline(run)}" if wide else loss_course(run)
        steps = [extent(run)] if wide else []
        table.add_row(_text(run.name), verdict, *steps, loss, _text(leading(run)))
    return table


def _run(run: RunReport) -> Group:
    heading = Rule(_text(f"{run.name} · {state(run)}"), style=_style(run), align="left")
    parts: list[RenderableType] = [heading, _text(f"judged by {run.basis}", style="dim")]
    if run.findings:
        parts.append(_findings(run.findings))
    notes = [_text(f"note: {note}", style="yellow") for note in run.notes]
    return Group(*parts, *notes, *([Text()] if notes or not run.findings else []))


def _style(run: RunReport) -> str:
    """Green is for a run of which everything could be judged."""
    return STYLES[run.worst] if run.worst else "" if run.gaps else "green"


def _findings(findings: tuple[Finding, ...]) -> Table:
    table = Table(box=None, padding=(0, 2, 1, 0), show_header=False)
    table.add_column(no_wrap=True, min_width=14)
    table.add_column(overflow="fold")
    for finding in findings:
        style = STYLES.get(finding.severity, "")
        whose = f"\n{finding.optimizer}" if finding.optimizer else ""
        who = Text.assemble(_text(finding.rule, style), f"\n{span(finding)}\n", (finding.severity, style), _text(whose))
        table.add_row(who, _in_words(finding))
    return table


def _in_words(finding: Finding) -> Text:
    parts = [_text(finding.message)]
    if finding.remedy:
        parts += [_text("\n→ ", "bold green"), _text(finding.remedy, "bold")]
    if finding.changes:
        parts.append(_text(f"\n  la.configure_optimizers(…, {code(finding)})", "green"))
    if finding.evidence:
        parts.append(_text(f"\n{evidence_text(finding.evidence)}", "dim"))
    if len(finding.parameters) > 1:
        shown = ", ".join(finding.parameters[:4])
        more = f" and {len(finding.parameters) - 4} more" if len(finding.parameters) > 4 else ""
        parts.append(_text(f"\nin {shown}{more}", "dim"))
    return Text.assemble(*parts)


def _common_gaps(report: Report) -> list[RenderableType]:
    """What could not be judged, once for all runs that lack the same."""
    lacking: dict[Gap, list[str]] = {}
    for run in report.runs:
        for gap in run.gaps:
            lacking.setdefault(gap, []).append(run.name)
    if not lacking:
        return []
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", title_justify="left")
    for column in ("not judged", "for the log has no", "turn on"):
        table.add_column(column, overflow="fold", ratio=1)
    for gap, runs in lacking.items():
        where = "" if len(runs) == len(report.runs) else f" (in {', '.join(runs[:3])}{', …' if len(runs) > 3 else ''})"
        table.add_row(_text(", ".join(gap.rules)), _text(gap.missing + where), _text(gap.remedy))
    return [table]
