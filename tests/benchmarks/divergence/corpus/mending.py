"""Applies remedies as they are printed, to sick runs and to healthy ones that were told something."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightning_adam.diagnosis import Finding
from lightning_adam.diagnosis.finding import as_told
from tests.benchmarks.divergence.corpus.jobs import IN_GROUPS, Job
from tests.benchmarks.divergence.corpus.mistakes import Mistake
from tests.benchmarks.divergence.corpus.report import Share
from tests.benchmarks.divergence.corpus.settings import digest
from tests.benchmarks.divergence.corpus.verdicts import AS_LOW, Verdict
from tests.benchmarks.divergence.running import Run

SICK, HEALTHY = 110, 40
"""At most so many of each are trained again."""
RECOVERED = 0.8
"""The share of the gap to the run without the mistake that a remedy has to close."""
ARGUMENTS = frozenset({"lr", "schedule", "warmup", "clip", "precision", "optimizer", *IN_GROUPS})


@dataclass(frozen=True)
class Trial:
    """A verdict, the finding whose remedy is applied, and the run with it."""

    verdict: Verdict
    finding: Finding
    job: Job

    @property
    def final(self) -> float:
        """Where the run with the remedy ends."""
        return Run.load(self.job.path).final

    @property
    def is_mended(self) -> bool:
        """From where the sick run ended, or started if that was lower."""
        verdict = self.verdict
        sick = min(verdict.outcome.final, verdict.outcome.start)
        return self.final <= sick - RECOVERED * (sick - verdict.ought)

    @property
    def is_worse(self) -> bool:
        """By more than what two healthy runs may differ by."""
        return not self.final <= self.verdict.outcome.final + AS_LOW * self.verdict.way

    def line(self) -> str:
        """The run, the remedy and what it led to."""
        verdict = self.verdict
        course = f"{verdict.outcome.final:.3g} -> {self.final:.3g}, without {verdict.ought:.3g}"
        return f"{verdict.outcome.job.name}: {self.finding.rule} {dict(self.finding.changes)} ({course})"


def trials_of(verdicts: Sequence[Verdict]) -> list[Trial]:
    """A sample that only depends on the runs' names."""
    sick = [_trial(v, v.grave) for v in verdicts if v.is_sick]
    healthy = [_trial(v, [as_told(finding) for finding in v.outcome.findings]) for v in verdicts if v.is_healthy]
    return _sample(sick, SICK) + _sample(healthy, HEALTHY)


def tell_trials(trials: Sequence[Trial]) -> None:
    """What recovers, what does not, and what makes healthy runs worse."""
    done = [t for t in trials if t.job.path.exists()]
    sick, healthy = [t for t in done if t.verdict.is_sick], [t for t in done if t.verdict.is_healthy]
    mendable = [t for t in sick if _is_of_hyper_parameters(t.verdict.mistake)]
    named = [t for t in mendable if t.verdict.is_accepted]
    print("\nremedies applied as printed; 95 % intervals")
    for title, group in (("with the cause named", named), ("of a hyper-parameter", mendable), ("all", sick)):
        print(f"  sick runs that recover {RECOVERED:.0%} of the gap, {title:22} {_share([t.is_mended for t in group])}")
    print(f"  {'healthy runs that a remedy made worse':62} {_share([t.is_worse for t in healthy])}")
    for trial in done:
        if trial in healthy and trial.is_worse:
            print("    WORSE", trial.line())
        elif trial in mendable and not trial.is_mended:
            print("    NOT MENDED", trial.line())


def _trial(verdict: Verdict, findings: Sequence[Finding]) -> Trial | None:
    """Of the first finding that says what to change in arguments."""
    for finding in findings:
        if ARGUMENTS & finding.changes.keys():
            changes = json.dumps(_applied(verdict, finding), sort_keys=True)
            return Trial(verdict, finding, replace(verdict.outcome.job, changes=changes))
    return None


def _applied(verdict: Verdict, finding: Finding) -> dict[str, Any]:
    """A rate instead of the configured one as a multiple of it: a scheduler of torch may be built on a part of it."""
    changes = {name: value for name, value in finding.changes.items() if name in ARGUMENTS}
    configured, lr = verdict.outcome.configured, changes.get("lr", math.nan)
    if verdict.mistake.factor is None and (lr <= configured or finding.rule == "LR-LOW"):
        changes["times"] = lr / configured
    return changes


def _sample(trials: Sequence[Trial | None], count: int) -> list[Trial]:
    able = [trial for trial in trials if trial is not None]
    return sorted(able, key=lambda trial: digest("remedy", trial.job.name))[:count]


def _is_of_hyper_parameters(mistake: Mistake) -> bool:
    """Not of the data, the network or the code."""
    loop = mistake.stale or mistake.zeroed_every > 1 or math.isfinite(mistake.forgets_every)
    return not loop and (mistake.batch, mistake.loss, mistake.net) == (None, None, None)


def _share(hits: Sequence[bool]) -> Share:
    return Share(sum(hits), len(hits))
