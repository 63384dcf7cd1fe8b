"""Every code that a finding can have is explained, and what the explanations say can be done."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
import sys
from xml.etree import ElementTree

import pytest

import lightning_adam as la
from lightning_adam import cli
from lightning_adam.callbacks import DivergenceMonitor
from lightning_adam.cli import main
from lightning_adam.diagnosis import Finding
from lightning_adam.diagnosis.rules import RULES
from lightning_adam.errors import ConfigError
from lightning_adam.explain import codes, explanation, table
from lightning_adam.measured import Picture, Series, measured
from tests.benchmarks.explained import Case, rates

SECTIONS = ["What it looks like", "Why it happens", "What to do, in order", "When it may be wrong"]
OF_TORCH = {
    *(
        "T_max",
        "batch_first",
        "dim",
        "drop_last",
        "ignore_index",
        "labels",
        "log_input",
        "loss",
        "num_classes",
        "pos_weight",
    ),
    *("precision", "reduction", "requires_grad", "shuffle", "training", "weight"),
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


@pytest.mark.parametrize("code", codes())
def test_every_code_says_how_it_is_decided_behind_what_it_looks_like_and_how_it_is_silenced(code: str) -> None:
    told = re.findall(r"^## (.*)$", explanation(code).text, re.MULTILINE)
    assert told[:2] == ["What it looks like", "How it is decided"] and told[-1] == "How to silence it"
    assert len(explanation(code).text.split("## How it is decided")[1].split("##")[0].split()) > 8


@pytest.mark.parametrize("code", codes())
def test_what_silences_a_code_is_accepted(code: str) -> None:
    silence = explanation(code).text.split("## How to silence it")[1]
    if "DivergenceMonitor" in silence:
        assert f'DivergenceMonitor(ignore=["{code}"])' in silence
        DivergenceMonitor(ignore=[code])
    else:
        assert "--baseline" in silence or "cannot be silenced" in silence


@pytest.mark.parametrize("code", codes())
def test_each_command_of_an_explanation_is_one_that_the_program_takes(code: str) -> None:
    for line in re.findall(r"`lightning-adam ([^`]+)`", explanation(code).text):
        assert cli._parser().parse_args(shlex.split(line.partition(" > ")[0])).run


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


def test_a_picture_marks_where_the_finding_was_among_its_bars() -> None:
    values = (4.0, 2.0, None, 1.0)
    told = Picture("a run", 40, 30, "it fell", (Series("loss", values),)).as_text().splitlines()
    assert told == ["loss  █▃×▁", "      1 to 4", "        ▲ found at step 30 of 40"]


@pytest.mark.parametrize("code", [code for code in codes() if measured(code).picture])
def test_a_picture_fits_into_a_terminal_of_80_columns(code: str) -> None:
    assert max(map(len, measured(code).picture.as_text().splitlines())) <= 78


def test_values_that_are_far_apart_are_drawn_on_a_logarithmic_scale() -> None:
    wide = Series("gradient norm", (1.0, 10.0, 100.0))
    assert wide.shares() == [0.0, 0.5, 1.0]
    assert wide.ends() == "1 to 1e+02, log"


@pytest.mark.parametrize("code", [code for code in codes() if measured(code).picture])
def test_a_picture_is_small_and_drawn_in_the_pages_own_colour(code: str) -> None:
    drawn = measured(code).picture.as_svg()
    parsed = ElementTree.fromstring(drawn)
    assert parsed.get("role") == "img" and f"found at step {measured(code).picture.at}" in parsed.get("aria-label")
    assert len(drawn) < 6000 and "currentColor" in drawn and "\n\n" not in drawn


@pytest.mark.parametrize("code", RULES)
def test_a_code_of_the_monitor_shows_a_real_run_and_its_error_rates(code: str) -> None:
    text = explanation(code).text
    assert "A real run: " in text
    assert "## Measured error rates" in text


@pytest.mark.parametrize("code", codes())
def test_the_counts_of_a_code_add_up(code: str) -> None:
    for told in measured(code).rates:
        assert told.named + told.related + told.silent <= told.faults
        assert told.right <= told.first and told.alarmed <= told.healthy
        assert not told.faults or told.interval[0] <= told.named / told.faults <= told.interval[1]


@pytest.mark.parametrize("code", codes())
def test_an_explanation_is_a_page_with_the_same_sections(code: str) -> None:
    page = explanation(code).as_html()
    assert [*re.findall(r"<h2>(.*)</h2>", page)] == re.findall(r"^## (.*)$", explanation(code).text, re.MULTILINE)
    assert ("<svg" in page) == (measured(code).picture is not None)
    assert "<script" not in page and "```" not in page


def test_rates_count_the_first_warning_after_the_fault_began() -> None:
    def case(names: tuple[str, ...], *found: tuple[str, int, str], onset: int = 0) -> Case:
        return Case("corpus", "", names, [Finding(rule, severity, step, "") for rule, step, severity in found], None, onset)

    cases = [
        case(("LR-HIGH", "NO-WARMUP"), ("LR-HIGH", 5, "warning")),
        case(("LR-HIGH", "NO-WARMUP"), ("NO-WARMUP", 0, "warning"), ("LR-HIGH", 5, "warning")),
        case(("LR-HIGH",), ("LR-HIGH", 5, "info")),
        case(("LR-HIGH",), ("LR-LOW", 5, "warning"), ("LR-HIGH", 60, "warning"), onset=50),
        case(("BAD-BATCH",), ("LR-HIGH", 5, "warning")),
        case((), ("LR-HIGH", 5, "warning")),
        case((), ("LR-HIGH", 5, "info")),
    ]
    told = rates("LR-HIGH", cases, "corpus")
    assert (told.faults, told.named, told.related, told.silent) == (4, 2, 1, 1)
    assert (told.first, told.right, told.healthy, told.alarmed) == (3, 2, 2, 1)
    assert told.as_text().endswith("1 with another fault got it first; of 2 healthy ones 1 got a warning of it.")
