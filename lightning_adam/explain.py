"""What each code of a finding means: one Markdown file per code, the criterion from the rule's own docstring where the
monitor has a rule of that name, and what was measured.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from lightning_adam.errors import ConfigError, nearest
from lightning_adam.measured import Measured, Picture, measured

FOLDER = files("lightning_adam") / "explanations"
SILENCE = """## How to silence it

`DivergenceMonitor(ignore=["{code}"])`, or `ignore=["{code}:encoder.*"]` for some parameters only. The doctor keeps to what
the run ignored.
"""
KNOWN = """## How to silence it

`lightning-adam check train.py:LitModel --format json > known.json` writes down what is found now, and
`lightning-adam check train.py:LitModel --baseline known.json` then tells only what is new.
"""


@dataclass(frozen=True)
class Explanation:
    """One code, explained.

    Attributes:
        code: such as ``LR-HIGH``.
        says: what a finding of this code says, in half a sentence.
        first: what to do first.
        text: everything, as Markdown for a terminal.
        page: the same with its picture as SVG, for the site.
    """

    code: str
    says: str
    first: str
    text: str
    page: str

    def as_html(self) -> str:
        """The page without its title, for the doctor's report and the Adam tab."""
        from markdown_it import MarkdownIt

        return str(MarkdownIt("commonmark").render(self.page.split("\n", 1)[1]))


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
    decided = _criterion(wanted) or fields["decided"]
    told, figure = (_assembled(wanted, text.strip(), decided, draw) for draw in (_in_terminal, _on_page))
    return Explanation(wanted, fields["says"], fields["first"], told, figure)


def table(of: tuple[str, ...]) -> str:
    """Codes, what they say and what to do first, as a Markdown table."""
    rows = [f"| `{e.code}` | {e.says} | {e.first} |" for e in map(explanation, of)]
    return "\n".join(["| code | what it says | what to do first |", "|---|---|---|", *rows])


def _assembled(code: str, text: str, decided: str, draw: Callable[[Picture], str]) -> str:
    """The file's sections, and between them what is known from elsewhere."""
    known = measured(code)
    parts = (_example(known, draw), f"## How it is decided\n\n{decided}", _error_rates(known))
    before = "\n\n".join(part for part in parts if part)
    text = text.replace("## Why it happens", f"{before}\n\n## Why it happens", 1)
    silence = "" if "## How to silence it" in text else _how_silenced(code)
    return f"{text}\n\n{silence}".rstrip() + "\n"


def _example(known: Measured, draw: Callable[[Picture], str]) -> str:
    """Ends the section on what it looks like."""
    if known.picture is not None:
        return f"{draw(known.picture)}\n\nA real run: {known.picture.of}. It said: “{known.picture.message}”"
    return f"Of a real model it said: “{known.said}”" if known.said else ""


def _in_terminal(picture: Picture) -> str:
    return f"```text\n{picture.as_text()}\n```"


def _on_page(picture: Picture) -> str:
    return f"<figure>{picture.as_svg()}</figure>"


def _criterion(code: str) -> str:
    """Of a rule of the monitor: its docstring is the only place where formula and thresholds are told in words."""
    rule = _rules().get(code)
    return (inspect.getdoc(rule) or "").replace("``", "`") if rule is not None else ""


def _how_silenced(code: str) -> str:
    """The monitor ignores the codes that it can tell; ``check`` takes what is known for granted."""
    from lightning_adam.diagnosis.facts import FACTS
    from lightning_adam.diagnosis.rules import BESIDE

    return SILENCE.format(code=code) if code in (*_rules(), *BESIDE, *FACTS) else KNOWN


def _error_rates(known: Measured) -> str:
    told = "\n\n".join(rates.as_text() for rates in known.rates)
    return f"## Measured error rates\n\n{told}" if told else ""


def _rules() -> dict[str, object]:
    from lightning_adam.diagnosis.rules import RULES

    return dict(RULES)
