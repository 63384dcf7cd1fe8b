"""The benchmark of the diagnosis: ``python -m tests.benchmarks.divergence``; see ``--help``."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tests.benchmarks.divergence.baselines import BASELINES
from tests.benchmarks.divergence.healthy import HEALTHY
from tests.benchmarks.divergence.held_out import HELD_OUT, SECOND
from tests.benchmarks.divergence.remedies import is_cured, remedied
from tests.benchmarks.divergence.running import Run, train
from tests.benchmarks.divergence.scenario import Scenario
from tests.benchmarks.divergence.scoring import (
    HEADER,
    causes,
    diagnoses,
    event_step,
    false_alarms,
    live_warnings,
    score,
)
from tests.benchmarks.divergence.sick import SICK

SCENARIOS = {s.name: s for s in (*HEALTHY, *SICK, *HELD_OUT)}
STORED = Path("runs/divergence")
QUICK = (
    "digits", "diabetes", "label-noise", "overfit-100", "always-clipped", "full-batch", "restarts", "bf16", "fp16", "gan",
    "lion", "lr-high-digits", "lr-low-digits", "beta2-low-digits", "eps-high-digits", "heavy-tail", "bad-target",
    "nan-gradient", "dead-relu", "bf16-stall-digits", "lr-ramp-digits", "not-zeroed", "v-lost", "decay-digits",
    "schedule-collapsed-digits",
)  # fmt: skip
Pairs = list[tuple[Scenario, Run]]


def main() -> None:
    """Train what is not stored (or only re-score), and print the tables."""
    options = _options()
    names = QUICK if options.quick else tuple(SCENARIOS)
    seeds = (0,) if options.quick else tuple(map(int, options.seeds.split(",")))
    began = time.perf_counter()
    held_out = {s.name for s in HELD_OUT}
    jobs = [(name, seed, "") for name in names for seed in seeds if seed < 3 or name in held_out]
    cures = [(name, 0, "cured") for name in names if SCENARIOS[name].cure]
    if not options.rescore:
        _train([*jobs, *cures], options.processes)
    runs: Pairs = [(SCENARIOS[n], Run.load(_path(n, s, ""))) for n, s, _ in jobs if _path(n, s, "").exists()]
    if not options.rescore and not options.quick:
        _train(_remedy_jobs(runs), options.processes)
    report(runs, Console(width=180))
    print(f"{len(runs)} runs; {time.perf_counter() - began:.0f} s")


def report(runs: Pairs, console: Console) -> None:
    """All tables, for the tuning split and what was held out."""
    told, second = {s.name for s in HELD_OUT}, {s.name for s in SECOND}
    first = told - second
    splits = {
        "tuned on (seed 0)": [(s, r) for s, r in runs if r.seed == 0 and s.name not in told],
        "held-out seeds (1, 2)": [(s, r) for s, r in runs if r.seed > 0 and s.name not in told],
        "held-out tasks, architectures and optimizers (seeds 0-2)": [
            (s, r) for s, r in runs if s.name in first and r.seed < 3
        ],
        "the same, seeds from 3 on": [(s, r) for s, r in runs if s.name in first and r.seed > 2],
        "a second held-out set, scored once (seeds 0-2)": [(s, r) for s, r in runs if s.name in second and r.seed < 3],
    }
    for title, split in splits.items():
        if split:
            _tell(title, split, console)
    _tell_remedies(runs, console)


def _tell(title: str, split: Pairs, console: Console) -> None:
    core = [(s, r) for s, r in split if s.tier == "core"]
    table = Table(
        *HEADER,
        title=f"{title}: {sum(not s.cause for s, _ in core)} healthy runs, {sum(bool(s.cause) for s, _ in core)} sick",
    )
    for name, detector in BASELINES.items():
        table.add_row(*score(name, detector, core).cells())
    table.add_row(*score("DivergenceMonitor", live_warnings, core).cells(), style="bold")
    console.print(table)
    found = causes(core)
    n = max(1, found.runs)
    console.print(
        f"cause named first: exact {found.exact / n:.3f}, accepted (same remedy) {found.accepted / n:.3f}, "
        f"family {found.family / n:.3f} of {found.runs} sick runs"
    )
    for line in found.wrong:
        console.print("   not exact:", line, style="dim")
    for line in false_alarms(core):
        console.print("   false alarm:", line, style="red")
    hygiene = causes([(s, r) for s, r in split if s.tier == "hygiene"])
    if hygiene.runs:
        console.print(f"hygiene tier: exact {hygiene.exact}/{hygiene.runs} (info counts as silence)", style="dim")
    for scenario, run in core:
        lost = event_step(run.losses, scenario.gan)
        if lost is not None and lost < scenario.onset:
            console.print(f"   event before onset: {scenario.name}/{run.seed} at {lost}", style="red")
        if lost is not None and not scenario.cause:
            console.print(f"   healthy run with an event: {scenario.name}/{run.seed} at {lost}", style="red")


def _remedy_jobs(runs: Pairs) -> list[tuple[str, int, str]]:
    return [(s.name, r.seed, "remedied") for s, r in runs if r.seed == 0 and s.cause and _remedy(s, r) is not None]


def _remedy(scenario: Scenario, run: Run) -> Scenario | None:
    return remedied(scenario, [f for d in diagnoses(run) for f in d.findings])


def _tell_remedies(runs: Pairs, console: Console) -> None:
    """Whether cures cure (the labels stand on it), and whether the printed remedies do."""
    asked = mended = 0
    for scenario, run in runs:
        cured = _path(scenario.name, 0, "cured")
        if run.seed or not scenario.cause or not cured.exists():
            continue
        good = Run.load(cured)
        if scenario.tier == "core" and not _helps(scenario, run, good):
            console.print(f"   cure does not help: {scenario.name}: {run.final:.4g} -> {good.final:.4g}", style="red")
        again = _path(scenario.name, 0, "remedied")
        if not again.exists() or scenario.tier != "core":
            continue
        healed = Run.load(again)
        asked, well = asked + 1, is_cured(scenario, run, healed, good)
        mended += well
        if not well:
            became = f"{run.final:.4g} -> {healed.final:.4g} by its remedy, {good.final:.4g} by the cure"
            console.print(f"   not cured: {scenario.name}: {became}", style="yellow")
    if asked:
        console.print(f"remedies applied as printed: {mended}/{asked} = {mended / asked:.2f} of the sick runs are cured")


def _helps(scenario: Scenario, sick: Run, cured: Run) -> bool:
    had, has = event_step(sick.losses, scenario.gan), event_step(cured.losses, scenario.gan)
    return cured.final < 0.97 * sick.final or (had is not None and has is None)


def _path(name: str, seed: int, kind: str) -> Path:
    return STORED / f"{name}.{seed}{'.' + kind if kind else ''}.zip"


def _train(jobs: Sequence[tuple[str, int, str]], processes: int) -> None:
    due = [job for job in jobs if not _path(*job).exists()]
    columns = (TextColumn("{task.description:40}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("training", total=len(due))
        for job in _done(due, processes):
            progress.update(task, advance=1, description=" ".join(map(str, job)))


def _done(jobs: Sequence[tuple[str, int, str]], processes: int) -> Iterator[tuple[str, int, str]]:
    if processes < 2:
        yield from map(train_and_store, jobs)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(train_and_store, jobs)


def train_and_store(job: tuple[str, int, str]) -> tuple[str, int, str]:
    """One job of a process: the scenario as it is, cured, or with the remedy that was printed."""
    name, seed, kind = job
    scenario = SCENARIOS[name]
    if kind == "cured":
        scenario = scenario.cured()
    if kind == "remedied":
        changed = _remedy(scenario, Run.load(_path(name, seed, "")))
        scenario = scenario if changed is None else changed
    train(scenario, seed).save(_path(*job))
    return job


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.divergence", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="25 short runs of seed 0, under two minutes")
    parser.add_argument("--rescore", action="store_true", help="train nothing: the rules over the stored signals")
    parser.add_argument("--seeds", default="0,1,2", help="default 0,1,2; seeds from 3 on are only run on the held-out tasks")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="trainings side by side")
    return parser.parse_args()


if __name__ == "__main__":
    main()
