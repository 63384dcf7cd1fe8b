"""The benchmark of suggested rates keeps its runs, and reads between them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.benchmarks.rate_runs import Run, Runs
from tests.benchmarks.rate_tasks import STEPS


def ending(lr: float, loss: float, steps: int = STEPS) -> Run:
    """A run from a loss of 1 that stays at one value."""
    return Run("task", "adamw", lr, [1.0, *[loss] * (steps - 1)], step=0.001)


def of(*runs: Run) -> Runs:
    """These runs, and no file."""
    kept = Runs(Path("no such file"))
    kept.known = {(run.task, run.optimizer, run.lr): run for run in runs}
    return kept


def test_a_run_is_trained_once_and_read_from_the_file_afterwards(tmp_path: Path) -> None:
    first = Runs(tmp_path / "runs.jsonl").at("logistic_regression_sgd", "sgd", 0.1)

    again = Runs(tmp_path / "runs.jsonl")
    assert again.at("logistic_regression_sgd", "sgd", 0.1000001) == first
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 1
    assert first.end < first.losses[0]


def test_between_two_rates_the_loss_is_read_by_logarithms() -> None:
    runs = of(ending(0.01, 0.4), ending(0.1, 0.1))

    assert runs.between("task", "adamw", math.sqrt(0.001)) == pytest.approx(0.2)
    assert runs.between("task", "adamw", 1.0) == pytest.approx(0.1), "beyond the last the last one's"


def test_a_run_that_broke_off_counts_as_three_times_its_first_loss() -> None:
    runs = of(ending(0.01, 0.4), ending(0.1, 0.4, steps=9))

    assert runs.between("task", "adamw", 0.1) == pytest.approx(3.0)
