"""What a rule says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["info", "warning", "critical"]


@dataclass(frozen=True)
class Finding:
    """One sickness of one run.

    Attributes:
        rule: stable code, such as ``LR-HIGH``.
        severity: ``info`` for advice, ``warning``, or ``critical`` where it is proof.
        step: the optimizer step on the log's x-axis where it was seen first.
        message: one sentence.
        evidence: the numbers behind it.
        parameters: the tensors it concerns.
        remedy: what to change, with the value to try.
    """

    rule: str
    severity: Severity
    step: int
    message: str
    evidence: Mapping[str, float | str] = field(default_factory=dict)
    parameters: tuple[str, ...] = ()
    remedy: str = ""

    def line(self) -> str:
        """The finding as one console line."""
        return f"[{self.rule}] step {self.step}: {self.message} {self.remedy}".rstrip()

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, as checkpoints (loaded with ``weights_only``) and event files need them."""
        return {**asdict(self), "evidence": dict(self.evidence), "parameters": list(self.parameters)}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Finding:
        """The inverse of :meth:`to_dict`."""
        return cls(**{**stored, "parameters": tuple(stored["parameters"])})


def findings_table(findings: Iterable[Finding]) -> str:
    """All findings as a Markdown table, in order."""
    rows = [
        "| step | rule | severity | what | evidence | what to do |",
        "|---:|---|---|---|---|---|",
    ]
    for f in findings:
        evidence = ", ".join(f"{name} {_number(value)}" for name, value in f.evidence.items())
        cells = (str(f.step), f"**{f.rule}**", f.severity, f.message, evidence, f.remedy)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) if len(rows) > 2 else "No findings."


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"
