"""What many ranks add to a logged step: ``python -m tests.benchmarks.ranks``.

Each of 2, 4 and 8 gloo processes holds its shard of every tensor, as under FSDP2. Counted are the collectives of one logged
step and their bytes; timed are the pass over the shard and the pass with its collectives (medians of ten). Processes share
the cores of one machine here, so that times say little of a cluster: docs/benchmarks.md has what they amount to there.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from lightning_adam.moments import Moments
from lightning_adam.statistics import TensorReading, take_sharded_snapshot, take_snapshot

ELEMENTS, REPEATS = 4_000_000, 10


def shards(tensors: int, rank: int, world: int) -> list[TensorReading]:
    """This rank's part of so many tensors of four million elements in all."""
    whole = ELEMENTS // tensors
    size = whole // world
    p, g, m, v = (torch.rand(size) for _ in range(4))
    moments = Moments(m, v, v, 3, 0.9, 0.999)
    return [
        TensorReading(f"p{i}", "all", p, g, moments, 1e-3, 1e-8, offset=rank * size, whole=size * world)
        for i in range(tensors)
    ]


def milliseconds(call: Callable[[], object]) -> float:
    """The median of ten."""
    times = []
    for _ in range(REPEATS):
        dist.barrier()
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def run(rank: int, world: int, store: str, tensors: int) -> None:
    """One process."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    readings, sizes, original = shards(tensors, rank, world), [], dist.all_reduce

    def counted(tensor: Any, *arguments: Any, **options: Any) -> Any:
        sizes.append(tensor.numel() * tensor.element_size())
        return original(tensor, *arguments, **options)

    dist.all_reduce = counted
    take_sharded_snapshot(0, readings)
    dist.all_reduce = original
    alone = milliseconds(lambda: take_snapshot(0, readings))
    together = milliseconds(lambda: take_sharded_snapshot(0, readings))
    if rank == 0:
        print(
            f"| {world} | {tensors} | {len(sizes)} | {sum(sizes) / 2**20:.2f} | {alone:.1f} | {together:.1f} |", flush=True
        )
    dist.destroy_process_group()


def main() -> None:
    """Print the table."""
    print("| ranks | tensors | collectives | MiB | pass ms | with collectives ms |\n|---:|---:|---:|---:|---:|---:|")
    for world in (2, 4, 8):
        for tensors in (30, 300):
            with tempfile.TemporaryDirectory() as folder:
                multiprocessing.spawn(run, (world, str(Path(folder) / "store"), tensors), nprocs=world)


if __name__ == "__main__":
    main()
