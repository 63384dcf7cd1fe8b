"""How good a suggested learning rate is: ``python -m tests.benchmarks.suggest_lr [--only reported | --quick | --stored]``.

Each task is trained by AdamW and by a second optimizer for 240 steps, constant, without clipping, at every rate of a grid of
half decades and at every method's suggestion; the loss is the mean of the last twenty. What a suggestion is worth is its
loss over the best of all of these runs, as a geometric mean. Losses under 1 % of the first one count as that, for nobody
minds which of two learnt runs is the more learnt, and those above three times the first as three times. Tasks whose loss is
not above 0 are left out.

Shares and weights of :mod:`lightning_adam.learning_rate` were chosen on one half of the preflight's models (``CHOSEN_ON``,
by hash), starts earlier on the corpus's families; the other half is the result. Times are the process's own: other work on
the machine counts less, but its claim on the caches does. Records are kept, task by task, in ``runs/suggest_lr.jsonl``, and
every run in ``runs/rate_runs.jsonl``; what was cut off goes on from there. ``--quick`` judges la.suggest_lr alone, on every
sixth model, under one optimizer each. ``--stored`` trains nothing: it asks la.suggest_lr for every pair of which runs are
stored, and interpolates between them.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

import lightning_adam as la
from lightning_adam.optimizers import get_optimizer
from tests.benchmarks.rate_runs import Runs, bounded, made, stepped
from tests.benchmarks.rate_tasks import CHOSEN_ON, REPORTED, STEPS, TASKS, Course

GRID = tuple(10 ** (k / 2) for k in range(-8, 0))
SHIFT = {"lion": 0.1, "sgd": 10.0}
"""Lion's rates are a tenth of Adam's, SGD's ten times as large."""
SECOND = ("lion", "sgd", "muon", "adam", "lion", "sgd", "muon", "radam")
ONE_EACH = ("adamw", "lion", "adamw", "sgd", "adamw", "muon", "adamw", "radam")
STORED, STORED_QUICK = Path("runs/suggest_lr.jsonl"), Path("runs/suggest_lr_quick.jsonl")


@dataclass(frozen=True)
class Trial:
    """One task under one optimizer.

    Attributes:
        task, optimizer: of the trial.
        first: the loss of the first batch.
        grid: rate to the loss at the end; infinite where it was not finite.
        suggested: method to its rate; NaN where it gave none.
        reached: method to the loss at the end, at its rate.
        seconds: method to the time that it took.
        step: seconds of a bare training step.
        trainers_step: seconds of a step under a Trainer that logs nothing.
        error: why it is left out; empty where it is not.
    """

    task: str
    optimizer: str
    first: float = math.nan
    grid: Mapping[str, float] | None = None
    suggested: Mapping[str, float] | None = None
    reached: Mapping[str, float] | None = None
    seconds: Mapping[str, float] | None = None
    step: float = math.nan
    trainers_step: float = math.nan
    error: str = ""

    @property
    def reported(self) -> bool:
        """Whether it is a model of the preflight's."""
        return self.task in REPORTED

    def over_best(self, method: str) -> float:
        """The loss at its rate over the best of all runs."""
        assert self.grid is not None
        assert self.reached is not None
        best = min(bounded(loss, self.first) for loss in [*self.grid.values(), *self.reached.values()])
        return bounded(self.reached[method], self.first) / best


def ours(course: Course, optimizer: str) -> float:
    """``la.suggest_lr``."""
    return float(la.suggest_lr(course.module, course.batches[:12], optimizer))


def by_weights(course: Course, optimizer: str) -> float:
    """0.1 times the median rms of the matrices."""
    sizes = [float(p.detach().square().mean().sqrt()) for p in course.module.parameters() if p.requires_grad and p.dim() > 1]
    return 0.1 * median(size for size in sizes if size > 0)


def catalogue(course: Course, optimizer: str) -> float:
    """What the library suggests for everything."""
    return get_optimizer(optimizer).lr


def quiet_trainer(steps: int) -> L.Trainer:
    """Without anything that takes time besides training."""
    quiet: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False
    )
    return L.Trainer(max_steps=steps, accelerator="cpu", **quiet)


def in_trainer(course: Course, optimizer: str, count: int) -> tuple[Any, DataLoader[Any]]:
    """The module with this optimizer at the rate that Lightning's finder sets, and its loader."""
    module: Any = course.module
    module.__dict__.update(lr=1e-3, configure_optimizers=lambda: made(module, optimizer, module.lr))
    return module, DataLoader(course.batches[:count], batch_size=None)


def lightnings_finder(course: Course, optimizer: str) -> float:
    """``Tuner.lr_find`` with its defaults."""
    from lightning.pytorch.tuner import Tuner

    module, loader = in_trainer(course, optimizer, STEPS)
    found = Tuner(quiet_trainer(STEPS)).lr_find(module, train_dataloaders=loader, update_attr=False)
    suggestion = found.suggestion() if found is not None else None
    return math.nan if suggestion is None else float(suggestion)


def range_test(course: Course, optimizer: str) -> tuple[list[float], list[float]]:
    """As torch-lr-finder's documentation has it: 100 steps from 1e-7 to 10, smoothed by 0.05, until five times the best."""
    rates, smooth = [1e-7 * 1e8 ** (k / 99) for k in range(100)], list[float]()
    stepper = made(course.module, optimizer, rates[0])
    ahead = iter(rates)

    def step() -> None:
        rate = next(ahead)
        for group in stepper.param_groups:
            group["lr"] = rate
        stepper.adam_kind.step(stepper)  # the rate as it was set, past our schedule

    for loss in stepped(course, stepper, course.batches[:100], step):
        smooth.append(loss if not smooth else 0.05 * loss + 0.95 * smooth[-1])
        if not smooth[-1] < 5 * min(smooth):
            break
    return rates, smooth


def steepest(course: Course, optimizer: str) -> float:
    """Where the smoothed loss of a range test falls most steeply."""
    rates, smooth = range_test(course, optimizer)
    slopes = [after - before for before, after in pairwise(smooth)]
    return rates[slopes.index(min(slopes))] if slopes else math.nan


def tenth(course: Course, optimizer: str) -> float:
    """A tenth of where the smoothed loss of a range test is least."""
    rates, smooth = range_test(course, optimizer)
    return rates[smooth.index(min(smooth))] / 10


OURS = "la.suggest_lr"
METHODS: dict[str, Callable[[Course, str], float]] = {
    OURS: ours,
    "0.1 x rms of the weights": by_weights,
    "the catalogue's rate": catalogue,
    "range test, steepest descent": steepest,
    "range test, minimum / 10": tenth,
    "Lightning's lr_find": lightnings_finder,
}


def trainers_step(task: str, optimizer: str) -> float:
    """Seconds of a step under a bare Trainer: what sixty steps more take."""
    took = []
    for steps in (20, 80):
        module, loader = in_trainer(TASKS[task](), optimizer, 80)
        began = time.process_time()
        quiet_trainer(steps).fit(module, loader)
        took.append(time.process_time() - began)
    return (took[1] - took[0]) / 60


def quiet() -> None:
    """One thread, no warnings, no log."""
    torch.set_num_threads(1)
    for name in ("lightning", "lightning.pytorch", "lightning.pytorch.tuner.lr_finder", "lightning_adam"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")


def tried(task: str, optimizer: str, methods: Sequence[str] = tuple(METHODS)) -> Trial:
    """One task under one optimizer, by these methods."""
    quiet()
    try:
        return _tried(task, optimizer, methods)
    except Exception as error:  # a task that cannot be trained so
        return Trial(task, optimizer, error=f"{type(error).__name__}: {error}"[:200])


def _tried(task: str, optimizer: str, methods: Sequence[str]) -> Trial:
    runs = Runs()
    grid = [runs.at(task, optimizer, lr * SHIFT.get(optimizer, 1.0)) for lr in GRID]
    suggested, seconds, reached = dict[str, float](), dict[str, float](), dict[str, float]()
    for name in methods:
        course = TASKS[task]()
        began = time.process_time()
        suggested[name] = METHODS[name](course, optimizer)
        seconds[name] = time.process_time() - began
        at = suggested[name]
        reached[name] = runs.at(task, optimizer, at).end if at > 0 else math.inf
    first, ends = grid[0].losses[0], {f"{run.lr:g}": run.end for run in grid}
    if first <= 0 or min([*ends.values(), *reached.values()]) <= 0:
        return Trial(task, optimizer, error="its loss is not above 0")
    step = min(run.step for run in grid)
    return Trial(task, optimizer, first, ends, suggested, reached, seconds, step, trainers_step(task, optimizer))


def judged_by(runs: Runs) -> list[Trial]:
    """la.suggest_lr on all pairs with three stored runs or more whose losses are above 0."""
    pairs = dict.fromkeys((task, optimizer) for task, optimizer, _ in runs.known)
    known = {pair: {f"{run.lr:g}": run.end for run in runs.of(*pair)} for pair in pairs}
    return [_judged(runs, *pair, grid) for pair, grid in known.items() if len(grid) > 2 and min(grid.values()) > 0]


def _judged(runs: Runs, task: str, optimizer: str, grid: Mapping[str, float]) -> Trial:
    lr, first = ours(TASKS[task](), optimizer), runs.of(task, optimizer)[0].losses[0]
    return Trial(task, optimizer, first, grid, {OURS: lr}, {OURS: runs.between(task, optimizer, lr)})


def interval(values: Sequence[float]) -> str:
    """Geometric mean, with its 95 % interval from the logarithms' standard error."""
    logs = [math.log(value) for value in values]
    mean = sum(logs) / len(logs)
    error = math.sqrt(sum((x - mean) ** 2 for x in logs) / max(1, len(logs) - 1) / len(logs))
    return f"{math.exp(mean):.2f} ({math.exp(mean - 1.96 * error):.2f}-{math.exp(mean + 1.96 * error):.2f})"


def columns(trials: Sequence[Trial]) -> dict[str, list[Trial]]:
    """Of the table, those that are not empty."""
    corpus = [t for t in trials if not t.reported]
    rest = [t for t in trials if t.reported]
    parts = {
        "all": rest,
        "half that was chosen on": [t for t in rest if t.task in CHOSEN_ON],
        "other half": [t for t in rest if t.task not in CHOSEN_ON],
        **{name: [t for t in rest if t.optimizer == name] for name in ("adamw", *dict.fromkeys(SECOND))},
        "corpus: AdamW": [t for t in corpus if t.optimizer == "adamw"],
        "corpus: others": [t for t in corpus if t.optimizer != "adamw"],
    }
    return {name: of for name, of in parts.items() if of}


def report(trials: Sequence[Trial]) -> None:
    """A line per method."""
    parts = columns(trials)
    names = [f"{name} ({len(of)})" for name, of in parts.items()]
    print(f"| method | {' | '.join(names)} | cost in steps | in steps of a Trainer |")
    print("|---|" + "---:|" * (len(parts) + 2))
    for name in trials[0].suggested or ():
        cells = [interval([t.over_best(name) for t in of]) for of in parts.values()]
        costs = [median([t.seconds[name] / step(t) for t in trials if t.seconds] or [math.nan]) for step in STEP_TIMES]
        print(f"| {name} | {' | '.join(cells)} | {costs[0]:.0f} | {costs[1]:.0f} |")


STEP_TIMES: tuple[Callable[[Trial], float], ...] = (lambda t: t.step, lambda t: t.trainers_step)


def cost(task: str) -> tuple[bool, int]:
    """By which the short ones come first: a run that is cut off has then judged the most, of those that are reported."""
    return task not in REPORTED, sum(p.numel() for p in TASKS[task]().module.parameters())


def quick_jobs() -> list[tuple[str, str]]:
    """Every sixth reported task, in the order of their register, under one optimizer each."""
    return [(name, ONE_EACH[i % len(ONE_EACH)]) for i, name in enumerate([*REPORTED][::6])]


def all_jobs(tasks: Iterable[str]) -> list[tuple[str, str]]:
    """Each task under AdamW and under a second optimizer, the short ones first."""
    names = sorted(tasks, key=cost)
    return [job for i, name in enumerate(names) for job in ((name, "adamw"), (name, SECOND[i % len(SECOND)]))]


def run(jobs: Sequence[tuple[str, str]], methods: Sequence[str], stored: Path, processes: int) -> list[Trial]:
    """What is stored, and what is not stored yet."""
    stored.parent.mkdir(exist_ok=True)
    stored.touch()
    trials = [Trial(**json.loads(line)) for line in stored.read_text().splitlines()]
    done = {(t.task, t.optimizer) for t in trials}
    missing = [job for job in jobs if job not in done]
    with ProcessPoolExecutor(processes) as pool, stored.open("a") as file:
        for count, ready in enumerate(as_completed([pool.submit(tried, *job, methods) for job in missing]), 1):
            trials.append(ready.result())
            file.write(json.dumps(asdict(trials[-1])) + "\n")
            file.flush()
            print(f"… {count} of {len(missing)}", flush=True)
    return trials


def main() -> None:
    """Train what is not stored yet, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=1)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only", choices=("reported",), help="the preflight's models, not the corpus")
    which.add_argument("--quick", action="store_true", help="a sixth of these, one optimizer each, and no other method")
    which.add_argument("--stored", action="store_true", help="la.suggest_lr between the runs that are stored")
    asked = parser.parse_args()
    quiet()
    if asked.stored:
        report(judged_by(Runs()))
    else:
        train_and_report(asked)


def train_and_report(asked: argparse.Namespace) -> None:
    """What is left out is said, and why."""
    jobs = quick_jobs() if asked.quick else all_jobs(REPORTED if asked.only else TASKS)
    methods, stored = ([OURS], STORED_QUICK) if asked.quick else ([*METHODS], STORED)
    trials = run(jobs, methods, stored, asked.processes)
    kept = [t for t in trials if not t.error and (t.task, t.optimizer) in {*jobs}]
    if kept:
        report(kept)
    for t in trials:
        if t.error:
            print(f"left out: {t.task} under {t.optimizer}: {t.error}")


if __name__ == "__main__":
    main()
