"""The corpus: ``python -m tests.benchmarks.divergence.corpus``; see ``--help``."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from lightning_adam.diagnosis import Finding
from tests.benchmarks.divergence.corpus import generative, representation, supervised  # noqa: F401
from tests.benchmarks.divergence.corpus.family import FAMILIES, Family
from tests.benchmarks.divergence.corpus.mistakes import MISTAKES
from tests.benchmarks.divergence.corpus.runs import GRID, path_of, train_job
from tests.benchmarks.divergence.running import Run
from tests.benchmarks.divergence.scoring import FAMILIES as KINDS
from tests.benchmarks.divergence.scoring import diagnoses

AS_LOW = 0.05
"""A healthy run ends within so much of the way from the best end to the start."""
LOST = 0.2
"""A sick run's label stands where it ends by so much of that way above the best."""
Job = tuple[str, str, int]


@dataclass
class Tally:
    """Counts of one split."""

    healthy: int = 0
    alarmed: int = 0
    sick: int = 0
    found: int = 0
    suspected: int = 0
    exact: int = 0
    accepted: int = 0
    kind: int = 0
    unverified: int = 0
    lines: list[str] = field(default_factory=list)

    def report(self, title: str) -> None:
        """The table, with 95 % intervals."""
        print(f"\n{title}: {self.healthy} healthy runs, {self.sick} sick ones ({self.unverified} whose label did not stand)")
        rows = (
            ("healthy runs alarmed", self.alarmed, self.healthy),
            ("recall, warning or above", self.found, self.sick),
            ("recall, information counted", self.suspected, self.sick),
            ("exact cause first", self.exact, self.sick),
            ("accepted cause first", self.accepted, self.sick),
            ("family of the cause first", self.kind, self.sick),
        )
        for name, hits, count in rows:
            low, high = wilson(hits, count)
            print(f"  {name:30} {hits:4}/{count:<4} = {hits / max(1, count):.3f}  (95 % interval {low:.3f} to {high:.3f})")


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


def jobs_of(family: Family) -> list[Job]:
    """Three rates and a second seed of healthy runs; each mistake that applies."""
    healthy = [(family.name, f"healthy-{times:g}", 0) for times in GRID]
    sick = [(family.name, name, 0) for name, mistake in MISTAKES.items() if mistake.applies(family)]
    return [*healthy, (family.name, "healthy-1", 1), (family.name, "healthy-1", 2), *sick]


def tally_of(families: Iterable[Family]) -> Tally:
    """Replay the rules over what is stored."""
    tally = Tally()
    for family in families:
        runs = {job: Run.load(path_of(*job)) for job in jobs_of(family) if path_of(*job).exists()}
        tuned = [run for job, run in runs.items() if job[1].startswith("healthy-")]
        if tuned:
            best = min(run.final for run in tuned)
            start = float(sorted(tuned[0].losses[:5])[2])
            for job, run in runs.items():
                _count(tally, family, job, run, best, max(start - best, 1e-9))
    return tally


def _count(tally: Tally, family: Family, job: Job, run: Run, best: float, way: float) -> None:
    found = sorted((f for d in diagnoses(run) for f in d.findings), key=lambda f: f.step)
    grave = [f for f in found if f.severity != "info"]
    lost = not math.isfinite(run.final) or run.final > best + LOST * way
    mistake = MISTAKES.get(job[1])
    if mistake is None:
        if run.final <= best + AS_LOW * way:
            tally.healthy += 1
            tally.alarmed += bool(grave)
            tally.lines += [f"ALARM {_named(job)}: {_told(grave)} ({run.losses[0]:.3g} -> {run.final:.3g})"] if grave else []
        return
    if not (lost or mistake.exact):
        tally.unverified += 1
        return
    onset = int(mistake.onset * family.steps)
    after = [f for f in grave if f.last_step >= onset]
    first = after[0].rule if after else ""
    accepted = first == mistake.cause or first in mistake.accepted
    tally.sick += 1
    tally.found += bool(after)
    tally.suspected += any(f.last_step >= onset for f in found)
    tally.exact += first == mistake.cause
    tally.accepted += accepted
    tally.kind += accepted or (bool(first) and KINDS.get(first) == KINDS.get(mistake.cause))
    if first != mistake.cause:
        told = _told(after) or "nothing; info: " + _told(found)
        course = f"{run.losses[0]:.3g} -> {run.final:.3g}, best {best:.3g}"
        tally.lines.append(f"{'    ' if accepted else 'WRONG'} {_named(job)}: {mistake.cause} named {told} ({course})")


def _named(job: Job) -> str:
    return f"{job[0]}/{job[1]}/{job[2]}"


def _told(findings: Sequence[Finding]) -> str:
    return ", ".join(f"{f.rule}@{f.step}" for f in findings)


def main() -> None:
    """Train what is not stored, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.divergence.corpus", description=__doc__)
    parser.add_argument("--rescore", action="store_true", help="train nothing: the rules over the stored signals")
    parser.add_argument("--held-out", action="store_true", help="also tell each wrong run of the held-out families")
    parser.add_argument("--only", default="", help="families whose name has this in it")
    parser.add_argument("--processes", type=int, default=1, help="trainings side by side")
    options = parser.parse_args()
    families = [family for name, family in FAMILIES.items() if options.only in name]
    began = time.perf_counter()
    if not options.rescore:
        jobs = sorted((job for family in families for job in jobs_of(family)), key=lambda job: job[1] in MISTAKES)
        with ProcessPoolExecutor(options.processes) as pool:
            for count, job in enumerate(pool.map(train_job, jobs), 1):
                if count % 50 == 0:
                    print(f"{count}/{len(jobs)} {_named(job)} {time.perf_counter() - began:.0f} s", flush=True)
    for title, held_out in (("families that thresholds were looked at on", False), ("families left out", True)):
        tally = tally_of(f for f in families if f.is_held_out == held_out)
        tally.report(f"{title} ({sum(f.is_held_out == held_out for f in families)})")
        for line in tally.lines if options.held_out or not held_out else ():
            print("   ", line)
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
