"""What the callbacks add to the steps of the demo's training, by the time inside their hooks."""

from __future__ import annotations

import logging
import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from examples.char_gpt import CharGPT, loaders, standard_library_text
from lightning_adam.callbacks import DivergenceMonitor, OptimizerMonitor
from tests.benchmarks.measuring import DEVICE, Table, progress

OPTIMIZER_HOOKS = ("register_step_pre_hook", "register_step_post_hook")


class Stopwatch(L.Callback):
    """Times the steps of a training, and every hook that some callbacks and their optimizer hooks spend time in."""

    def __init__(self, watched: Sequence[L.Callback], clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.steps: list[float] = []
        self.inside: list[float] = []
        self._now, self._inside = math.nan, 0.0
        for callback in watched:
            for name in dir(L.Callback):
                if name.startswith("on_") and getattr(type(callback), name) is not getattr(L.Callback, name):
                    setattr(callback, name, self._timed(getattr(callback, name)))

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        clock = self._clock

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = clock()
            try:
                return call(*args, **kwargs)
            finally:
                self._inside += clock() - start

        return timed

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """From here on hooks that are put on any optimizer are timed."""
        self._original = {name: getattr(torch.optim.Optimizer, name) for name in OPTIMIZER_HOOKS}
        for name, register in self._original.items():
            setattr(torch.optim.Optimizer, name, lambda o, hook, register=register: register(o, self._timed(hook)))

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Optimizers as they were."""
        for name, register in self._original.items():
            setattr(torch.optim.Optimizer, name, register)

    def on_train_batch_start(self, *args: Any) -> None:
        """One step is over and the next begins."""
        now = self._clock()
        self.steps.append(now - self._now)
        self.inside.append(self._inside)
        self._now, self._inside = now, 0.0


def callbacks_in_training(quick: bool) -> Table:
    """Added time per step of the demo GPT at the default interval, by the time inside the callbacks' hooks.

    Of one thread on a CPU its processor time: what other programs do on a busy machine is not counted.
    """
    steps = 120 if quick else 400
    clock = time.thread_time if DEVICE.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    rows = []
    monitors = {"OptimizerMonitor": [OptimizerMonitor], "DivergenceMonitor": [DivergenceMonitor]}
    for name, kinds in {**monitors, "both": [OptimizerMonitor, DivergenceMonitor]}.items():
        progress(f"training the demo with {name}, {steps} steps")
        watched = [kind() for kind in kinds]
        watch = Stopwatch(watched, clock)
        fit_demo(steps, [watch, *watched])
        every, warm = 50, 20
        inside = watch.inside[warm:]
        bare = [total - part for total, part in zip(watch.steps[warm:], inside, strict=True)]
        logged = inside[every - warm :: every]
        usual = [part for index, part in enumerate(inside, warm) if index % every]
        added = statistics.fmean([statistics.median(logged)] + [statistics.fmean(trimmed(usual))] * (every - 1))
        step = statistics.median(bare)
        cells = (step, statistics.median(logged), statistics.median(usual), added)
        rows.append((name, *(f"{1e3 * t:.3f}" for t in cells), f"{100 * added / step:.2f} %"))
    header = (
        "callback",
        "step without ms",
        "in a logged step ms",
        "in another step ms",
        "added per step ms",
        "added ÷ step",
    )
    return Table("Demo GPT (1.0M parameters), every 50th step logged", header, rows)


def trimmed(times: Sequence[float]) -> list[float]:
    """Without the slowest hundredth: the machine's, not ours."""
    return sorted(times)[: max(1, math.floor(0.99 * len(times)))]


def fit_demo(steps: int, callbacks: list[L.Callback]) -> None:
    """Train the demo's GPT with a TensorBoard logger, at the trainer's default interval of 50."""
    L.seed_everything(0, verbose=False)
    with quiet_trainer(steps + 1, callbacks) as trainer:
        trainer.fit(CharGPT(), loaders(standard_library_text(300_000), steps + 1)[0])


@contextmanager
def quiet_trainer(steps: int, callbacks: list[L.Callback], **options: Any) -> Iterator[L.Trainer]:
    """With a TensorBoard logger in a folder of its own, and no word to the terminal."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch", "lightning_adam"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        yield L.Trainer(
            max_steps=steps,
            max_epochs=-1,
            accelerator="auto",
            devices=1,
            logger=TensorBoardLogger(folder),
            callbacks=callbacks,
            **quiet,
            **options,
        )
