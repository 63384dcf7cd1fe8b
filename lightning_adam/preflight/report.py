"""What preflight says, and the forms that it takes."""

from __future__ import annotations

import html
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_adam.diagnosis import Finding
from lightning_adam.diagnosis.finding import as_dataframe, reach

if TYPE_CHECKING:
    import pandas

STYLES = {"critical": "bold red", "warning": "yellow", "info": "cyan"}
COLOURS = {"critical": "#c4161c", "warning": "#8a5c00", "info": "#0a6c74"}
"""Behind white text: a badge is read on any page, light or dark, and everything else has the page's own colour."""
WIDTH = 110


@dataclass(frozen=True)
class PreflightReport:
    """What is wrong before training. Prints as a table; in a notebook it shows as one.

    Attributes:
        findings: the gravest first.
        not_judged: what could not be judged, and why: ``{"NO-SIGNAL": "the data have fewer than 20 batches"}``.
        seconds: that it took.
        batches: that were read.
        raised: what ``training_step`` raised, so that most could not be judged; empty where it did not.
    """

    findings: tuple[Finding, ...]
    not_judged: dict[str, str]
    seconds: float
    batches: int
    raised: str = ""

    def reaches(self, severity: str) -> bool:
        """Whether any finding is at least this severe.

        Args:
            severity: ``info``, ``warning`` or ``critical``.
        """
        return reach(self.findings, severity)

    def to_dataframe(self) -> pandas.DataFrame:
        """One row for each finding.

        Raises:
            ImportError: pandas is not installed.
        """
        columns = ("rule", "severity", "message", "remedy", "evidence", "parameters")
        return as_dataframe([finding.to_dict() for finding in self.findings], columns)

    def to_text(self, width: int = WIDTH) -> str:
        """As the terminal shows it, without colour."""
        buffer = io.StringIO()
        plain = Console(file=buffer, width=width, highlight=False, color_system=None, force_jupyter=False)
        plain.print(self)  # in a kernel rich would display it instead of writing it
        return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())

    def __rich__(self) -> RenderableType:
        """One block for each finding, then what was not judged."""
        style = STYLES["critical"] if self.raised else STYLES[self.findings[0].severity] if self.findings else "green"
        parts: list[RenderableType] = [Text(f"preflight: {self._headline()}", style=style)]
        parts += [_block(self.findings)] if self.findings else []
        parts += [Text(f"not judged: {codes} ({why})", style="dim") for why, codes in self._gaps().items()]
        return Group(*parts)

    def __str__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        rows = "".join(_row(finding) for finding in self.findings)
        gaps = "".join(
            f"<p><small>not judged: {html.escape(f'{codes} ({why})')}</small></p>" for why, codes in self._gaps().items()
        )
        table = f'<table style="color:inherit;margin:0">{rows}</table>'
        return f"<div><b>preflight: {html.escape(self._headline())}</b>{table}{gaps}</div>"

    def _headline(self) -> str:
        looked = f"{self.batches} batches, {self.seconds:.1f} s"
        counts = [f"{n} {grade}" for grade in STYLES if (n := sum(f.severity == grade for f in self.findings))]
        found = ", ".join(counts) or ("" if self.raised else "nothing found")
        return f"{'; '.join(filter(None, (self.raised, found)))} ({looked})"

    def _gaps(self) -> dict[str, str]:
        """Codes that share a reason."""
        reasons: dict[str, list[str]] = {}
        for code, why in self.not_judged.items():
            reasons.setdefault(why, []).append(code)
        return {why: ", ".join(codes) for why, codes in reasons.items()}


def evidence_of(finding: Finding) -> str:
    """The numbers in one line."""
    return ", ".join(
        f"{name} {value if isinstance(value, str) else f'{value:.3g}'}" for name, value in finding.evidence.items()
    )


def _block(findings: tuple[Finding, ...]) -> Table:
    table = Table(box=None, padding=(0, 2, 1, 0), show_header=False)
    table.add_column(no_wrap=True, min_width=14)
    table.add_column(overflow="fold")
    for finding in findings:
        style = STYLES[finding.severity]
        who = Text.assemble((finding.rule, style), "\n", (finding.severity, style))
        what = Text.assemble(finding.message, ("\n→ ", "bold green"), (finding.remedy, "bold"))
        table.add_row(who, what.append(f"\n{evidence_of(finding)}", "dim") if finding.evidence else what)
    return table


def _row(finding: Finding) -> str:
    cells = (finding.message, f"→ {finding.remedy}", evidence_of(finding))
    text = "<br>".join(html.escape(cell) for cell in cells if cell)
    badge = f"background:{COLOURS[finding.severity]};color:#fff;border-radius:3px;padding:1px 6px"
    who = f'<td style="text-align:left"><b>{finding.rule}</b><br><span style="{badge}">{finding.severity}</span></td>'
    return f'<tr>{who}<td style="text-align:left">{text}</td></tr>'
