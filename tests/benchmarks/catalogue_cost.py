"""What each optimizer's state and step cost beside AdamW's: ``python -m tests.benchmarks.catalogue_cost``, a minute.

Three matrices of 512 x 512 on the CPU, one thread, the fastest of fifteen steps, AdamW measured anew before each. Writes
``docs/catalogue_cost.csv``, which the site's page of optimizers shows.
"""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from lightning_adam.optimizer_page import measured
from lightning_adam.optimizers import OptimizerSpec, available_optimizers, get_optimizer

WRITTEN = Path(__file__).parents[2] / "docs" / "catalogue_cost.csv"
HEAD = ("name", "bytes per parameter", "time / AdamW's")


def cost(spec: OptimizerSpec) -> tuple[str, str, str]:
    """A row of the table."""
    before = measured(get_optimizer("adamw"))[1]
    try:
        bytes_, seconds = measured(spec)
    except RuntimeError:  # paged_ademamix pages with CUDA only
        return spec.name, f"{spec.state_bytes:g}", "?"
    return spec.name, f"{bytes_:.3g}", f"{seconds / before:.1f}"


def main() -> None:
    """Print each row as it is measured, and write all."""
    torch.set_num_threads(1)
    rows = []
    for spec in available_optimizers():
        rows.append(cost(spec))
        print(*rows[-1], sep="\t", flush=True)
    with WRITTEN.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([HEAD, *rows])


if __name__ == "__main__":
    main()
