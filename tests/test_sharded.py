"""Two gloo processes: what is logged under DDP and FSDP2 is what one process logs, and training is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_adam.statistics import QUANTITIES
from tests.children import ranks
from tests.sharded_run import run, run_flat, run_mixed
from tests.test_optimizer_monitor import matrices, row_names

MODES = ("ddp-adamw", "fsdp2-adamw", "fsdp2-lion", "fsdp2-adamw-bare", "flat", "mixed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs of this file; the two processes make theirs one after the other in one group."""
    path = tmp_path_factory.mktemp("sharded")
    with ranks(path / "output", "tests.sharded_run", path, *MODES):
        for mode in ("single-adamw", "single-lion"):
            run(path, mode)
        run_flat(path, 1)
        run_mixed(path, 1)
    return path


@pytest.mark.parametrize(
    ("mode", "unsharded", "bound"),
    [("fsdp2-adamw", "ddp-adamw", 1e-5), ("fsdp2-lion", "single-lion", 1e-5), ("ddp-adamw", "single-adamw", 1e-4)],
)
def test_two_processes_log_what_one_logs(folder: Path, mode: str, unsharded: str, bound: float) -> None:
    """Every quantity of every tensor at every logged step; two halves of a batch round the smallest gradients apart."""
    names = [*(f"{layer}.{kind}" for layer in ("one", "two") for kind in ("weight", "bias")), "scale.factor"]
    assert row_names(folder / mode) == row_names(folder / unsharded) == names

    ours, theirs = matrices(folder / mode), matrices(folder / unsharded)
    assert sorted(ours) == sorted(theirs) == sorted(QUANTITIES)
    for quantity in QUANTITIES:
        assert sorted(ours[quantity]) == [1, 3, 5]
        for step, row in ours[quantity].items():
            np.testing.assert_allclose(row, theirs[quantity][step], rtol=bound, err_msg=f"{quantity} at step {step}")


@pytest.mark.parametrize("mode", ["ddp-adamw", "fsdp2-adamw"])
def test_two_processes_write_the_scalars_of_one(folder: Path, mode: str) -> None:
    """The headline, gradient norm and clipping included; only rank zero writes."""
    assert len(list((folder / mode).glob("events*"))) == 1
    ours, theirs = (EventAccumulator(str(folder / name)).Reload() for name in (mode, "single-adamw"))
    tags = [tag for tag in theirs.Tags()["scalars"] if tag.startswith("adam") and "tensors" not in tag]

    assert "adam/log10_gradient_norm" in tags
    assert "adam.clip/log10_norm_after" in tags
    for tag in tags:
        want, got = ([e.value for e in events.Scalars(tag)] for events in (theirs, ours))
        assert got == pytest.approx(want, rel=1e-4, abs=1e-4, nan_ok=True), tag


def test_flat_shards_of_fsdp1_are_put_together(folder: Path) -> None:
    """Each rank holds a stretch of some tensors and nothing of others; the table is that of one process."""
    ours, theirs = (torch.load(folder / f"flat{world}.pt") for world in (2, 1))

    assert ours["names"] == theirs["names"] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    torch.testing.assert_close(ours["table"], theirs["table"], rtol=1e-4, atol=0, equal_nan=True)


def test_rows_columns_and_replicas_are_put_together(folder: Path) -> None:
    """Tensor parallelism cuts columns, hybrid sharding keeps replicas: each element counts once."""
    ours, theirs = (torch.load(folder / f"mixed{world}.pt") for world in (2, 1))

    assert ours["names"] == theirs["names"]
    torch.testing.assert_close(ours["table"], theirs["table"], rtol=1e-5, atol=0, equal_nan=True)
    assert torch.equal(ours["histograms"].sum(-1), theirs["histograms"].sum(-1))
    assert (ours["histograms"] - theirs["histograms"]).abs().sum() <= 0.01 * theirs["histograms"].sum()


def test_shards_train_as_without_monitors(folder: Path) -> None:
    """Bit for bit."""
    watched, bare = (torch.load(folder / f"fsdp2-adamw{end}.pt") for end in ("", "-bare"))

    assert watched.keys() == bare.keys()
    assert all(torch.equal(watched[name], bare[name]) for name in bare)


@pytest.mark.parametrize(("few_ranks", "collectives"), [(16, 1), (0, 2)])
def test_one_collective_per_logged_step_and_two_among_many_ranks(
    few_ranks: int, collectives: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many tensors there are: the whole table of a step travels in one all-reduce, or its maxima in another."""
    import torch.distributed as dist

    from lightning_adam.statistics import TensorReading, sharded, take_sharded_snapshot, take_snapshot

    monkeypatch.setattr(sharded, "FEW_RANKS", few_ranks)
    readings = [
        TensorReading(f"p{i}", "g", torch.ones(n), torch.ones(n), None, 0.1, 0.0, before=torch.full((n,), 0.5))
        for i, n in enumerate((3, 5))
    ]
    calls: list[int] = []
    original: Any = dist.all_reduce

    def counted(tensor: Any, *args: Any, **options: Any) -> Any:
        calls.append(tensor.numel())
        return original(tensor, *args, **options)

    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    dist.all_reduce = counted
    try:
        snapshot = take_sharded_snapshot(0, readings)
    finally:
        dist.all_reduce = original
        dist.destroy_process_group()

    assert len(calls) == collectives
    np.testing.assert_array_equal(snapshot.table, take_snapshot(0, readings).table)
