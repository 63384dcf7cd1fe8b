"""Every code that a finding can have is explained, and what the explanations say can be done."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import pytest

import lightning_adam as la
from lightning_adam.callbacks import DivergenceMonitor
from lightning_adam.cli import main
from lightning_adam.diagnosis.rules import RULES
from lightning_adam.errors import ConfigError
from lightning_adam.explain import codes, explanation, table

SECTIONS = ["What it looks like", "Why it happens", "What to do, in order", "When it may be wrong"]
OF_TORCH = {
    *("T_max", "batch_first", "dim", "drop_last", "ignore_index", "labels", "loss", "num_classes", "pos_weight"),
    *("precision", "reduction", "requires_grad", "shuffle", "training"),
}
"""Arguments of torch, Lightning and Hugging Face, and names that stand for the user's own."""


def test_every_code_that_a_rule_can_give_is_explained() -> None:
    assert set(RULES) <= set(codes())


@pytest.mark.parametrize("code", codes())
def test_an_explanation_says_what_why_what_to_do_and_when_it_may_be_wrong(code: str) -> None:
    told = explanation(code)
    assert told.text.startswith(f"# {code}\n")
    assert [told.text.index(f"## {section}") for section in SECTIONS] == sorted(
        told.text.index(f"## {section}") for section in SECTIONS
    )
    assert re.search(r"^1\. \S", told.text, re.MULTILINE)
    assert told.says and told.first


@pytest.mark.parametrize("code", RULES)
def test_a_rule_of_the_monitor_says_how_it_is_decided_and_how_it_is_silenced(code: str) -> None:
    text = explanation(code).text
    assert "## How it is decided" in text
    assert f'DivergenceMonitor(ignore=["{code}"])' in text


def test_an_unknown_code_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="LR-HIGH"):
        explanation("LR-HIHG")


def test_a_code_may_be_written_in_lower_case() -> None:
    assert explanation("lr_high") == explanation("LR-HIGH")


def test_the_table_has_one_row_per_code() -> None:
    assert len(table(codes()).splitlines()) == len(codes()) + 2


def test_the_command_prints_the_explanation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "NON-FINITE"]) == 0
    assert "detect_anomaly=True" in capsys.readouterr().out


def test_the_command_without_a_code_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain"]) == 0
    printed = capsys.readouterr().out
    assert all(code in printed for code in codes())


def test_a_wrong_code_ends_with_one_line_and_exit_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "LR-HIHG"]) == 2
    assert "LR-HIGH" in capsys.readouterr().err


def test_the_package_runs_as_a_module_and_tells_its_version() -> None:
    ran = subprocess.run([sys.executable, "-m", "lightning_adam", "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == f"lightning-adam {la.__version__}"


@pytest.mark.parametrize("code", codes())
def test_arguments_that_an_explanation_recommends_exist(code: str) -> None:
    known = {*inspect.signature(la.configure_optimizers).parameters, *inspect.signature(DivergenceMonitor).parameters}
    recommended = re.findall(r"`(\w+)=[^`]*`", explanation(code).text)
    assert set(recommended) <= known | OF_TORCH
