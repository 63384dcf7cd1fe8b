"""What the user's terminal shows at the end of a run that had findings."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from lightning_adam.diagnosis import Finding

COLOURS = {"info": "dim", "warning": "yellow", "critical": "bold red"}


def print_findings(findings: Sequence[Finding]) -> None:
    """As a table on stderr; nothing for none."""
    if findings:
        Console(stderr=True).print(_table(findings))


def _table(findings: Sequence[Finding]) -> Table:
    table = Table("steps", "rule", "what", "what to do", title="What DivergenceMonitor found", title_justify="left")
    for f in findings:
        span = f"{f.step}" if f.last_step == f.step else f"{f.step}–{f.last_step}"
        whose = f"\n{f.optimizer}" if f.optimizer else ""
        table.add_row(span, f"{f.rule}{whose}", f.message, f.remedy, style=COLOURS[f.severity])
    return table
