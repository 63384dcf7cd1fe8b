"""The command: the demo, healthy and sick, and the catalogue."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from pathlib import Path

import pytest

from lightning_adam.cli import main
from lightning_adam.examples.char_gpt import CharGPT, encode, unigram_entropy
from tests.children import start

SUMMARY = ("val_loss", "unigram entropy", "tensorboard --logdir {}")
"""Losses, entropy, and the command that opens the logs."""


@pytest.mark.slow
def test_short_demo_ends_with_a_summary(tmp_path: Path) -> None:
    """And that the monitors had nothing to complain about; what is sick or interrupted ends so, too, by default."""
    told = start(tmp_path, "lightning_adam", "demo", "--steps", 30, "--logdir", tmp_path).output()

    for expected in ("nothing to complain about", *SUMMARY):
        assert expected.format(tmp_path) in told
    assert list(tmp_path.rglob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("sick", "rule"),
    [
        ("lr-high", "LR-HIGH"),
        pytest.param("nan", "NON-FINITE", marks=pytest.mark.slow),
        pytest.param("no-warmup", "NO-WARMUP", marks=pytest.mark.slow),
        pytest.param("bad-batch", "BAD-BATCH", marks=pytest.mark.slow),
    ],
)
def test_sick_demo_names_its_sickness(tmp_path: Path, sick: str, rule: str) -> None:
    """Each way to break the run gives the finding that is meant, first."""
    told = start(tmp_path, "lightning_adam", "demo", "--steps", 10, "--sick", sick, "--logdir", tmp_path).output()

    assert told.split("unigram entropy")[1].split("[")[1].startswith(rule)
    assert all(expected.format(tmp_path) in told for expected in SUMMARY)


def test_ctrl_c_stops_cleanly(tmp_path: Path) -> None:
    """SIGINT in mid-run: exit status 130, the summary, no traceback."""
    demo = start(tmp_path, "lightning_adam", "demo", "--logdir", tmp_path)
    deadline = time.monotonic() + 90
    while sum(file.stat().st_size for file in tmp_path.rglob("events.out.tfevents.*")) < 10_000:  # it has not logged yet
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert demo.process.pid is not None
    os.kill(demo.process.pid, signal.SIGINT)

    assert demo.ended(60) == 130, demo.err.read_text()
    assert "unigram entropy" in demo.out.read_text()
    assert "nothing to complain about" in demo.out.read_text()
    assert "Traceback" not in demo.err.read_text()


@pytest.mark.parametrize(
    "arguments",
    [("demo", "--optimizer", "adamww"), ("demo", "--sick", "flu"), ("demo", "--steps", "0")],
)
def test_wrong_argument_exits_with_two(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong argument is told in a line, without a traceback."""
    assert status(*arguments) == 2
    assert capsys.readouterr().err.startswith(("lightning-adam: ", "usage: "))


def status(*arguments: str) -> int | str | None:
    """With which the command ends; argparse exits by itself."""
    try:
        return main(arguments)
    except SystemExit as end:
        return end.code


def test_nearest_optimizer_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    """The message helps."""
    status("demo", "--optimizer", "adamww")
    assert "Did you mean 'adamw'?" in capsys.readouterr().err


def test_catalogue_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """``optimizers --json`` is for machines."""
    status("optimizers", "--json")

    assert {"adam", "adamw", "adamw8bit"} <= {row["name"] for row in json.loads(capsys.readouterr().out)}


def test_entropy_of_two_equally_frequent_characters() -> None:
    """ln 2 nats."""
    assert unigram_entropy("abab") == pytest.approx(math.log(2))


def test_text_is_encoded_by_character() -> None:
    """Newline is 0, printable ASCII follows, the rest is one code."""
    assert encode("\n a~é").tolist() == [0, 1, 66, 95, 96]


def test_model_has_about_a_million_parameters() -> None:
    """As the issue asks."""
    assert 0.9e6 < sum(p.numel() for p in CharGPT().parameters()) < 1.2e6


@pytest.mark.slow
def test_whole_demo_beats_the_unigram_entropy_by_far(tmp_path: Path) -> None:
    """The full demo learns far more than the frequencies of characters."""
    told = start(tmp_path, "lightning_adam", "demo", "--logdir", tmp_path).output()
    numbers = {line.split()[0]: float(line.split()[1]) for line in told.splitlines() if line.startswith("val_loss")}

    assert numbers["val_loss"] < 2.2
