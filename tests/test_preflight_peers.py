"""The benchmark that puts other tools beside preflight is fair: it counts, skips and stops as its page says."""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lightning_adam.explain import codes
from tests.benchmarks.preflight.peers import environment, judge, ours
from tests.benchmarks.preflight.peers.__main__ import ADAPTERS, Verdict, row


@pytest.mark.parametrize("adapter", ADAPTERS.values())
def test_what_a_tool_says_is_told_in_codes_that_exist(adapter: str) -> None:
    """A misspelt code would count every right name of a peer as a wrong one."""
    names = importlib.import_module(f"tests.benchmarks.preflight.peers.{adapter}").NAMES

    assert {code for said in names.values() for code in said} <= set(codes())


def test_the_same_rule_judges_every_tool() -> None:
    """A cause counts as named wherever among the alarms it stands; what was not judged is neither named nor alarmed."""
    verdicts = [
        Verdict("batch_first_missing", ["params", "batch"], "", 1.0),
        Verdict("column_against_row", ["params"], "", 3.0),
        Verdict("left_in_eval", [], "", 5.0),
        Verdict("adam_at_one", None, "longer than 60 s", 60.0),
        Verdict("cnn_plain", ["params"], "", 7.0),
        Verdict("gan_by_hand", None, "manual optimization", 0.0),
    ]

    line = row("peer", verdicts, {"batch": ("BATCH-MIXING",), "params": ("UPDATE-LOST",)})

    assert line == "| peer | 1/4 | 2/4 | 1/2 | 1, 1 | 4.00 |"


@pytest.mark.parametrize(("case", "alarms"), [("column_against_row", ["BROADCAST"]), ("raw_prices", [])])
def test_a_verdict_is_the_alarms_and_their_seconds(case: str, alarms: list[str]) -> None:
    """Preflight goes through the same judge as its peers."""
    verdict = judge.judged(ours, case)

    assert verdict["alarms"] == alarms and verdict["unfit"] == "" and verdict["seconds"] > 0


def spin(case: Any) -> list[str]:
    """A tool that does not come back, and catches what it can."""
    while True:
        with contextlib.suppress(Exception):
            sum(range(1000))


@pytest.mark.parametrize(
    ("alarms", "why"),
    [
        (lambda case: case.automatic(), "manual optimization needs a Trainer"),
        (lambda case: 1 / 0, "ZeroDivisionError: division by zero"),
        (spin, "TooLong: longer than 0.1 s"),
    ],
)
def test_a_tool_that_cannot_judge_a_case_is_told_apart_from_one_that_alarms(
    alarms: Any, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not fit, it breaks, or it takes too long."""
    monkeypatch.setattr(judge, "LIMIT", 0.1)

    verdict = judge.judged(SimpleNamespace(alarms=alarms), "gan_by_hand")

    assert verdict["alarms"] is None and verdict["unfit"] == why


def test_a_tool_that_does_not_install_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table skips it with pip's last words, and the next run tries again."""
    monkeypatch.setattr(environment, "CACHE", tmp_path)

    with pytest.raises(environment.NotInstalled, match="missing"):
        environment.interpreter("peer", (f"{tmp_path}/missing-1.0-py3-none-any.whl",))

    assert not (tmp_path / "peer" / "installed").exists()
