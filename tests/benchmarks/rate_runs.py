"""Training at one rate, kept in a file: a rule is judged again in seconds, for the rates of the grid were run before."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import lightning_adam as la
from tests.benchmarks.rate_tasks import STEPS, TASKS, Course

STORED_RUNS = Path("runs/rate_runs.jsonl")
"""To be deleted when a task or an optimizer changes."""
LAST, FLOOR, CEILING = 20, 0.01, 3.0


@dataclass(frozen=True)
class Run:
    """A task trained by an optimizer at a constant rate.

    Attributes:
        task, optimizer: of the run.
        lr: the rate, to three digits.
        losses: of its steps; they end where one is not finite.
        step: seconds of a bare training step.
    """

    task: str
    optimizer: str
    lr: float
    losses: Sequence[float]
    step: float

    @property
    def end(self) -> float:
        """The mean of the last twenty losses; infinite where the run did not last."""
        whole = len(self.losses) == STEPS and math.isfinite(self.losses[-1])
        return sum(self.losses[-LAST:]) / LAST if whole else math.inf


def bounded(loss: float, first: float) -> float:
    """Not under 1 % of the first loss, nor above three times it."""
    return min(max(loss, FLOOR * first), CEILING * first) if math.isfinite(loss) else CEILING * first


class Runs:
    """What was trained before, and what is trained when it is asked for."""

    def __init__(self, stored: Path = STORED_RUNS) -> None:
        self.stored = stored
        lines = stored.read_text().splitlines() if stored.exists() else []
        self.known = {(run.task, run.optimizer, run.lr): run for run in (Run(**json.loads(line)) for line in lines)}

    def at(self, task: str, optimizer: str, lr: float) -> Run:
        """The run at this rate."""
        key = task, optimizer, float(f"{lr:.3g}")
        if key not in self.known:
            self.known[key] = Run(*key, *trained(*key))
            self._keep(self.known[key])
        return self.known[key]

    def of(self, task: str, optimizer: str) -> list[Run]:
        """All that are known of this pair, by their rates."""
        ours = (run for run in self.known.values() if (run.task, run.optimizer) == (task, optimizer))
        return sorted(ours, key=lambda run: run.lr)

    def between(self, task: str, optimizer: str, lr: float) -> float:
        """The loss at the end as the two runs around this rate have it, by logarithms; beyond the last, the last one's."""
        ours = self.of(task, optimizer)
        ends = [math.log(bounded(run.end, ours[0].losses[0])) for run in ours]
        return math.exp(float(np.interp(math.log(lr), [math.log(run.lr) for run in ours], ends)))

    def _keep(self, run: Run) -> None:
        self.stored.parent.mkdir(exist_ok=True)
        with self.stored.open("a") as file:  # one write: several processes append
            file.write(json.dumps(asdict(run)) + "\n")


def made(module: nn.Module, optimizer: str, lr: float) -> Any:
    """At a constant rate, without clipping."""
    options: dict[str, Any] = {"schedule": "constant", "warmup": 0, "clip": None, "total_steps": 1000}
    return la.configure_optimizers(module, optimizer, lr=lr, **options)["optimizer"]


@contextmanager
def plain(module: Any) -> Iterator[None]:
    """Nothing is logged, for there is no trainer."""
    module.__dict__.update(log=lambda *_, **__: None, log_dict=lambda *_, **__: None)
    yield
    del module.__dict__["log"], module.__dict__["log_dict"]


def stepped(course: Course, stepper: Any, batches: Sequence[Any], step: Callable[[], None]) -> Iterator[float]:
    """The losses, one by one; they end where one is not finite."""
    module: Any = course.module
    with plain(module):
        for index, batch in enumerate(batches):
            stepper.zero_grad()
            loss = module.training_step(batch, index)
            loss = loss["loss"] if isinstance(loss, Mapping) else loss
            loss.backward()
            step()
            module.on_train_batch_end(None, batch, index)
            yield float(loss.detach())
            if not math.isfinite(float(loss.detach())):
                return


def trained(task: str, optimizer: str, lr: float) -> tuple[list[float], float]:
    """The losses to five digits, and the seconds of a step."""
    course = TASKS[task]()
    stepper = made(course.module, optimizer, lr)
    torch.manual_seed(2)
    began = time.process_time()
    losses = [float(f"{loss:.5g}") for loss in stepped(course, stepper, course.batches, stepper.step)]
    return losses, (time.process_time() - began) / len(losses)
