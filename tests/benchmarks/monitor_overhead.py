"""What watching costs: the statistics pass, the callbacks in the demo's training, the peers, and the writes.

Run ``python -m tests.benchmarks.monitor_overhead`` (``--quick`` for a subset, ``--markdown`` for the README's tables). All
ratios are from this one run. What is compared is called in turn, and the best time of each is shown (a busy machine only
ever adds); training steps are medians. On a GPU the same is measured there.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter

from lightning_adam.statistics import QUANTITIES, RepeatedPass, headline, read_optimizer, take_snapshot
from lightning_adam.tensorboard import TensorBoardWriter
from tests.benchmarks.light_step import imports, light_steps, under_lightning
from tests.benchmarks.measuring import (
    DEVICE,
    Table,
    extra_memory,
    interleaved,
    path_taken,
    progress,
    read_and_measure,
    seconds,
    stepped_adamw,
)
from tests.benchmarks.overhead_in_training import callbacks_in_training
from tests.benchmarks.overhead_of_peers import peers


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


def writes(quick: bool) -> Table:
    """One event per logged step, as the first 512 are and without the tensors' histograms, against one ``add_scalar`` per
    tag, for 144 tensors and all quantities."""
    progress("writing")
    optimizer, names = stepped_adamw([1000] * 144)
    snapshot = take_snapshot(0, read_optimizer(optimizer, names))
    scalars = {f"adam/{name}": value for name, value in headline(snapshot).items()}
    repeats = 5 if quick else 20

    def one_event(files: SummaryWriter, step: int) -> None:
        TensorBoardWriter(files).write_snapshot(step, scalars, snapshot)

    def without_histograms(files: SummaryWriter, step: int) -> None:
        TensorBoardWriter(files).write_snapshot(step, scalars, replace(snapshot, histograms=snapshot.histograms[:0]))

    def many_scalars(files: SummaryWriter, step: int) -> None:
        for tag, value in scalars.items():
            files.add_scalar(tag, value, step)
        for index, quantity in enumerate(QUANTITIES):
            for name, value in zip(snapshot.names, snapshot.table[:, index], strict=True):
                files.add_scalar(f"{quantity}/{name}", value, step)

    ways = {"one event": one_event, "without own histograms": without_histograms, "add_scalar": many_scalars}
    found = {name: written(call, repeats) for name, call in ways.items()}
    rows = [(name, f"{1e3 * duration:.2f}", f"{size / 1024:.1f}") for name, (duration, size) in found.items()]
    for over, under in (("add_scalar", "one event"), ("one event", "without own histograms")):
        ratios = [found[over][i] / found[under][i] for i in (0, 1)]
        rows.append((f"{over} ÷ {under}", *(f"{ratio:.2f}" for ratio in ratios)))
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
    for part in (pass_against_step, peers, writes, light_steps, under_lightning, imports, callbacks_in_training):
        print(part(arguments.quick).text(arguments.markdown), flush=True)


if __name__ == "__main__":
    main()
