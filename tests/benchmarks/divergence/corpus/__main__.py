"""The corpus: ``python -m tests.benchmarks.divergence.corpus``; see ``--help``."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor

from tests.benchmarks.divergence.corpus.families import FAMILIES
from tests.benchmarks.divergence.corpus.jobs import Job, jobs_of
from tests.benchmarks.divergence.corpus.mending import tell_trials, trials_of
from tests.benchmarks.divergence.corpus.report import (
    Figures,
    tell_families,
    tell_figures,
    tell_halves,
    tell_peers,
    tell_ways,
    wrong_lines,
)
from tests.benchmarks.divergence.corpus.runs import train_job
from tests.benchmarks.divergence.corpus.settings import digest
from tests.benchmarks.divergence.corpus.verdicts import Outcome, Verdict, outcome_of, verdicts_of

FLOORS = {"alarmed": 0.05, "found": 0.9, "exact": 0.8}
"""Of the quick subset: at most so many healthy runs are alarmed; at least so many sick ones are found, and named."""


def main() -> None:
    """Train what is not stored, and print the figures."""
    options = _options()
    began = time.perf_counter()
    families = [family for name, family in FAMILIES.items() if options.only in name]
    jobs = [job for family in families for job in jobs_of(family) if job.is_quick or not options.quick]
    with ProcessPoolExecutor(options.processes) as pool:
        if not options.rescore:
            _train(pool, jobs)
        verdicts = judged(pool, jobs)
        _tell(verdicts, options)
        if options.remedies:
            trials = trials_of(verdicts)
            _train(pool, () if options.rescore else [trial.job for trial in trials])
            tell_trials(trials)
    print(f"{len(verdicts)} of {len(jobs)} runs; {time.perf_counter() - began:.0f} s")
    if options.quick and (missed := missed_floors(verdicts)):
        sys.exit("The quick subset is worse than it was: " + "; ".join(missed))


def judged(pool: Executor, jobs: Iterable[Job]) -> list[Verdict]:
    """Those that are stored, family by family."""
    stored = [job for job in jobs if job.path.exists()]
    outcomes: Iterator[Outcome] = iter(pool.map(outcome_of, stored, chunksize=8))
    groups = itertools.groupby(outcomes, key=lambda outcome: outcome.job.family)
    return [verdict for _, group in groups for verdict in verdicts_of(list(group))]


def missed_floors(verdicts: Sequence[Verdict]) -> list[str]:
    """In words."""
    figures = Figures.of(verdicts)
    shares = {name: getattr(figures, name).value for name in FLOORS}
    return [
        f"{name} {share:.3f}, was to be {'at most' if name == 'alarmed' else 'at least'} {FLOORS[name]}"
        for name, share in shares.items()
        if (share > FLOORS[name] if name == "alarmed" else share < FLOORS[name])
    ]


def _train(pool: Executor, jobs: Sequence[Job]) -> None:
    """In an order that mixes families: what has been trained when it is interrupted is a fair sample."""
    began = time.perf_counter()
    due = sorted((job for job in jobs if not job.path.exists()), key=lambda job: digest(job.name))
    for count, (job, error) in enumerate(zip(due, pool.map(_tried, due), strict=True), 1):
        if error:
            print(f"left out: {job.name}: {error}", flush=True)
        if count % 50 == 0:
            print(f"{count}/{len(due)} {job.name} {time.perf_counter() - began:.0f} s", flush=True)


def _tried(job: Job) -> str:
    """What torch itself refuses (a gradient scaler without any gradient, say) is no run; the others go on."""
    try:
        train_job(job)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _tell(verdicts: Sequence[Verdict], options: argparse.Namespace) -> None:
    if options.quick:
        tell_figures("quick subset", verdicts)
        print(*wrong_lines(verdicts), sep="\n")
        return
    tell_halves(verdicts, lambda held_out: options.held_out or not held_out)
    tell_families(verdicts)
    tell_ways(verdicts)
    tell_peers(verdicts)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.divergence.corpus", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a subset of two minutes; exit code 1 where it got worse")
    parser.add_argument("--rescore", action="store_true", help="train nothing: the rules over the stored signals")
    parser.add_argument("--remedies", action="store_true", help="also train a sample with the remedies as printed")
    parser.add_argument("--held-out", action="store_true", help="also tell each wrong run of the held-out families")
    parser.add_argument("--only", default="", help="families whose name has this in it")
    parser.add_argument("--processes", type=int, default=1, help="trainings side by side")
    return parser.parse_args()


if __name__ == "__main__":
    main()
