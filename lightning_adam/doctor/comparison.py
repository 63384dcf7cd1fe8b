"""What differs between two runs: in configuration, in numbers, in findings, and where their losses part."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightning_adam.doctor.curves import Curve
from lightning_adam.doctor.judgement import RunReport
from lightning_adam.doctor.markdown import escaped
from lightning_adam.doctor.reporting import report
from lightning_adam.errors import ConfigError

PARTED = 0.1
"""Two smoothed losses have parted where they differ by a tenth of the smaller one, to the end of the shorter run."""
SMOOTHED = 25
"""Logged values in a running median of the loss."""


@dataclass(frozen=True)
class Difference:
    """One line of the comparison.

    Attributes:
        about: ``configuration``, ``numbers`` or ``findings``.
        what: what is compared.
        first: in the first run; empty where it has none.
        second: in the second run.
    """

    about: str
    what: str
    first: str
    second: str


@dataclass(frozen=True)
class Comparison:
    """Two runs, side by side.

    Attributes:
        first: the first run.
        second: the second run.
        differences: what is not alike.
        parted: the step from which on their losses differ; None where they do not, or have no common steps.
    """

    first: RunReport
    second: RunReport
    differences: tuple[Difference, ...]
    parted: int | None

    def to_markdown(self) -> str:
        """As a table with one line per difference."""
        return "\n".join(self._lines())

    def _lines(self) -> list[str]:
        first, second = _names(self.first, self.second)
        head = [f"**{first}** beside **{second}**", "", _parted(self.parted), ""]
        if not self.differences:
            return [*head, "Configuration, numbers and findings are alike."]
        table = [f"| | | {first} | {second} |", "|---|---|---|---|"]
        return [
            *head,
            *table,
            *(
                f"| {d.about} | {escaped(d.what)} | {escaped(d.first) or '–'} | {escaped(d.second) or '–'} |"
                for d in self.differences
            ),
        ]


def compare(first: str, second: str) -> Comparison:
    """Compare two runs, each in a log folder of its own.

    Args:
        first: a run's folder or file, as :func:`lightning_adam.report` takes it.
        second: another one.

    Raises:
        ConfigError: a folder holds several runs; the message names them.
    """
    one, other = _only_run(first), _only_run(second)
    differences = (*_configuration(one, other), *_numbers(one, other), *_findings(one, other))
    return Comparison(one, other, differences, _parting(one, other))


def _only_run(place: str) -> RunReport:
    runs = report(place).runs
    if len(runs) > 1:
        names = ", ".join(run.name for run in runs[:5])
        raise ConfigError(f"--compare {place}: it holds {len(runs)} runs ({names}, …). Name one of them.")
    return runs[0]


def _names(first: RunReport, second: RunReport) -> tuple[str, str]:
    """Two that are called ``version_0``: by their paths below the folder that they share; in full where one is that."""
    one, other = first.path.absolute(), second.path.absolute()
    if _name(first) != _name(second) or one == other:
        return _name(first), _name(second)
    shared = os.path.commonpath([one, other])
    if Path(shared) in (one, other):
        return escaped(one.as_posix()), escaped(other.as_posix())
    return escaped(one.relative_to(shared).as_posix()), escaped(other.relative_to(shared).as_posix())


def _name(run: RunReport) -> str:
    return escaped(run.path.name if run.name in (".", "") else run.name)


def _parted(step: int | None) -> str:
    return "The losses do not part." if step is None else f"The losses part at step {step}."


def _configuration(first: RunReport, second: RunReport) -> list[Difference]:
    names = dict.fromkeys((*first.settings, *second.settings))
    pairs = [(name, first.settings.get(name, ""), second.settings.get(name, "")) for name in names]
    return [Difference("configuration", name, one, other) for name, one, other in pairs if one != other]


def _numbers(first: RunReport, second: RunReport) -> list[Difference]:
    numbers = [_summary(run) for run in (first, second)]
    names = dict.fromkeys((*numbers[0], *numbers[1]))
    pairs = [(name, numbers[0].get(name, ""), numbers[1].get(name, "")) for name in names]
    return [Difference("numbers", name, one, other) for name, one, other in pairs if one != other]


def _summary(run: RunReport) -> dict[str, str]:
    """The loss's start, best and end; of everything else the median and the largest."""
    told = {"last step": str(run.steps[1])}
    for curve in run.curves:
        values = curve.values[np.isfinite(curve.values)]
        if len(values):
            told |= _of_the_loss(curve) if curve.title == "loss" else _of_any(curve.title, values)
    return told


def _of_the_loss(curve: Curve) -> dict[str, str]:
    finite = curve.values[np.isfinite(curve.values)]
    return {
        "first loss": f"{curve.values[0]:.4g}",
        "best loss": f"{finite.min():.4g}",
        "last loss": f"{curve.values[-1]:.4g}",
    }


def _of_any(title: str, values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> dict[str, str]:
    return {f"{title}, median": f"{np.median(values):.3g}", f"{title}, largest": f"{values.max():.3g}"}


def _findings(first: RunReport, second: RunReport) -> list[Difference]:
    said = [{f.rule: f"{f.severity}, step {f.step}" for f in reversed(run.findings)} for run in (first, second)]
    rules = dict.fromkeys(finding.rule for run in (first, second) for finding in run.findings)
    pairs = [(rule, said[0].get(rule, ""), said[1].get(rule, "")) for rule in rules]
    return [Difference("findings", rule, one, other) for rule, one, other in pairs if one != other]


def _parting(first: RunReport, second: RunReport) -> int | None:
    one, other = _loss(first), _loss(second)
    if one is None or other is None:
        return None
    steps, at, there = np.intersect1d(one.steps, other.steps, return_indices=True)
    if not len(steps):
        return None
    apart = [not _alike(a, b) for a, b in zip(_smooth(one.values[at]), _smooth(other.values[there]), strict=True)]
    alike = [i for i, differs in enumerate(apart) if not differs]
    begins = alike[-1] + 1 if alike else 0
    return int(steps[begins]) if begins < len(steps) else None


def _alike(one: float, other: float) -> bool:
    if not (math.isfinite(one) and math.isfinite(other)):
        return math.isfinite(one) == math.isfinite(other)
    return abs(one - other) <= PARTED * min(abs(one), abs(other)) or one == other


def _smooth(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> list[float]:
    """A running median over the values so far: what comes later does not reach back."""
    return [float(np.median(values[max(0, end - SMOOTHED) : end])) for end in range(1, len(values) + 1)]


def _loss(run: RunReport) -> Curve | None:
    return next((curve for curve in run.curves if curve.title == "loss"), None)
