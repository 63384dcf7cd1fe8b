"""What each code of a finding means: one Markdown file per code, and the criterion from the rule's own docstring."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from lightning_adam.errors import ConfigError, nearest

FOLDER = files("lightning_adam") / "explanations"
SILENCE = """## How to silence it

`DivergenceMonitor(ignore=["{code}"])`, or `ignore=["{code}:encoder.*"]` for some parameters only. The doctor keeps to what
the run ignored.
"""


@dataclass(frozen=True)
class Explanation:
    """One code, explained.

    Attributes:
        code: such as ``LR-HIGH``.
        says: what a finding of this code says, in half a sentence.
        first: what to do first.
        text: everything, as Markdown.
    """

    code: str
    says: str
    first: str
    text: str


def codes() -> tuple[str, ...]:
    """All codes, in alphabetical order."""
    return tuple(sorted(file.name.removesuffix(".md") for file in FOLDER.iterdir() if file.name.endswith(".md")))


@cache
def explanation(code: str) -> Explanation:
    """The explanation of a code, in upper or lower case.

    Raises:
        ConfigError: there is no such code; the message has the nearest.
    """
    known = codes()
    wanted = code.strip().upper().replace("_", "-")
    if wanted not in known:
        raise ConfigError(f"{code!r} is no code of a finding.{nearest(wanted, known)} Known: {', '.join(known)}.")
    _, front, text = (FOLDER / f"{wanted}.md").read_text(encoding="utf-8").split("---\n", 2)
    fields = dict(line.split(": ", 1) for line in front.strip().splitlines())
    return Explanation(wanted, fields["says"], fields["first"], _with_criterion(wanted, text.strip()))


def table(of: tuple[str, ...]) -> str:
    """Codes, what they say and what to do first, as a Markdown table."""
    rows = [f"| `{e.code}` | {e.says} | {e.first} |" for e in map(explanation, of)]
    return "\n".join(["| code | what it says | what to do first |", "|---|---|---|", *rows])


def _with_criterion(code: str, text: str) -> str:
    """The rule's docstring is the only place where its formula and thresholds are told in words."""
    criterion = _criterion(code)
    decided = f"## How it is decided\n\n{criterion}\n\n" if criterion else ""
    silence = SILENCE.format(code=code) if code in _rules() else ""
    return f"{text.replace('## Why it happens', decided + '## Why it happens', 1)}\n\n{silence}".rstrip() + "\n"


def _criterion(code: str) -> str:
    rule = _rules().get(code)
    return (inspect.getdoc(rule) or "").replace("``", "`") if rule is not None else ""


def _rules() -> dict[str, object]:
    from lightning_adam.diagnosis.rules import RULES

    return dict(RULES)
