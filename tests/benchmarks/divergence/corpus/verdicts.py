"""Replays the rules and the peers over what is stored, and judges each run beside its family's others."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lightning_adam.diagnosis import Finding, RunSignals
from tests.benchmarks.divergence.baselines import BASELINES
from tests.benchmarks.divergence.corpus.family import FAMILIES
from tests.benchmarks.divergence.corpus.jobs import Job
from tests.benchmarks.divergence.corpus.mistakes import Mistake
from tests.benchmarks.divergence.running import Run
from tests.benchmarks.divergence.scoring import FAMILIES as KINDS
from tests.benchmarks.divergence.scoring import diagnoses

AS_LOW = 0.05
"""A healthy run ends within so much of the way from the best end to the start."""
LOST = 0.2
"""A sick run's label stands where it ends by so much of that way above its sibling without the mistake."""


@dataclass(frozen=True)
class Outcome:
    """What one run came to, and who said what about it.

    Attributes:
        job: the run.
        start: the median of the first five losses.
        final: that of the last ones; infinite where they are not finite.
        configured: the learning rate that a remedy's is instead of.
        findings: of the rules as they are now, in order.
        peers: of each other detector the last step at which it warned; -1 where it never did.
    """

    job: Job
    start: float
    final: float
    configured: float
    findings: tuple[Finding, ...]
    peers: Mapping[str, int]


def outcome_of(job: Job) -> Outcome:
    """Of a run that is stored."""
    run = Run.load(job.path)
    findings = sorted((f for d in diagnoses(run) for f in d.findings), key=lambda f: f.step)
    losses = run.losses
    first = float(np.median(np.where(np.isfinite(losses[:5]), losses[:5], np.inf)))
    start = first if math.isnan(run.start) else run.start
    rates = [r.lr for r in run.records[0] if isinstance(r, RunSignals)]
    return Outcome(job, start, run.final, rates[0], tuple(findings), _peers(job, run))


def _peers(job: Job, run: Run) -> Mapping[str, int]:
    """Kept beside the run: Lightning's detector takes five times as long as all our rules, and none of them changes."""
    kept = job.path.with_suffix(".peers.json")
    if not kept.exists():
        last = {name: int(max(np.flatnonzero(detector(run)), default=-1)) for name, detector in BASELINES.items()}
        kept.write_text(json.dumps(last))
    peers: dict[str, int] = json.loads(kept.read_text())
    return peers


@dataclass(frozen=True)
class Verdict:
    """An outcome beside its family's best.

    Attributes:
        outcome: of the run.
        best: where the family's tuned runs end.
        way: from their start to there.
        ought: where its sibling ends, the same run without the mistake; the best, where that is not known or higher.
    """

    outcome: Outcome
    best: float
    way: float
    ought: float

    @property
    def mistake(self) -> Mistake:
        """What was done wrong; without a cause where nothing was."""
        return self.outcome.job.mistake or Mistake("")

    @property
    def is_healthy(self) -> bool:
        """Nothing was done wrong, and it has learnt as well as its tuned sibling."""
        return not self.mistake.cause and self.outcome.final <= self.best + AS_LOW * self.way

    @property
    def is_sick(self) -> bool:
        """The mistake did harm, or is a fact that needs none."""
        lost = not self.outcome.final <= self.ought + LOST * self.way
        return bool(self.mistake.cause) and (lost or self.mistake.exact)

    @property
    def onset(self) -> int:
        """The step at which the mistake is made."""
        return int(self.mistake.onset * FAMILIES[self.outcome.job.family].steps)

    @cached_property
    def grave(self) -> tuple[Finding, ...]:
        """Findings over ``info`` that were seen after the onset."""
        return tuple(f for f in self.outcome.findings if f.severity != "info" and f.last_step >= self.onset)

    @property
    def first(self) -> str:
        """The code that the first of them names; empty where there is none."""
        return self.grave[0].rule if self.grave else ""

    @property
    def is_suspected(self) -> bool:
        """Information counted."""
        return any(f.last_step >= self.onset for f in self.outcome.findings)

    @property
    def is_exact(self) -> bool:
        """The cause is named first."""
        return bool(self.first) and self.first == self.mistake.cause

    @property
    def is_accepted(self) -> bool:
        """Or another name of the same mistake."""
        return self.is_exact or self.first in self.mistake.accepted

    @property
    def is_of_kind(self) -> bool:
        """Or a relative."""
        kind = KINDS.get(self.first)
        return self.is_accepted or (kind is not None and kind == KINDS.get(self.mistake.cause))

    def is_warned_by(self, peer: str) -> bool:
        """Whether this detector warned of it."""
        return self.outcome.peers[peer] >= self.onset

    def line(self) -> str:
        """The run and what was said, for a report of those that went wrong."""
        told = _told(self.grave) or "nothing; info: " + _told(self.outcome.findings)
        course = f"{self.outcome.start:.3g} -> {self.outcome.final:.3g}, without {self.ought:.3g}"
        cause = f"{self.mistake.cause} named " if self.mistake.cause else ""
        mark = "ALARM" if not self.mistake.cause else "     " if self.is_accepted else "WRONG"
        return f"{mark} {self.outcome.job.name}: {cause}{told} ({course})"


def verdicts_of(outcomes: Sequence[Outcome]) -> list[Verdict]:
    """Of one family's runs.

    The best is the lowest tenth of those without a mistake: one lucky end is no tuned sibling. The start is that of a run
    with the family's usual rate.
    """
    tuned = [o for o in outcomes if o.job.mistake is None and math.isfinite(o.final)]
    if not tuned:
        return []
    best = float(np.quantile([o.final for o in tuned], 0.1, method="lower"))
    start = float(np.median([o.start for o in tuned if math.isfinite(o.start)]))
    siblings = {o.job.setting: max(best, o.final) for o in tuned if (o.job.kind, o.job.seed) == ("healthy-1", 0)}
    way = max(start - best, 1e-9)
    return [Verdict(outcome, best, way, siblings.get(outcome.job.setting, best)) for outcome in outcomes]


def _told(findings: Sequence[Finding]) -> str:
    return ", ".join(f"{f.rule}@{f.step}" for f in findings)
