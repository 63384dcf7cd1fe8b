"""What a rule says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from lightning_adam.diagnosis.stored import is_number

if TYPE_CHECKING:
    import pandas

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""From the mildest to the gravest."""


def reach(findings: Iterable[Finding], severity: str) -> bool:
    """Whether any of them is at least this severe.

    Args:
        findings: of whatever runs.
        severity: ``info``, ``warning`` or ``critical``.
    """
    enough = SEVERITIES[[*SEVERITIES].index(severity) :]  # type: ignore[arg-type]
    return any(finding.severity in enough for finding in findings)


def as_dataframe(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pandas.DataFrame:
    """Findings as a table of pandas, which is only imported here.

    Args:
        rows: one per finding.
        columns: those that are kept, in this order.

    Raises:
        ImportError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("to_dataframe() needs pandas: pip install pandas. report.findings does not.") from error
    return pandas.DataFrame(rows, columns=list(columns))


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
        remedy: what to change, concretely, with the value to try.
        changes: the same for a machine: arguments of ``la.configure_optimizers`` to their new values; empty where no
            argument mends it.
        last_step: the step where it was seen last.
        over: whether it was not seen for so long that it counts as past.
        optimizer: the prefix of the optimizer's tags, where there are several.
    """

    rule: str
    severity: Severity
    step: int
    message: str
    evidence: Mapping[str, float | str] = field(default_factory=dict)
    parameters: tuple[str, ...] = ()
    remedy: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    last_step: int = -1
    over: bool = False
    optimizer: str = ""

    def __post_init__(self) -> None:
        """A new finding was seen last where it was seen first."""
        if self.last_step < self.step:
            object.__setattr__(self, "last_step", self.step)

    def line(self) -> str:
        """The finding as one console line."""
        whose = f" ({self.optimizer})" if self.optimizer else ""
        return f"[{self.rule}] step {self.step}{whose}: {self.message} {self.remedy}".rstrip()

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, as checkpoints (loaded with ``weights_only``) and event files need them."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in self.changes.items()}
        return {**asdict(self), "evidence": dict(self.evidence), "changes": plain, "parameters": list(self.parameters)}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Finding:
        """The inverse of :meth:`to_dict`, of other versions, too: fields that are not known are left out.

        Raises:
            ValueError: a field is of another type, or one is missing that every version has.
        """
        known = {f.name: stored[f.name] for f in fields(cls) if f.name in stored}
        if missing := {"rule", "severity", "step", "message"} - known.keys():
            raise ValueError(f"this is no finding: it has no {', '.join(sorted(missing))}")
        for name, value in known.items():
            if not _TYPES[name](value):
                raise ValueError(f"this is no finding: its {name} is {value!r}")
        changes = {k: tuple(v) if isinstance(v, list) else v for k, v in known.get("changes", {}).items()}
        return cls(**{**known, "parameters": tuple(known.get("parameters", ())), "changes": changes})


RATES = frozenset({"lr", "warmup"})
"""Changes of which a run that learns would take harm."""


def as_told(finding: Finding) -> Finding:
    """As people and logs get it: information asks no machine for anything; another rate is for where the loss agrees.

    Of 28 healthy runs of the corpus to which another rate was applied all the same, 20 ended clearly worse; of 38 that were
    told a schedule, a clip or an ε, 11.
    """
    if finding.severity != "info" or not finding.changes:
        return finding
    condition = "Only if the loss does not fall: " if RATES & finding.changes.keys() else ""
    return replace(finding, remedy=condition + finding.remedy, changes={})


def _is_word(value: Any) -> bool:
    return isinstance(value, str)


def _is_step(value: Any) -> bool:
    return type(value) is int


def _is_evidence(value: Any) -> bool:
    return isinstance(value, Mapping) and all(_is_word(k) and (_is_word(v) or is_number(v)) for k, v in value.items())


_TYPES: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("rule", "message", "remedy", "optimizer"), _is_word),
    **dict.fromkeys(("step", "last_step"), _is_step),
    "severity": lambda value: _is_word(value) and value in get_args(Severity),
    "evidence": _is_evidence,
    "parameters": lambda value: isinstance(value, (list, tuple)) and all(map(_is_word, value)),
    "changes": lambda value: isinstance(value, Mapping) and all(map(_is_word, value)),
    "over": lambda value: isinstance(value, bool),
}


def readable_findings(stored: Any) -> list[Finding | None]:
    """Findings of a checkpoint, in place; None for what is none."""
    return [_readable(one) for one in stored] if isinstance(stored, list) else []


def _readable(stored: Any) -> Finding | None:
    try:
        return Finding.from_dict(stored) if isinstance(stored, Mapping) else None
    except ValueError:
        return None


MOST_ROWS = 40
"""Of a table: it is written again and again while a run goes on."""


def findings_table(findings: Sequence[Finding]) -> str:
    """The findings as a Markdown table, in order; of very many the first and the last ones."""
    rows = [
        "| steps | rule | severity | what | evidence | what to do |",
        "|---:|---|---|---|---|---|",
    ]
    left_out = len(findings) - MOST_ROWS
    shown = findings if left_out <= 0 else [*findings[: MOST_ROWS // 4], *findings[-(MOST_ROWS - MOST_ROWS // 4) :]]
    for f in shown:
        evidence = ", ".join(f"{name} {_number(value)}" for name, value in f.evidence.items() if value == value)
        cells = (_span(f), f"**{f.rule}**", f.severity, f.message, evidence, f.remedy)
        rows.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    if left_out > 0:
        rows.insert(2 + MOST_ROWS // 4, f"| … | | | and {left_out} more | | |")
    return "\n".join(rows) if len(rows) > 2 else "No findings."


def _span(finding: Finding) -> str:
    span = f"{finding.step}" if finding.last_step == finding.step else f"{finding.step}–{finding.last_step}"
    return f"{span} {finding.optimizer}".rstrip() + (" (over)" if finding.over else "")


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"
