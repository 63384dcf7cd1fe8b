"""The command: the demo, healthy and sick, and the catalogue."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lightning_adam.examples.char_gpt import CharGPT, encode, unigram_entropy

ROOT = Path(__file__).resolve().parents[1]


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run ``lightning-adam`` as a user does."""
    line = [sys.executable, "-m", "lightning_adam.cli", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, cwd=ROOT)


def test_short_demo_ends_with_a_summary(tmp_path: Path) -> None:
    """Losses, entropy, what the monitors saw, the logs, and the command that opens them."""
    run = command("demo", "--steps", 30, "--logdir", tmp_path)

    assert run.returncode == 0, run.stderr
    for expected in ("val_loss", "unigram entropy", "nothing to complain about", f"tensorboard --logdir {tmp_path}"):
        assert expected in run.stdout
    assert list(tmp_path.rglob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("sick", "rule"), [("nan", "NON-FINITE"), ("no-warmup", "NO-WARMUP"), ("lr-high", "LR-HIGH"), ("bad-batch", "BAD-BATCH")]
)
def test_sick_demo_names_its_sickness(tmp_path: Path, sick: str, rule: str) -> None:
    """Each way to break the run gives the finding that is meant, first."""
    run = command("demo", "--steps", 40, "--sick", sick, "--logdir", tmp_path)

    summary = run.stdout.split("unigram entropy")[1]
    assert run.returncode == 0, run.stderr
    assert summary.split("[")[1].startswith(rule)


def test_ctrl_c_stops_cleanly(tmp_path: Path) -> None:
    """SIGINT in mid-run: exit status 130, the summary, no traceback."""
    line = [sys.executable, "-m", "lightning_adam.cli", "demo", "--logdir", str(tmp_path)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # a shell starts what runs in the background with SIGINT ignored, and children inherit that
    process = subprocess.Popen(line, cwd=ROOT, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **pipes)
    deadline = time.monotonic() + 90
    while not list(tmp_path.rglob("events.out.tfevents.*")) and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(4)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 130, err
    assert "unigram entropy" in out
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [("demo", "--optimizer", "adamww"), ("demo", "--sick", "flu"), ("demo", "--steps", "0")],
)
def test_wrong_argument_exits_with_two(arguments: tuple[str, ...]) -> None:
    """A wrong argument is told in a line, without a traceback."""
    run = command(*arguments)

    assert run.returncode == 2
    assert "Traceback" not in run.stderr


def test_nearest_optimizer_is_suggested() -> None:
    """The message helps."""
    assert "Did you mean 'adamw'?" in command("demo", "--optimizer", "adamww").stderr


def test_catalogue_as_json() -> None:
    """``optimizers --json`` is for machines."""
    rows = json.loads(command("optimizers", "--json").stdout)

    assert {"adam", "adamw", "adamw8bit"} <= {row["name"] for row in rows}


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
    run = command("demo", "--logdir", tmp_path)
    numbers = {line.split()[0]: float(line.split()[1]) for line in run.stdout.splitlines() if line.startswith("val_loss")}

    assert numbers["val_loss"] < 2.2
