"""What watching costs: the statistics pass, the callbacks in the demo's training, the peers, and the writes.

Run ``python -m tests.benchmarks.monitor_overhead`` (``--quick`` for a subset, ``--markdown`` for the README's tables). All
ratios are from this one run. What is compared is called in turn, and the best time of each is shown (a busy machine only
ever adds); training steps are medians. On a GPU the same is measured there.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import math
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.tensorboard import SummaryWriter

from examples.char_gpt import Block, CharGPT, loaders, standard_library_text
from lightning_adam.callbacks import DivergenceMonitor, OptimizerMonitor
from lightning_adam.statistics import (
    QUANTITIES,
    RepeatedPass,
    Snapshot,
    headline,
    kernel,
    library,
    read_optimizer,
    take_snapshot,
    tensor_names,
    triton_kernel,
)
from lightning_adam.tensorboard import TensorBoardWriter

library.PATIENCE = 60.0  # what is measured is the compiled pass, not its build
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Table:
    """One result."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def text(self, markdown: bool) -> str:
        """For a terminal, or for a README."""
        widths = [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]

        def line(cells: Sequence[str]) -> str:
            return " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))

        lines = [line(self.header), " | ".join("-" * width for width in widths), *map(line, self.rows)]
        return f"\n{'**' * markdown}{self.title}{'**' * markdown}\n\n" + "\n".join(
            f"| {row} |" if markdown else row for row in lines
        )


def progress(text: str) -> None:
    """To the terminal only."""
    print(f"… {text}", file=sys.stderr, flush=True)


def interleaved(calls: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Best seconds of each, called in turn."""
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, kept in zip(calls, times, strict=True):
            kept.append(seconds(call))
    return [min(kept) for kept in times]


def seconds(call: Callable[[], object]) -> float:
    """Wall time, the device's work included."""
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def wait() -> None:
    """Until the device is idle."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def stepped_adamw(sizes: Sequence[int]) -> tuple[torch.optim.AdamW, dict[int, str]]:
    """A fused AdamW after one step over tensors of these sizes, with gradients in place."""
    parameters = [nn.Parameter(torch.randn(size, device=DEVICE) * 0.02) for size in sizes]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter) * 1e-2
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    optimizer.step()
    return optimizer, tensor_names((f"layer{index}", parameter) for index, parameter in enumerate(parameters))


def pass_against_step(quick: bool) -> Table:
    """A logged step (state read, all columns, quantiles, histograms) over one fused AdamW step.

    The first one reads every tensor's state; later ones check that nothing has moved and read again what changes. On a GPU
    all are like the first.
    """
    rows = []
    for total in (1_000_000, 20_000_000) if quick else (1_000_000, 20_000_000, 100_000_000):
        for count in (4, 300):
            progress(f"pass over {total // 10**6}M parameters in {count} tensors")
            optimizer, names = stepped_adamw([total // count] * count)
            anew = partial(read_and_measure, optimizer, names)
            kept = RepeatedPass.of(optimizer, names, read_optimizer(optimizer, names))
            later = anew if kept is None else partial(kept.snapshot, 0)
            step, *logged = interleaved([optimizer.step, anew, later], 8 if total > 5e7 else 25)
            peak = extra_memory(later) / 2**20
            cells = [f"{total // 10**6}M in {count}", *(f"{1e3 * t:.2f}" for t in (step, *logged))]
            ratios = [f"{t / step:.2f}" for t in logged]
            rows.append((*cells, *ratios, f"{peak:.2f} / {4 * total / count / 2**20:.2f}"))
            del optimizer, anew, kept, later
    header = (
        "parameters, tensors",
        "fused step ms",
        "first logged step ms",
        "later ones ms",
        "first ÷ step",
        "later ÷ step",
        "extra MiB / largest tensor MiB",
    )
    kind = f"{DEVICE.type}, {torch.get_num_threads()} threads, {path_taken()}"
    return Table(f"Statistics of all tensors against a fused AdamW step ({kind})", header, rows)


def path_taken() -> str:
    """Which way the statistics have been computed so far."""
    if DEVICE.type == "cuda":
        return "triton" if triton_kernel.load() else "eager"
    return "compiled" if kernel.load() else "eager"


def read_and_measure(optimizer: torch.optim.Optimizer, names: dict[int, str]) -> Snapshot:
    """A logged step with nothing kept from an earlier one."""
    return take_snapshot(0, read_optimizer(optimizer, names))


def extra_memory(call: Callable[[], object]) -> float:
    """Bytes of the peak over what was held before."""
    if DEVICE.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return float(torch.cuda.max_memory_allocated() - before)
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return math.nan
    before = process_bytes("VmRSS")
    call()
    return process_bytes("VmHWM") - before


def process_bytes(key: str) -> float:
    """A line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith(key))


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


OPTIMIZER_HOOKS = ("register_step_pre_hook", "register_step_post_hook")


def callbacks_in_training(quick: bool) -> Table:
    """Added time per step of the demo GPT at the default interval, by the time inside the callbacks' hooks."""
    steps = 120 if quick else 400
    rows = []
    monitors = {"OptimizerMonitor": [OptimizerMonitor], "DivergenceMonitor": [DivergenceMonitor]}
    for name, kinds in {**monitors, "both": [OptimizerMonitor, DivergenceMonitor]}.items():
        progress(f"training the demo with {name}, {steps} steps")
        watched = [kind() for kind in kinds]
        watch = Stopwatch(watched)
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


class Operations(TorchDispatchMode):
    """Counts ATen operations that compute or copy, and among them the reads that make the host wait; views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += not func.is_view
        self.reads += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def peers(quick: bool) -> Table:
    """A logged step of each over the 144 tensors of a GPT with 12 blocks: work, and host reads."""
    progress("peers over 144 tensors")
    model = nn.Sequential(*[Block(128, 4) for _ in range(12)]).to(DEVICE)
    model(torch.randn(8, 64, 128, device=DEVICE)).square().mean().backward()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    optimizer.step()
    contenders = contenders_for(model, optimizer)
    times = interleaved([call for call, _ in contenders.values()], 5 if quick else 15)
    rows = []
    for (name, (call, values)), duration in zip(contenders.items(), times, strict=True):
        with Operations() as counted:
            call()
        counts = (counted.operations / 144, counted.reads / 144)
        rows.append((name, str(values), *(f"{count:.1f}" for count in counts), f"{1e3 * duration:.2f}"))
    header = ("one logged step", "numbers per tensor", "ATen operations per tensor", "host reads per tensor", "ms")
    return Table(f"Peers, 144 tensors ({DEVICE.type})", header, rows)


def composer_monitor(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], object] | None:
    """A logged step of Composer's own OptimizerMonitor with its DecoupledAdamW, or None where it is not installed.

    Tried by hand: Composer 0.32.1 asks for torch below 2.7.1 and for torchvision, of which PyPI's wheel (0.29.1) is linked
    to CUDA's libraries and does not load beside the CPU's torch 2.13. With ``pip install --no-deps``, and torchvision's
    missing operators declared (``torch.library.Library("torchvision", "DEF").define(...)`` for nms, qnms, roi_align and
    roi_pool), it imports and measures.
    """
    try:
        from composer.callbacks import OptimizerMonitor as Theirs  # type: ignore[import-not-found,unused-ignore]
        from composer.optim import DecoupledAdamW  # type: ignore[import-not-found,unused-ignore]
    except (ImportError, RuntimeError):
        return None
    theirs = DecoupledAdamW(model.parameters(), lr=1e-3)
    theirs.state.update(optimizer.state)
    batch, logger = SimpleNamespace(value=0), SimpleNamespace(log_metrics=lambda metrics: None)
    state = SimpleNamespace(timestamp=SimpleNamespace(batch=batch), model=model, optimizers=[theirs], fsdp_enabled=False)
    return lambda: Theirs().batch_end(state, logger)


def composer_metrics(optimizer: torch.optim.Optimizer) -> list[float]:
    """The operations of Composer 0.32.1 (OptimizerMonitor, DecoupledAdamW), where it is not installed."""
    (group,) = optimizer.param_groups
    (beta1, beta2), found = group["betas"], []
    for parameter in group["params"]:
        state = optimizer.state[parameter]
        step = state["step"].item()
        below = (state["exp_avg_sq"].sqrt() / math.sqrt(1 - beta2**step)).add_(group["eps"])
        update = state["exp_avg"].div(below) * (group["lr"] / (1 - beta1**step))
        update.add_(parameter.detach(), alpha=-group["weight_decay"])
        measured = (state["exp_avg"], parameter.detach(), update, parameter.grad)
        found += [torch.linalg.vector_norm(tensor).item() for tensor in measured]
    return found


def contenders_for(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, tuple[Callable[[], object], int]]:
    """What each does at a logged step, and how many numbers per tensor come of it."""
    from lightning.pytorch.utilities import grad_norm

    names = tensor_names(model.named_parameters())
    readings = read_optimizer(optimizer, names)

    def eager() -> None:
        os.environ["LIGHTNING_ADAM_KERNEL"] = "eager"
        read_and_measure(optimizer, names)
        del os.environ["LIGHTNING_ADAM_KERNEL"]

    columns = take_snapshot(0, readings).table.shape[1]
    kept = RepeatedPass.of(optimizer, names, readings)
    composer = composer_monitor(model, optimizer)
    theirs = "its operations" if composer is None else "itself"
    return {
        "OptimizerMonitor": (
            partial(read_and_measure, optimizer, names) if kept is None else partial(kept.snapshot, 0),
            columns,
        ),
        "OptimizerMonitor, the first logged step": (partial(read_and_measure, optimizer, names), columns),
        "OptimizerMonitor, without a compiler": (eager, columns),
        f"Composer's OptimizerMonitor ({theirs})": (composer or (lambda: composer_metrics(optimizer)), 4),
        "Lightning grad_norm": (lambda: {k: float(v) for k, v in grad_norm(model, 2).items()}, 1),
        "p.grad.norm().item()": (lambda: [p.grad.norm().item() for p in model.parameters() if p.grad is not None], 1),
    }


def writes(quick: bool) -> Table:
    """One event per logged step against one ``add_scalar`` per tag, for 144 tensors and all quantities."""
    progress("writing")
    optimizer, names = stepped_adamw([1000] * 144)
    snapshot = take_snapshot(0, read_optimizer(optimizer, names))
    scalars = {f"adam/{name}": value for name, value in headline(snapshot).items()}
    repeats = 5 if quick else 20

    def one_event(files: SummaryWriter, step: int) -> None:
        TensorBoardWriter(files).write_snapshot(step, scalars, snapshot)

    def many_scalars(files: SummaryWriter, step: int) -> None:
        for tag, value in scalars.items():
            files.add_scalar(tag, value, step)
        for index, quantity in enumerate(QUANTITIES):
            for name, value in zip(snapshot.names, snapshot.table[:, index], strict=True):
                files.add_scalar(f"{quantity}/{name}", value, step)

    found = {name: written(call, repeats) for name, call in (("one event", one_event), ("add_scalar", many_scalars))}
    rows = [(name, f"{1e3 * duration:.2f}", f"{size / 1024:.1f}") for name, (duration, size) in found.items()]
    ratios = [found["add_scalar"][i] / found["one event"][i] for i in (0, 1)]
    rows.append(("add_scalar ÷ one event", *(f"{ratio:.1f}" for ratio in ratios)))
    title = f"Writing a logged step: {len(QUANTITIES)} quantities of 144 tensors, and the headline"
    return Table(title, ("way", "ms per step", "KiB per step"), rows)


def written(call: Callable[[SummaryWriter, int], None], repeats: int) -> tuple[float, float]:
    """Median seconds, and bytes, per logged step."""
    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(folder) as files:
            times = [seconds(lambda step=step: call(files, step)) for step in range(repeats)]
        return statistics.median(times), sum(file.stat().st_size for file in Path(folder).iterdir()) / repeats


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer sizes and steps: about a minute")
    parser.add_argument("--markdown", action="store_true", help="tables for the README")
    parser.add_argument("--threads", type=int, help="torch's threads; its default otherwise")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    from tests.benchmarks.light_step import imports, light_steps, under_lightning

    for part in (pass_against_step, peers, writes, light_steps, under_lightning, imports, callbacks_in_training):
        print(part(arguments.quick).text(arguments.markdown), flush=True)


if __name__ == "__main__":
    main()
