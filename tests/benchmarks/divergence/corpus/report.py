"""The tables: counts with Wilson's intervals, by halves, families, ways to train and detectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tests.benchmarks.divergence.baselines import BASELINES
from tests.benchmarks.divergence.corpus.family import FAMILIES
from tests.benchmarks.divergence.corpus.settings import SETTINGS
from tests.benchmarks.divergence.corpus.verdicts import Verdict

Verdicts = Sequence[Verdict]


def wilson(hits: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share (Wilson 1927).

    Example:
        >>> [round(v, 3) for v in wilson(0, 100)], [round(v, 3) for v in wilson(50, 100)]
        ([0.0, 0.037], [0.404, 0.596])
    """
    if not count:
        return 0.0, 1.0
    share, square = hits / count, z * z / count
    centre, half = share + square / 2, z * math.sqrt(share * (1 - share) / count + square / (4 * count))
    return max(0.0, (centre - half) / (1 + square)), min(1.0, (centre + half) / (1 + square))


@dataclass(frozen=True)
class Share:
    """So many of so many."""

    hits: int
    count: int

    @classmethod
    def of(cls, verdicts: Iterable[Verdict], hit: Callable[[Verdict], bool]) -> Share:
        """How many of them it holds for."""
        hits = [hit(v) for v in verdicts]
        return cls(sum(hits), len(hits))

    @property
    def value(self) -> float:
        """As a number."""
        return self.hits / max(1, self.count)

    def brief(self) -> str:
        """Without the interval."""
        return f"{self.hits}/{self.count}"

    def __str__(self) -> str:
        low, high = wilson(self.hits, self.count)
        return f"{self.hits:4}/{self.count:<4} = {self.value:.3f} ({low:.3f}-{high:.3f})"


@dataclass(frozen=True)
class Figures:
    """What is asked of a set of runs."""

    alarmed: Share
    found: Share
    suspected: Share
    exact: Share
    accepted: Share
    kind: Share

    @classmethod
    def of(cls, verdicts: Verdicts) -> Figures:
        """Runs that are neither healthy nor sick count nowhere."""
        healthy, sick = [v for v in verdicts if v.is_healthy], [v for v in verdicts if v.is_sick]
        return cls(
            Share.of(healthy, lambda v: bool(v.grave)),
            Share.of(sick, lambda v: bool(v.grave)),
            Share.of(sick, lambda v: v.is_suspected),
            Share.of(sick, lambda v: v.is_exact),
            Share.of(sick, lambda v: v.is_accepted),
            Share.of(sick, lambda v: v.is_of_kind),
        )


LABELS = {
    "alarmed": "healthy runs alarmed",
    "found": "recall, warning or above",
    "suspected": "recall, information counted",
    "exact": "exact cause first",
    "accepted": "accepted cause first",
    "kind": "family of the cause first",
}


def tell_halves(verdicts: Verdicts, with_lines: Callable[[bool], bool]) -> None:
    """The families that thresholds were looked at on, and those left out."""
    for title, held_out in (("families that thresholds were looked at on", False), ("families left out", True)):
        half = [v for v in verdicts if FAMILIES[v.outcome.job.family].is_held_out == held_out]
        tell_figures(f"{title} ({len({v.outcome.job.family for v in half})})", half)
        for line in wrong_lines(half) if with_lines(held_out) else ():
            print("   ", line)


def tell_figures(title: str, verdicts: Verdicts) -> None:
    """One split, a measure a line."""
    neither = sum(not v.is_healthy and not v.is_sick for v in verdicts)
    print(f"\n{title}: {len(verdicts)} runs, {neither} of them neither healthy nor sick; 95 % intervals")
    figures = Figures.of(verdicts)
    for name, label in LABELS.items():
        print(f"  {label:30} {getattr(figures, name)}")


def wrong_lines(verdicts: Verdicts) -> list[str]:
    """Each healthy run that was alarmed, each sick one whose cause was not named first."""
    return [v.line() for v in verdicts if (v.is_healthy and v.grave) or (v.is_sick and not v.is_exact)]


def tell_families(verdicts: Verdicts) -> None:
    """A line each: thresholds are constants, so that the line of a family that was left out is what leaving it out gives."""
    print(f"\n{'family':28} {'half':9} {'alarmed':>9} {'found':>8} {'exact':>8}")
    for name, family in FAMILIES.items():
        _tell_line(f"{name:28} {'left out' if family.is_held_out else 'looked at':9}", verdicts, name, "family")


def tell_ways(verdicts: Verdicts) -> None:
    """By schedule, precision and optimizer other than a family's own."""
    print(f"\n{'trained with':38} {'alarmed':>9} {'found':>8} {'exact':>8}")
    for name in SETTINGS:
        _tell_line(f"{name or 'as usual':38}", verdicts, name, "setting")


def _tell_line(label: str, verdicts: Verdicts, name: str, attribute: str) -> None:
    figures = Figures.of([v for v in verdicts if getattr(v.outcome.job, attribute) == name])
    if figures.alarmed.count or figures.found.count:
        print(f"{label} {figures.alarmed.brief():>9} {figures.found.brief():>8} {figures.exact.brief():>8}")


def tell_peers(verdicts: Verdicts) -> None:
    """Other detectors on the same runs; none of them names a cause."""
    healthy, sick = [v for v in verdicts if v.is_healthy], [v for v in verdicts if v.is_sick]
    print(f"\n{'detector':52} {'recall':28} healthy runs alarmed")
    for name in BASELINES:
        recall = Share.of(sick, lambda v, name=name: v.is_warned_by(name))  # type: ignore[misc]
        alarms = Share.of(healthy, lambda v, name=name: v.is_warned_by(name))  # type: ignore[misc]
        print(f"{name:52} {recall!s:28} {alarms}")
    figures = Figures.of(verdicts)
    print(f"{'the monitor':52} {figures.found!s:28} {figures.alarmed}")
