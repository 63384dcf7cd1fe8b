"""Preflight on two gloo processes, of a module whose step waits for all ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.children import start


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each rank has left, and what the fits raised; a process of its own forks the ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    start(folder, "tests.run_preflight_ranks", folder).output()
    return {path.stem: json.loads(path.read_text()) for path in Path(folder).glob("*.json")}


def test_first_rank_probes_alone_and_all_have_its_report(written: dict[str, Any]) -> None:
    """No rank waits for the others in a step of probing; afterwards there are two again."""
    assert (written["with0"]["codes"], written["with1"]["codes"]) == (["RELU-LOGITS"], ["RELU-LOGITS"])
    assert [(written[name]["world"], written[name]["rank"]) for name in ("with0", "with1")] == [(2, 0), (2, 1)]


def test_training_on_two_ranks_is_bit_by_bit_as_without(written: dict[str, Any]) -> None:
    """On both ranks, although only one of them has probed."""
    assert written["with0"]["weights"] == written["without0"]["weights"]
    assert written["with1"]["weights"] == written["without1"]["weights"]


def test_finding_of_the_first_rank_ends_the_run_on_all(written: dict[str, Any]) -> None:
    """With ``raise_on``: nobody waits for a rank that has raised."""
    assert "PreflightError: raise_on='critical'" in written["errors"]["raises"]


def test_exception_of_the_first_rank_reaches_the_others(written: dict[str, Any]) -> None:
    """They would wait for its report for half an hour."""
    assert "dataloaders has no batch" in written["errors"]["fails"]
