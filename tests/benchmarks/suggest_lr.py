"""How good a suggested learning rate is: ``python -m tests.benchmarks.suggest_lr [--processes 2]``, a quarter of an hour.

The families of the diagnosis's corpus, each trained by AdamW and by a second optimizer for 240 steps at every rate of a grid
of half decades, constant, without clipping; the loss is the mean of the last twenty. What a suggestion is worth is the loss
at the nearest rates of the grid (interpolated between them) over the best of the grid, as a geometric mean; losses under 1 %
of the first one count as that, for nobody minds which of two learnt runs is the more learnt. Families whose loss is not
above 0 are left out. Starts and shares of :mod:`lightning_adam.learning_rate` were chosen on the families that are not held
out for AdamW, and on all for the others, of which there are too few to split.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader

import lightning_adam as la
from lightning_adam.learning_rate import weights_rms
from lightning_adam.optimizers import get_optimizer
from tests.benchmarks.divergence.corpus import generative, representation, supervised  # noqa: F401
from tests.benchmarks.divergence.corpus.family import FAMILIES, Task

STEPS, LAST, FLOOR = 240, 20, 0.01
GRID = tuple(10 ** (k / 2) for k in range(-8, 0))
SHIFT = {"lion": 0.1, "sgd": 10.0}
"""Lion's rates are a tenth of Adam's, SGD's ten times as large."""
SECOND = ("lion", "sgd", "muon", "adam", "lion", "sgd", "muon", "radam")
STORED = Path("runs/suggest_lr.json")


@dataclass(frozen=True)
class Trial:
    """One family under one optimizer.

    Attributes:
        family, optimizer: of the trial.
        held_out: whether the family was not looked at.
        first: the loss of the first batch.
        grid: rate to the loss at the end; infinite where it was not finite.
        suggested: method to its rate; NaN where it gave none.
        seconds: method to the time that it took, in training steps.
    """

    family: str
    optimizer: str
    held_out: bool
    first: float
    grid: Mapping[float, float]
    suggested: Mapping[str, float]
    seconds: Mapping[str, float]

    def over_best(self, rate: float) -> float:
        """The loss at this rate over the best of the grid."""
        floor = FLOOR * self.first
        losses = {lr: min(max(loss, floor), 3 * self.first) for lr, loss in self.grid.items()}
        at = min(max(rate, min(losses)), max(losses))
        below, above = max(lr for lr in losses if lr <= at * 1.0001), min(lr for lr in losses if lr >= at * 0.9999)
        share = 0.0 if above == below else math.log(at / below) / math.log(above / below)
        mixed = (1 - share) * math.log(losses[below]) + share * math.log(losses[above])
        return math.exp(mixed) / min(losses.values())


class Module(L.LightningModule):
    """A family as a user would have it."""

    def __init__(self, task: Task, optimizer: str) -> None:
        super().__init__()
        self.net, self.task, self.optimizer, self.lr = task.net, task, optimizer, 1e-3

    def training_step(self, batch: Any, index: int) -> Tensor:
        """The family's loss."""
        return self.task.loss(self.net, batch)

    def configure_optimizers(self) -> Any:
        """At the rate that Lightning's finder sets."""
        return made(self.net, self.optimizer, self.lr)


def fresh(family: str) -> Task:
    """The same weights each time."""
    torch.manual_seed(0)
    return FAMILIES[family].make()


def made(net: nn.Module, optimizer: str, lr: float) -> Any:
    """At a constant rate, without clipping."""
    options: dict[str, Any] = {"schedule": "constant", "warmup": 0, "clip": None, "total_steps": 1000}
    return la.configure_optimizers(net, optimizer, lr=lr, **options)["optimizer"]


def batches(task: Task, count: int) -> list[Any]:
    """The same ones each time."""
    generator = Generator().manual_seed(1)
    return [task.draw(generator) for _ in range(count)]


def trained(family: str, optimizer: str, lr: float) -> list[float]:
    """The losses; they end where one is not finite."""
    task, losses = fresh(family), list[float]()
    stepper = made(task.net, optimizer, lr)
    for batch in batches(task, STEPS):
        stepper.zero_grad()
        loss = task.loss(task.net, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        stepper.step()
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            break
    return losses


def end(losses: Sequence[float]) -> float:
    """The mean of the last twenty."""
    return sum(losses[-LAST:]) / LAST if len(losses) == STEPS and math.isfinite(losses[-1]) else math.inf


def ours(family: str, optimizer: str) -> float:
    """``la.suggest_lr``."""
    task = fresh(family)
    return float(la.suggest_lr(Module(task, optimizer), batches(task, 12), optimizer))


def by_weights(family: str, optimizer: str) -> float:
    """0.1 times the median rms of the matrices."""
    return 0.1 * weights_rms(fresh(family).net, 0.1)


def catalogue(family: str, optimizer: str) -> float:
    """What the library suggests for everything."""
    return get_optimizer(optimizer).lr


def lightnings_finder(family: str, optimizer: str) -> float:
    """``Tuner.lr_find`` with its defaults."""
    from lightning.pytorch.tuner import Tuner

    task = fresh(family)
    trainer = L.Trainer(max_steps=STEPS, logger=False, enable_progress_bar=False, enable_model_summary=False,
                        accelerator="cpu", enable_checkpointing=False)  # fmt: skip
    module = Module(task, optimizer)
    found = Tuner(trainer).lr_find(
        module, train_dataloaders=DataLoader(batches(task, STEPS), batch_size=None), update_attr=False
    )
    suggestion = found.suggestion() if found is not None else None
    return math.nan if suggestion is None else float(suggestion)


def steepest(family: str, optimizer: str) -> float:
    """As torch-lr-finder suggests: 100 steps from 1e-7 to 10, the rate where the smoothed loss falls most steeply."""
    task, rates = fresh(family), [1e-7 * 1e8 ** (k / 99) for k in range(100)]
    stepper, smooth, best = made(task.net, optimizer, rates[0]), list[float](), math.inf
    for rate, batch in zip(rates, batches(task, 100), strict=True):
        for group in stepper.param_groups:
            group["lr"] = rate
        stepper.zero_grad()
        loss = task.loss(task.net, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        stepper.adam_kind.step(stepper)  # the rate as it was set, past our schedule
        smooth.append(float(loss.detach()) if not smooth else 0.05 * float(loss.detach()) + 0.95 * smooth[-1])
        best = min(best, smooth[-1])
        if not smooth[-1] < 5 * best:
            break
    slopes = [smooth[i + 1] - smooth[i] for i in range(len(smooth) - 1)]
    return rates[slopes.index(min(slopes))] if slopes else math.nan


METHODS: dict[str, Callable[[str, str], float]] = {
    "la.suggest_lr": ours,
    "0.1 x rms of the weights": by_weights,
    "the catalogue's rate": catalogue,
    "steepest descent (torch-lr-finder's rule)": steepest,
    "Lightning's lr_find": lightnings_finder,
}


def tried(job: tuple[str, str]) -> Trial | None:
    """One family under one optimizer; None where it cannot be trained so, or its loss has no floor at zero."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    family, optimizer = job
    try:
        runs, took = dict[float, list[float]](), math.inf
        for lr in (lr * SHIFT.get(optimizer, 1.0) for lr in GRID):
            began = time.perf_counter()
            runs[lr] = trained(family, optimizer, lr)
            took = min(took, (time.perf_counter() - began) / len(runs[lr]))
        grid = {lr: end(losses) for lr, losses in runs.items()}
        first = next(iter(runs.values()))[0]
        suggested, seconds = dict[str, float](), dict[str, float]()
        for name, method in METHODS.items():
            began = time.perf_counter()
            suggested[name] = method(family, optimizer)
            seconds[name] = (time.perf_counter() - began) / took
    except (RuntimeError, la.ConfigError) as error:
        print(f"{family} under {optimizer} is left out: {error}")
        return None
    if first <= 0 or min(grid.values()) <= 0:
        return None
    return Trial(family, optimizer, FAMILIES[family].is_held_out, first, grid, suggested, seconds)


def interval(values: Sequence[float]) -> str:
    """Geometric mean, with its 95 % interval from the logarithms' standard error."""
    logs = [math.log(value) for value in values]
    mean = sum(logs) / len(logs)
    error = math.sqrt(sum((x - mean) ** 2 for x in logs) / max(1, len(logs) - 1) / len(logs))
    return f"{math.exp(mean):.2f} ({math.exp(mean - 1.96 * error):.2f}-{math.exp(mean + 1.96 * error):.2f})"


def report(trials: Sequence[Trial]) -> None:
    """A line per method."""
    parts = {
        "AdamW, families chosen on": [t for t in trials if t.optimizer == "adamw" and not t.held_out],
        "AdamW, held out": [t for t in trials if t.optimizer == "adamw" and t.held_out],
        "Lion, SGD, Muon, Adam, RAdam": [t for t in trials if t.optimizer != "adamw"],
        "all": list(trials),
    }
    print("| method | " + " | ".join(f"{name} ({len(of)})" for name, of in parts.items()) + " | cost in steps |")
    print("|---|" + "---:|" * (len(parts) + 1))
    for name in METHODS:
        cells = [interval([t.over_best(t.suggested[name]) for t in of if t.suggested[name] > 0]) for of in parts.values()]
        costs = sorted(t.seconds[name] for t in trials)
        print(f"| {name} | " + " | ".join(cells) + f" | {costs[len(costs) // 2]:.0f} |")


def main() -> None:
    """Train what is not stored yet, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=1)
    jobs = [(family, "adamw") for family in FAMILIES]
    jobs += [(family, SECOND[i % len(SECOND)]) for i, family in enumerate(FAMILIES)]
    if STORED.exists():
        rows = json.loads(STORED.read_text())
    else:
        rows = []
        with ProcessPoolExecutor(parser.parse_args().processes) as pool:
            for count, trial in enumerate(pool.map(tried, jobs), 1):
                rows += [] if trial is None else [asdict(trial)]
                print(f"… {count} of {len(jobs)}", end="\r", flush=True)
        STORED.parent.mkdir(exist_ok=True)
        STORED.write_text(json.dumps(rows))
    report([Trial(**{**row, "grid": {float(lr): loss for lr, loss in row["grid"].items()}}) for row in rows])


if __name__ == "__main__":
    main()
