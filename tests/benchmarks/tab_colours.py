"""Does the Adam tab's heatmap tell sick from healthy? Trains the runs of the divergence benchmark with both monitors into
event files, and asks of each which share of its cells is coloured: ``python -m tests.benchmarks.tab_colours``.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_adam.callbacks import DivergenceMonitor, OptimizerMonitor
from lightning_adam.diagnosis import Diagnosis, RunSignals, StepSignals
from lightning_adam.tensorboard.configuration import CONFIG, configured
from lightning_adam.tensorboard.heatmap import EDGE, strengths
from lightning_adam.tensorboard.reader import RunLog, read_run
from lightning_adam.tensorboard.tab.findings import parsed, spans
from lightning_adam.tensorboard.tab.judged import GRADIENT, OVERVIEW, Judge
from lightning_adam.tensorboard.tab.limits import bands
from lightning_adam.tensorboard.tab.marks import Mark, marked
from lightning_adam.tensorboard.tab.tiles import Matrix
from tests.benchmarks.divergence import running
from tests.benchmarks.divergence.corpus.families import FAMILIES
from tests.benchmarks.divergence.corpus.jobs import jobs_of
from tests.benchmarks.divergence.corpus.verdicts import outcome_of, verdicts_of
from tests.benchmarks.divergence.healthy import HEALTHY
from tests.benchmarks.divergence.held_out import HELD_OUT
from tests.benchmarks.divergence.running import Run
from tests.benchmarks.divergence.scenario import Scenario
from tests.benchmarks.divergence.scoring import diagnoses
from tests.benchmarks.divergence.sick import SICK

STORED = Path("runs/tab_colours")
EVERY = 5
"""Steps between two columns of the heatmap."""
ALL = {s.name: s for s in (*HEALTHY, *SICK, *HELD_OUT)}


def record(scenario: Scenario, seed: int, stored: Path = STORED) -> Path:
    """The run's log folder; trained where it is not there yet."""
    folder = stored / f"{scenario.name}-{seed}"
    if folder.exists():
        return folder
    part = stored / f".{folder.name}"
    shutil.rmtree(part, ignore_errors=True)
    made = running._trainer

    def with_log(scenario: Scenario, monitor: DivergenceMonitor, steps: int) -> object:
        trainer = made(scenario, monitor, steps)
        trainer.loggers = [TensorBoardLogger(part, name="", version="")]
        trainer.callbacks.append(OptimizerMonitor(every_n_steps=EVERY))  # type: ignore[attr-defined]
        return trainer

    running._trainer = with_log  # type: ignore[assignment]
    try:
        running.train(scenario, seed)
    finally:
        running._trainer = made
    part.rename(folder)
    return folder


@dataclass(frozen=True)
class Shares:
    """Of the cells of one run's heatmap.

    Attributes:
        outside: of a limit, or not finite: what the limits alone tell.
        full: in full colour: outside of a limit at a step where a finding above ``info`` lasts, not finite, or what such
            a finding concerns.
        coloured: at all, faintly too.
        shade: not a share, but how strongly a cell is coloured on the average, from 0 to 1; the faint ones, too.
    """

    outside: float
    full: float
    coloured: float
    shade: float


def shares(folder: Path) -> Shares:
    """Of the optimizer that has the most: the page draws one at a time."""
    log = read_run(folder.name, folder, sorted(folder.glob("events*")))
    prefixes = {tag.partition("_matrix/")[0] for tag in log.tables}
    found = [_shares(log, prefix) for prefix in sorted(prefixes)]
    return max(found, key=lambda s: s.shade, default=Shares(0.0, 0.0, 0.0, 0.0))


def _shares(log: RunLog, prefix: str) -> Shares:
    tables = {tag.partition("_matrix/")[2]: t for tag, t in log.tables.items() if tag.startswith(prefix + "_matrix/")}
    rate = log.scalars[f"{prefix}/log10_lr"]
    judge = Judge(bands(_configured(log, prefix)), tables[GRADIENT].rows, (rate.steps, 10.0**rate.values))
    judged = judge.judge(OVERVIEW, {q: Matrix(t.steps, t.values.astype(np.float32)) for q, t in tables.items()})
    assert judged.excess is not None
    marks, broken = marked(_marks(log, prefix), judged.steps, judge.names).T, np.isnan(judged.excess.T)
    strength = np.where(broken, 1.0, np.abs(strengths(np.nan_to_num(judged.excess.T), marks)))
    drawn = np.maximum(strength, EDGE * (marks & ~np.isnan(judged.values.T)))  # without a value there is nothing to colour
    return Shares(*(float(cells.mean()) for cells in (judged.excess != 0, drawn >= EDGE, drawn > 0, drawn)))


def _marks(log: RunLog, prefix: str) -> list[Mark]:
    """The findings above ``info`` as the page knows them."""
    tables = log.texts.get(f"{prefix}/findings/text_summary", [])
    until = spans(tables[-1][1].decode()) if tables else {}
    marks = []
    for _, text in log.texts.get(f"{prefix}_events", []):
        for found in parsed(text):
            span = until.get((found["rule"], found["step"]))
            if found["severity"] != "info":
                marks.append(Mark(found["step"], span.last_step if span else found["last_step"], found["parameters"]))
    return marks


def _configured(log: RunLog, prefix: str) -> RunSignals:
    tables = log.texts.get(prefix + CONFIG, [])
    return configured(tables[-1][1].decode() if tables else "")


def separation(healthy: Sequence[float], sick: Sequence[float]) -> float:
    """The area under the ROC curve: how often a sick run has more than a healthy one; ties count half."""
    pairs = np.subtract.outer(np.array(sick), np.array(healthy))
    return float(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def report(names: Sequence[str], seed: int, title: str) -> None:
    """The figures of one set of runs, and whom the colours do not tell apart."""
    found = {name: shares(record(ALL[name], seed)) for name in names}
    sick, healthy = ([found[n] for n in names if bool(ALL[n].cause) == is_sick] for is_sick in (True, False))
    print(f"{title}: {len(healthy)} healthy runs, {len(sick)} sick")
    for what in ("outside", "full", "coloured", "shade"):
        ours, theirs = ([getattr(s, what) for s in of] for of in (healthy, sick))
        print(
            f"  {what}: AUC {separation(ours, theirs):.3f}; healthy at most {max(ours):.3f}, "
            f"sick median {np.median(theirs):.3f}"
        )
    worst = max(s.shade for s in healthy)
    pale = (f"{n} ({ALL[n].cause}) {found[n].shade:.3f}" for n in names if ALL[n].cause and found[n].shade <= worst)
    print("  sick, and no more shade than some healthy run:", ", ".join(pale) or "none")
    most = (f"{n} {found[n].coloured:.3f}" for n in names if not ALL[n].cause and found[n].coloured > 0.005)
    print("  healthy, most coloured:", ", ".join(most) or "none")


def marked_steps(run: Run) -> float:
    """Of the steps of its optimizer that has the most, the share that the page colours for a finding or blackens."""
    return max((_marked(*pair) for pair in zip(diagnoses(run), run.records, strict=True)), default=0.0)


def _marked(diagnosis: Diagnosis, records: Sequence[RunSignals | StepSignals]) -> float:
    passed = [record for record in records if isinstance(record, StepSignals)]
    steps, broken = np.array([s.step for s in passed]), np.array([s.non_finite is not None for s in passed], dtype=bool)
    marked = np.logical_or.accumulate(broken)
    for found in diagnosis.findings:
        if found.severity != "info":
            marked |= (steps >= found.step) & (steps <= found.last_step)
    return float(marked.mean()) if len(marked) else 0.0


def report_corpus() -> None:
    """Its records have no numbers of single tensors: steps are counted, and colours without a finding are not."""
    for title, held_out in (("families that thresholds were looked at on", False), ("families left out", True)):
        found: dict[bool, list[float]] = {False: [], True: []}
        for family in (f for f in FAMILIES.values() if f.is_held_out == held_out):
            outcomes = [outcome_of(job) for job in jobs_of(family) if job.path.exists()]
            for verdict in verdicts_of(outcomes):
                if verdict.is_healthy or verdict.is_sick:
                    found[verdict.is_sick].append(marked_steps(Run.load(verdict.outcome.job.path)))
        healthy, sick = found[False], found[True]
        print(f"{title}: {len(healthy)} healthy runs, {len(sick)} sick: AUC {separation(healthy, sick):.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.tab_colours", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpus", action="store_true", help="the runs of `make corpus`, as far as they are stored")
    options = parser.parse_args()
    if options.corpus:
        report_corpus()
    else:
        report([s.name for s in (*HEALTHY, *SICK)], options.seed, "as the rules were tuned on")
        report([s.name for s in HELD_OUT], options.seed, "held out")
