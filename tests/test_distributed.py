"""Two gloo processes on the CPU: every clipping rule is right under DDP and FSDP2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy

import lightning_adam as la
from tests.children import run_ranks, start
from tests.digits import Digits
from tests.run_actions import ACTIONS, FAILING
from tests.run_distributed import RULES


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, torch.Tensor]]]:
    """Final weights by strategy and rule; each strategy in processes of its own."""
    folder = tmp_path_factory.mktemp("distributed")
    start(folder, "tests.run_distributed", "single", folder / "single.pt").output()
    for kind in ("ddp", "fsdp2"):
        run_ranks(folder, "tests.run_distributed", kind, folder / f"{kind}.pt")
    return {kind: torch.load(folder / f"{kind}.pt") for kind in ("single", "ddp", "fsdp2")}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_clipping_is_that_of_one_process(kind: str, rule: str, weights: Any) -> None:
    """The same batches on both ranks: after twelve clipped steps the weights are those of one process."""
    for name, want in weights["single"][rule].items():
        torch.testing.assert_close(weights[kind][rule][name], want, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["single", "ddp", "fsdp2"])
def test_divergence_monitor_works_there(kind: str, weights: Any) -> None:
    """None of its methods has failed (a failing one warns and lets the training go on)."""
    assert weights[kind]["failed"] == []


@pytest.fixture(scope="module")
def acted(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks ended with, by case."""
    folder = tmp_path_factory.mktemp("acted")
    run_ranks(folder, "tests.run_actions", folder)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def test_all_ranks_act_alike(acted: list[dict[str, Any]]) -> None:
    """Rank 1 alone has a NaN loss: both stop at the same step, both go back, both leave the step out; the weights agree."""
    one, other = acted
    for action in ACTIONS:
        same = ("steps", "finite", "actions", "rates", "failures")
        assert {key: one[action][key] for key in same} == {key: other[action][key] for key in same}
        assert one[action]["failures"] == []
        assert len(one[action]["actions"]) == (2 if action == "two skip_step" else 1)
        if one[action]["finite"]:
            assert one[action]["weights"] == other[action]["weights"]
    assert one["stop"]["steps"] == one["reduce_lr"]["steps"] == 31  # a lower rate mends no NaN
    assert all(one[action]["finite"] for action in ACTIONS if "rollback" in action or "skip_step" in action)


@pytest.mark.parametrize("case", FAILING)
def test_a_rank_whose_monitor_fails_keeps_nobody_waiting(case: str, acted: list[dict[str, Any]]) -> None:
    """It votes all the same: the ranks act together, or none does, or they stop; they had waited for its vote for ever."""
    one, other = (rank[case] for rank in acted)

    assert one["failures"] != other["failures"] and one["steps"] == other["steps"]
    fate = {"begin": (50, 0), "go back": (31, 1)}.get(case.partition("failing to ")[2], (50, 1))
    assert (one["steps"], len(one["actions"])) == fate
    if one["finite"] and other["finite"]:
        assert one["weights"] == other["weights"]


def test_eight_bit_state_is_refused_under_fsdp2() -> None:
    """bitsandbytes cannot shard its state: said when the optimizer is configured."""
    module = Digits(optimizer="adamw8bit", total_steps=10)
    module._trainer = L.Trainer(accelerator="cpu", devices=1, strategy=ModelParallelStrategy(), logger=False)

    with pytest.raises(la.ConfigError, match="cannot shard 8-bit state"):
        module.configure_optimizers()


def test_a_plain_loop_on_two_processes_acts_alike_and_writes_once(tmp_path: Path) -> None:
    """``la.watch`` on both ranks, of which one alone has a NaN: they stop, go back, or leave out the step together."""
    run_ranks(tmp_path, "tests.run_watch", tmp_path)
    one, other = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))

    assert one["stop"]["steps"] == other["stop"]["steps"] == 31
    for action in ("rollback", "skip_step"):
        assert one[action]["steps"] == other[action]["steps"] == 40
        assert one[action]["finite"] and other[action]["finite"]
        assert one[action]["weights"] == other[action]["weights"]
        assert one[action]["actions"] and other[action]["actions"]
    assert not one["warn"]["finite"]
    assert all(result["failures"] == [] for rank in (one, other) for result in rank.values())
    for action in ("warn", "stop"):
        assert len(list((tmp_path / action).glob("events.out.tfevents*"))) == 1


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """FSDP2 runs in two parts, by what is special about them; ``whole`` ones had one."""
    folder = tmp_path_factory.mktemp("resumed")
    run_ranks(folder / "output", "tests.run_sharded_resume", folder)
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("how", ["shards", "file"])
@pytest.mark.parametrize("rule", ["zclip", "percentile"])
def test_an_adaptive_rule_resumes_under_fsdp2(rule: str, how: str, resumed: Any) -> None:
    """torch.distributed.checkpoint keeps its memory, and its own dry step is not in it: each norm is the unbroken run's."""
    assert resumed[f"{rule} {how}"]["left"] == pytest.approx(resumed[f"{rule} whole"]["left"], rel=1e-6)
    assert resumed[f"{rule} {how}"]["memory"].get("seen", 6.0) == 6.0
    assert resumed[f"{rule} {how}"]["memory"].get("next", 6) == 6
    assert resumed[f"{rule} {how}"]["said"] == []


def test_another_rule_begins_anew_under_fsdp2(resumed: Any) -> None:
    """The checkpoint loads though its optimizer remembers other things; what has changed is said, once on each rank."""
    assert resumed["another rule"]["memory"] == {"seen": 0.0, "mean": 0.0, "variance": 0.0}
    assert len(resumed["another rule"]["said"]) == 1
    assert "clip ClipNorm(max_norm=0.2) -> ZClip(" in resumed["another rule"]["said"][0]
    assert "weight_decay 0.01 -> 0.3" in resumed["another rule"]["said"][0]
    assert "clip ZClip(z=0.5, alpha=0.97, warmup=3) -> ClipNorm(" in resumed["another rule file"]["said"][0]


def test_shards_of_an_earlier_version_load(resumed: Any) -> None:
    """They hold nothing of the rule: it begins anew, without the zero norm of torch's dry step; the moments go on."""
    assert resumed["earlier version"]["memory"] == {"seen": 0.0, "mean": 0.0, "variance": 0.0}
    assert set(resumed["earlier version"]["steps"]) == {12.0}


def test_reset_starts_afresh_under_fsdp2(resumed: Any) -> None:
    """The dry step leaves no count behind: six updates after six steps."""
    assert set(resumed["reset"]["steps"]) == {6.0}
    assert "starts afresh" in resumed["reset"]["said"][0]


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Every optimizer on two ranks with other data and other losses."""
    folder = tmp_path_factory.mktemp("replicas")
    run_ranks(folder, "tests.run_replicas", folder / "found.json")
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("name", [row.name for row in la.available_optimizers()])
def test_replicas_stay_bit_identical(name: str, replicas: Any) -> None:
    """Whatever an optimizer draws, estimates or searches for is the same on both ranks."""
    assert replicas[name]["moved"] > 0
    assert replicas[name]["apart"] == 0
