"""What the benchmarks of watching measure with: time, memory, and tables of both."""

from __future__ import annotations

import ctypes
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from lightning_adam.statistics import (
    Snapshot,
    kernel,
    library,
    read_optimizer,
    take_snapshot,
    tensor_names,
    triton_kernel,
)

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
    """Wall time, the device's work included; processor time of one thread, to which a busy machine adds less."""
    clock = time.process_time if DEVICE.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    wait()
    start = clock()
    call()
    wait()
    return clock() - start


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


def read_and_measure(optimizer: torch.optim.Optimizer, names: dict[int, str]) -> Snapshot:
    """A logged step with nothing kept from an earlier one."""
    return take_snapshot(0, read_optimizer(optimizer, names))


def path_taken() -> str:
    """Which way the statistics have been computed so far."""
    if DEVICE.type == "cuda":
        return "triton" if triton_kernel.load() else "eager"
    return "compiled" if kernel.load() else "eager"


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
