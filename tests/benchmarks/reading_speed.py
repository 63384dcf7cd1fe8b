"""How fast a log folder is read: ours against TensorBoard's own readers, on one file of about 55 MB.

The file is what a naive monitor leaves behind: 200 scalars per step, one event each, and 200 histograms at every 100th
step. Run ``python -m tests.benchmarks.reading_speed``: seconds of processor time, and ratios to ours, from one run (best of
three for ours).
"""

from __future__ import annotations

import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from lightning_adam.doctor import report
from lightning_adam.tensorboard.reader import find_event_files, read_run

STEPS, TAGS, BINS = 1500, 200, 600


def make(folder: Path) -> Path:
    """Write the file, checksums included."""
    place = folder / "events.out.tfevents.1700000000.benchmark"
    counts, edges = np.histogram(np.random.default_rng(0).standard_normal(20_000), BINS)
    histogram = HistogramProto(min=-4, max=4, num=20_000, bucket_limit=edges.tolist(), bucket=[0.0, *map(float, counts)])
    names = [f"update_ratio/layers.{i}.self_attn.q_proj.weight" for i in range(TAGS)]
    with place.open("wb") as file:
        file.write(record(Event(file_version="brain.Event:2", wall_time=1.7e9)))
        for step in range(STEPS):
            loss = Summary.Value(tag="train_loss", simple_value=2.0 + 1.0 / (step + 1))
            values = [loss] + [Summary.Value(tag=name, simple_value=1.0 / (step + 1)) for name in names]
            if step % 100 == 0:
                values += [Summary.Value(tag=f"weights/{name}", histo=histogram) for name in names]
            file.writelines(record(Event(step=step, wall_time=1.7e9 + step, summary=Summary(value=[v]))) for v in values)
    return place


def record(event: Event) -> bytes:
    """One event in TFRecord framing."""
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))


def read_ours(folder: Path) -> int:
    """Every scalar; the number of points."""
    runs = [read_run("run", path, files) for path, files in find_event_files(folder).items()]
    return sum(len(series.steps) for run in runs for series in run.scalars.values())


def read_accumulator(folder: Path) -> int:
    """The same with TensorBoard's EventAccumulator, told to keep every scalar."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return sum(len(events.Scalars(tag)) for tag in events.Tags()["scalars"])


def read_raw(folder: Path) -> int:
    """TensorBoard's record loader alone, nothing taken out."""
    return sum(1 for _ in RawEventFileLoader(str(next(folder.iterdir()))).Load())


def seconds(what: Callable[[], object]) -> float:
    """Of processor time that it takes once: a busy machine adds little to it."""
    started = time.process_time()
    what()
    return time.process_time() - started


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = make(folder)
        size, whole = file.stat().st_size, read_ours(folder)
        ours = min(seconds(lambda: read_ours(folder)) for _ in range(3))
        print(f"{size / 1e6:.1f} MB, {whole} scalar points")
        print(f"ours, all scalars                {ours:6.2f} s   1.0")
        doctor = min(seconds(lambda: report(folder)) for _ in range(3))
        print(f"the whole doctor                 {doctor:6.2f} s   {doctor / ours:.1f}")
        for title, read in (("RawEventFileLoader", read_raw), ("EventAccumulator(scalars=0)", read_accumulator)):
            theirs = seconds(lambda read=read: read(folder))  # type: ignore[misc]
            print(f"{title:<32} {theirs:6.2f} s   {theirs / ours:.1f}")
        assert read_accumulator(folder) == whole
        file.write_bytes(file.read_bytes()[:-10_000])
        cut = seconds(lambda: read_ours(folder))
        print(f"ours, the file's end cut off     {cut:6.2f} s   {cut / ours:.1f}")


if __name__ == "__main__":
    main()
