"""When is a run lost, when was it warned of, and how often is a healthy run alarmed: the figures of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_adam.diagnosis import Diagnosis, Finding, replay
from tests.benchmarks.divergence.running import Run
from tests.benchmarks.divergence.scenario import Scenario

Flags = NDArray[np.bool_]
Detector = Callable[[Run], Flags]
"""For each step of a run whether it warns."""
EARLY = 5
REFRACTORY = 50

FAMILIES: dict[str, str] = {
    "LR-HIGH": "large steps", "NO-WARMUP": "large steps", "OSCILLATION": "large steps", "LOGIT-GROWTH": "large steps",
    "LOSS-DIVERGED": "large steps", "LR-LOW": "small steps", "SCHEDULE-COLLAPSED": "small steps", "BF16-STALL": "precision",
    "SCALER-SKIPS": "precision", "STATE-LOST": "state", "STATE-CORRUPT": "state", "BETA2-STALE": "beta2",
    "BETA2-LOW": "beta2",
    "EPS-HIGH": "eps", "CLIP-ALWAYS": "eps", "GRAD-EXPLODING": "heavy gradients", "BAD-BATCH": "heavy gradients",
    "LOSS-SPIKE": "heavy gradients", "NON-FINITE": "not finite", "DEAD-PARAMETER": "no gradient",
    "GRAD-VANISHING": "no gradient",
    "NO-LEARNING": "no gradient", "PLATEAU": "no gradient", "DECAY-DOMINATES": "decay", "INPUT-SCALE": "data",
    "UNUSED-PARAMETER": "code", "GRAD-NOT-ZEROED": "code",
}  # fmt: skip


def event_step(losses: NDArray[np.float64], several: bool) -> int | None:
    """The step at which the loss is gone: not finite, or the median of five far over the best level so far.

    max(3·best, best + 0.1·L0, median of 60 + 6 robust deviations), or 1.5·L0; L0 is the median of the first five.
    Adversaries' losses count only when they are not finite or 20 times L0.
    """
    finite = np.where(np.isfinite(losses), losses, np.inf)
    first, best = float(np.median(finite[:5])), np.inf
    first = first if np.isfinite(first) else 1.0
    for t in range(len(losses)):
        if not np.isfinite(losses[t]):
            return t
        if t < 4:
            continue
        level = float(np.median(finite[t - 4 : t + 1]))
        if several or t < 8:
            if level > (20 if several else 3) * first:
                return t
            continue
        past = finite[max(0, t - 60) : t - 4]
        deviation = 1.4826 * float(np.median(np.abs(past - np.median(past))))
        if level > max(3 * best, best + 0.1 * first, float(np.median(past)) + 6 * deviation) or level > 1.5 * first:
            return t
        best = min(best, float(np.median(finite[max(0, t - 24) : t + 1])))
    return None


@dataclass(frozen=True)
class Row:
    """One detector's figures over a set of runs.

    ``could_early`` and ``could_before`` count the events that leave so many steps between the sickness' first step and the
    event: a NaN in a batch leaves none.
    """

    detector: str
    sick: int
    found: int
    healthy: int
    alarmed: int
    alarms: int
    healthy_steps: int
    events: int
    by_event: int
    before: int
    early: int
    could_before: int
    could_early: int

    def cells(self) -> list[str]:
        """Of the printed table."""
        return [
            self.detector, f"{self.found / max(1, self.sick):.3f}", f"{self.alarmed / max(1, self.healthy):.3f}",
            f"{1e4 * self.alarms / max(1, self.healthy_steps):.2f}",
            f"{self.early}/{self.events} ({self.could_early} could be)",
            f"{self.before}/{self.events} ({self.could_before} could be)",
            f"{self.by_event}/{self.events}",
        ]  # fmt: skip


HEADER = ("detector", "recall", "healthy runs alarmed", "false alarms per 10k healthy steps",
          "events warned of ≥ 5 steps before",
          "before", "at the event or before")  # fmt: skip


def score(name: str, detector: Detector, runs: Iterable[tuple[Scenario, Run]]) -> Row:
    """One detector over runs; a warning before a sickness begins is a false alarm of the healthy steps before it."""
    sick = found = healthy = alarmed = alarms = steps = events = by_event = before = early = could_before = could_early = 0
    for scenario, run in runs:
        warned = detector(run)
        if not scenario.cause:
            healthy, alarmed, steps = healthy + 1, alarmed + bool(warned.any()), steps + len(warned)
            alarms += episodes(warned)
            continue
        sick += 1
        steps, alarms = steps + scenario.onset, alarms + episodes(warned[: scenario.onset])
        after = np.flatnonzero(warned[scenario.onset :])
        first = int(after[0]) + scenario.onset if len(after) else None
        found += first is not None
        lost = event_step(run.losses, scenario.gan)
        if lost is not None and lost >= scenario.onset:
            events, room = events + 1, lost - scenario.onset
            could_before, could_early = could_before + (room >= 1), could_early + (room >= EARLY)
            lead = -1 if first is None else lost - first
            by_event, before, early = by_event + (lead >= 0), before + (lead >= 1), early + (lead >= EARLY)
    counts = (sick, found, healthy, alarmed, alarms, steps, events, by_event, before, early, could_before, could_early)
    return Row(name, *counts)


def episodes(warned: Flags) -> int:
    """Warnings with more than 50 steps between them."""
    count, last = 0, -(10**9)
    for t in np.flatnonzero(warned):
        count, last = count + (t - last > REFRACTORY), int(t)
    return count


def diagnoses(run: Run) -> list[Diagnosis]:
    """The rules over the recorded signals, one diagnosis per optimizer."""
    return [replay(records) for records in run.records]


def live_warnings(run: Run) -> Flags:
    """At which steps of the first optimizer some rule of warning or above spoke first."""
    warned = np.zeros(len(run.steps), dtype=bool)
    place = {s.step: i for i, s in enumerate(run.steps)}
    for records in run.records:
        diagnosis = Diagnosis()
        for record in records:
            if hasattr(record, "total_steps"):
                diagnosis = Diagnosis(record)
                continue
            if any(f.severity != "info" for f in diagnosis.observe(record)):
                at = place.get(record.step, place.get(record.step - 1, 0))
                warned[at] = True
    return warned


def named_cause(scenario: Scenario, found: Sequence[Finding]) -> str:
    """The first finding of warning or above after the sickness began."""
    real = [f for f in found if f.severity != "info" and f.last_step >= scenario.onset and f.step >= scenario.onset]
    return min(real, key=lambda f: f.step).rule if real else ""


@dataclass(frozen=True)
class Causes:
    """How often the first finding names the cause."""

    runs: int
    exact: int
    accepted: int
    family: int
    wrong: tuple[str, ...]


def causes(runs: Iterable[tuple[Scenario, Run]]) -> Causes:
    """Over the sick runs."""
    count = exact = accepted = family = 0
    wrong: list[str] = []
    for scenario, run in runs:
        if not scenario.cause:
            continue
        named = named_cause(scenario, [f for d in diagnoses(run) for f in d.findings])
        count, exact = count + 1, exact + (named == scenario.cause)
        good = named == scenario.cause or named in scenario.accepted
        accepted += good
        family += FAMILIES.get(named) == FAMILIES[scenario.cause] or good
        if named != scenario.cause:
            wrong.append(
                f"{scenario.name}/{run.seed}: {scenario.cause} named {named or 'nothing'}{' (accepted)' if good else ''}"
            )
    return Causes(count, exact, accepted, family, tuple(wrong))


def false_alarms(runs: Iterable[tuple[Scenario, Run]]) -> list[str]:
    """Which healthy runs were alarmed, or sick ones too early, and by what."""
    told = []
    for scenario, run in runs:
        found = [f for d in diagnoses(run) for f in d.findings if f.severity != "info"]
        early: list[Any] = [f for f in found if not scenario.cause or f.step < scenario.onset]
        if early:
            told.append(f"{scenario.name}/{run.seed}: " + ", ".join(f"{f.rule}@{f.step}" for f in early))
    return told
