"""What a step costs that is not logged: microseconds of the monitors, and the helper's step against one by hand.

Run ``python -m tests.benchmarks.light_step`` (it is a part of ``tests.benchmarks.monitor_overhead``, too). Models of 10, 62
and 300 tensors and a batch of a few rows, where what Python does per step is what counts. All ways train side by side, one
step of each in turn, and what is told of a way is the median of its differences (or ratios) to the same turn's step without.
Times are of this thread's CPU, which computes all of it: what other programs do on a busy machine is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

import lightning_adam as la
from lightning_adam.integrations.loop_run import LoopRun
from lightning_adam.monitoring import DivergenceOptions, Monitor, StatisticsOptions
from tests.benchmarks.measuring import Table, progress
from tests.benchmarks.overhead_in_training import Stopwatch, quiet_trainer

SIZES = (10, 62, 300)
WIDTH, ROWS, WARM, CLIP = 32, 16, 60, 1.0
NEVER = 10**6
"""Steps between two passes, where they are not to be measured."""
CYCLE = 100
"""Steps after which passes (every 20th) and logged steps (every 50th) fall together again."""
Step = Callable[[], None]


class Deep(L.LightningModule):
    """A residual network of so many tensors: half of them weights, half of them biases.

    Args:
        tensors: how many.
        is_guided: whether the helper makes the optimizer.
    """

    def __init__(self, tensors: int, is_guided: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(tensors // 2))
        self.is_guided = is_guided

    def forward(self, rows: Tensor) -> Tensor:
        for layer in self.layers:
            rows = rows + 0.1 * torch.relu(layer(rows))
        return rows

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """A regression."""
        return nn.functional.mse_loss(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Both are fused AdamW without decay of the biases."""
        if not self.is_guided:
            decayed, rest = ([p for p in self.parameters() if (p.dim() > 1) is matrix] for matrix in (True, False))
            groups = [{"params": decayed, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
            return torch.optim.AdamW(groups, lr=1e-4, fused=True)
        planned = {"schedule": "cosine", "warmup": 10, "total_steps": NEVER}
        made: Any = la.configure_optimizers(self, "adamw", lr=1e-4, clip=CLIP, fused=True, **planned)
        return made["optimizer"]


@dataclass(frozen=True)
class Way:
    """One way to train.

    Attributes:
        step: forward, backward, clipping, step.
        update: clipping and step alone, with the gradients that are there.
    """

    step: Step
    update: Step


def data() -> list[Tensor]:
    """A batch that cannot be learnt at once."""
    torch.manual_seed(1)
    return [torch.randn(ROWS, WIDTH), torch.randn(ROWS, WIDTH)]


def way(tensors: int, is_guided: bool, watching: str = "") -> Way:
    """Train by hand, or with the helper, and ``alone`` (DivergenceMonitor without a pass) or ``both`` beside it."""
    model, batch = Deep(tensors, is_guided), data()
    optimizer, parameters = model.configure_optimizers(), list(model.parameters())
    monitor = watched(model, optimizer, watching) if watching else None

    def update() -> None:
        if not is_guided:
            if monitor is not None:
                monitor.before_clipping(optimizer)
            nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()

    def step() -> None:
        optimizer.zero_grad()
        loss = model.training_step(batch, 0)
        if monitor is not None:
            monitor.begin_batch(batch, 0)
            monitor.loss(loss)
        loss.backward()
        update()

    return Way(step, update)


def watched(model: nn.Module, optimizer: torch.optim.Optimizer, watching: str) -> Monitor:
    """``alone`` without passes after the first ten, ``both`` as they are by default."""
    run = LoopRun(model, [optimizer], None, NEVER, None, 50, 1, None if hasattr(optimizer, "adam_rule") else CLIP)
    alone = DivergenceOptions(every_n_steps=NEVER)
    monitor = Monitor(run, None, alone) if watching == "alone" else Monitor(run, StatisticsOptions(), DivergenceOptions())
    monitor.begin()
    if hasattr(optimizer, "register_before_clip_hook"):
        optimizer.register_before_clip_hook(monitor.before_clipping)

    def count(*_: object) -> None:
        run.steps[0] += 1

    optimizer.register_step_post_hook(count)
    return monitor


def times(calls: Sequence[Step], repeats: int) -> list[list[float]]:
    """Seconds of each call, in turn; nothing else between them."""
    found: list[list[float]] = [[] for _ in calls]
    clock = time.thread_time
    for _ in range(repeats):
        for call, kept in zip(calls, found, strict=True):
            start = clock()
            call()
            kept.append(clock() - start)
    return found


def typical(kept: Sequence[float]) -> float:
    """The median."""
    return statistics.median(kept)


def added(those: Sequence[float], without: Sequence[float]) -> float:
    """The median of the differences of a turn."""
    return statistics.median(a - b for a, b in zip(those, without, strict=True))


def mean_added(those: Sequence[float], without: Sequence[float]) -> float:
    """Mean of the differences over a cycle, in which some steps are read and logged: of each of its steps the median."""
    differences = [a - b for a, b in zip(those, without, strict=True)]
    return statistics.fmean(statistics.median(differences[place::CYCLE]) for place in range(CYCLE))


def light_steps(quick: bool) -> Table:
    """A loop that clips by hand, and the helper's optimizer, each alone, with DivergenceMonitor, and with both monitors."""
    rows = []
    for tensors in SIZES:
        repeats = CYCLE * round((4 if quick else 30) * min(1.0, 150 / tensors))
        progress(f"light steps of {tensors} tensors")
        ways = [way(tensors, guided, watching) for guided in (False, True) for watching in ("", "alone", "both")]
        calls = [w.step for w in ways]
        times(calls, WARM)
        hand, hand_alone, hand_both, helper, helper_alone, helper_both = times(calls, repeats)
        update, guided = times([ways[0].update, ways[3].update], repeats)
        ratio = statistics.median(b / a for a, b in zip(update, guided, strict=True))
        rows.append((
            str(tensors),
            f"{1e3 * typical(hand):.2f}",
            *(f"{1e6 * added(*pair):.0f}" for pair in ((hand_alone, hand), (helper_alone, helper))),
            f"{60 + 0.5 * tensors:.0f}",
            *(f"{1e6 * mean_added(*pair):.0f}" for pair in ((hand_both, hand), (helper_both, helper))),
            f"{100 * mean_added(helper_both, helper) / typical(helper):.1f} %",
            f"{ratio:.3f}",
        ))  # fmt: skip
    header = (
        "tensors", "step ms", "DivergenceMonitor µs", "with the helper µs", "to reach µs", "both µs", "with the helper µs",
        "both ÷ step", "helper ÷ hand",
    )  # fmt: skip
    return Table(f"Light steps ({torch.get_num_threads()} threads), added per step", header, rows)


class Batches:
    """The same batch again and again."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[list[Tensor]]:
        return iter([data()] * self._steps)


def under_lightning(quick: bool) -> Table:
    """The time inside DivergenceMonitor's hooks in a Trainer's fit, in steps without a pass."""
    from lightning_adam.callbacks import DivergenceMonitor

    rows, steps = [], 150 if quick else 600
    for tensors in SIZES:
        progress(f"light steps of {tensors} tensors under Lightning")
        cells = []
        for is_guided in (False, True):
            monitor = DivergenceMonitor(every_n_steps=NEVER)
            watch = Stopwatch([monitor], time.thread_time)
            watching: list[Callback] = [watch, monitor]
            clip = None if is_guided else CLIP
            with quiet_trainer(steps, watching, gradient_clip_val=clip) as trainer:
                trainer.fit(Deep(tensors, is_guided), Batches(steps + 1))
            inside = watch.inside[WARM:]
            bare = [total - part for total, part in zip(watch.steps[WARM:], inside, strict=True)]
            cells += [f"{1e3 * typical(bare):.2f}", f"{1e6 * typical(inside):.0f}"]
        rows.append((str(tensors), *cells))
    header = ("tensors", "step ms", "DivergenceMonitor µs", "step of the helper ms", "DivergenceMonitor µs")
    return Table("Light steps under Lightning, inside the monitor's hooks", header, rows)


def imports(quick: bool) -> Table:
    """What importing the monitors adds to Lightning's own import, in seconds of CPU."""
    import subprocess
    import sys

    def seconds_of(statement: str) -> list[float]:
        code = (
            "import lightning.pytorch, sys, time; before = len(sys.modules); start = time.process_time(); "
            f"{statement}; print(time.process_time() - start, len(sys.modules) - before)"
        )
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        return [float(word) for word in out.split()]

    rows = []
    for statement in ("import lightning_adam", "from lightning_adam.callbacks import DivergenceMonitor, OptimizerMonitor"):
        found = [seconds_of(statement) for _ in range(3 if quick else 7)]
        rows.append((statement, f"{min(taken for taken, _ in found):.3f}", f"{found[0][1]:.0f}"))
    return Table("Added to Lightning's import", ("statement", "CPU seconds", "modules"), rows)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer steps: about half a minute")
    parser.add_argument("--markdown", action="store_true", help="tables for the README")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for part in (light_steps, under_lightning, imports):
        print(part(arguments.quick).text(arguments.markdown), flush=True)


if __name__ == "__main__":
    main()
