"""Each optimizer has a page: what it does, needs, takes and costs, where it comes from, and how it was verified."""

from __future__ import annotations

import re

import pytest

import lightning_adam as la
from lightning_adam import optimizer_page as page_module
from lightning_adam.cli import main
from lightning_adam.optimizer_page import NEEDS, optimizer_page
from lightning_adam.optimizers.pages import RULES, verified
from tests.test_independent_references import CASES

ROWS = {row.name: row for row in la.available_optimizers()}


def test_every_optimizer_has_a_rule_and_every_need_a_sentence() -> None:
    """And no page stands for a name that is gone."""
    assert set(RULES) == set(ROWS)
    assert set(NEEDS) == {need for row in ROWS.values() for need in row.needs}
    assert all("\n\n" not in rule and rule.count("\n") < 2 for rule in RULES.values())


@pytest.mark.parametrize("name", CASES)
def test_a_page_claims_no_more_than_was_verified(name: str) -> None:
    """The error that it names is the one that the conformance suite allows."""
    claimed = re.search(r"at most ([\d.e-]+)( %)?", verified(name))
    assert claimed is not None
    assert float(claimed[1]) / (100 if claimed[2] else 1) == pytest.approx(CASES[name].error)


@pytest.mark.parametrize("name", ["adamw", "lbfgs", "muon", "sophia"])
def test_the_bytes_on_a_page_are_counted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On real state after real steps; they are the row's. Smaller matrices count alike: the steps are what takes time."""
    monkeypatch.setattr(page_module, "SIDE", 128)
    page = optimizer_page(name)
    counted = re.search(r"([\d.]+) bytes per parameter", page)

    assert counted is not None
    assert float(counted[1]) == pytest.approx(ROWS[name].state_bytes, rel=0.05)
    assert re.search(r"[\d.]+ times AdamW's", page)


def test_the_command_prints_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    """``lightning-adam optimizers NAME``: rule, needs, the row's own decay among the options, source, check and note."""
    assert main(["optimizers", "sophia"]) == 0
    page = capsys.readouterr().out
    for words in ("clip(m/max(h, ε), ±p)", "Hessian", "weight_decay=0.002", "arXiv:2305.14342", "at most 1e-6", "lr·p"):
        assert words in page


def test_a_page_of_an_unknown_name_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """With the nearest one."""
    assert main(["optimizers", "adamww"]) == 2
    assert "Did you mean 'adamw'?" in capsys.readouterr().err
