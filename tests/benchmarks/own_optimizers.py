"""Seconds of one step of each of our own optimizers over one of torch's foreach AdamW, from one run, interleaved.

python -m tests.benchmarks.own_optimizers
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from lightning_adam.optimizers import get_optimizer

OURS = ("adamz", "caadam", "hn_adam", "bds_adam")
MODELS: dict[str, list[tuple[int, ...]]] = {
    "300 small (1.2M)": [(64, 64)] * 300,
    "few large (8.4M)": [(2048, 2048), (2048, 2048)],
}
ROUNDS = 30


def parameters(shapes: list[tuple[int, ...]]) -> list[nn.Parameter]:
    """Random weights with random gradients."""
    made = [nn.Parameter(torch.randn(shape) * 0.02) for shape in shapes]
    for parameter in made:
        parameter.grad = torch.randn_like(parameter)
    return made


def contestants(shapes: list[tuple[int, ...]]) -> dict[str, Callable[[], Any]]:
    """One step of each, over tensors of its own."""
    steps: dict[str, Callable[[], Any]] = {"AdamW": torch.optim.AdamW(parameters(shapes), lr=1e-4, foreach=True).step}
    for name in OURS:
        row = get_optimizer(name)
        optimizer = row.load()(parameters(shapes), lr=1e-4, **row.fixed)  # type: ignore[call-arg]
        steps[name] = (lambda o=optimizer: o.step(loss=1.0)) if name == "adamz" else optimizer.step
    return steps


def measure(shapes: list[tuple[int, ...]], label: str) -> dict[str, float]:
    """Median ratio to AdamW of the same round."""
    steps, seconds = contestants(shapes), {}
    for _ in track(range(ROUNDS + 3), label):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds.setdefault(name, []).append(time.perf_counter() - start)
    pairs = {name: zip(values[3:], seconds["AdamW"][3:], strict=True) for name, values in seconds.items()}
    return {name: statistics.median(one / other for one, other in both) for name, both in pairs.items()}


def main() -> None:
    """Print the table."""
    table = Table("tensors", *OURS, title="step time / torch AdamW(foreach=True)")
    for label, shapes in MODELS.items():
        ratios = measure(shapes, label)
        table.add_row(label, *(f"{ratios[name]:.2f}" for name in OURS))
    Console().print(table)


if __name__ == "__main__":
    main()
