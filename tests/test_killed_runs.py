"""A run that is ended from outside, at any moment: its records are whole, and it goes on from its last checkpoint."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_adam as la
from lightning_adam.doctor.sources import read_runs
from tests.digits import Digits, digits_loader, trainer

RUN = [sys.executable, "-W", "ignore", "-m", "tests.run_killed"]
pytestmark = pytest.mark.slow


def begun(folder: Path, last_step: int) -> subprocess.Popen[str]:
    """A child that trains."""
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*RUN, str(folder), str(last_step)], stdout=subprocess.PIPE, text=True, env=alone)


def steps_until(child: subprocess.Popen[str], step: int) -> int:
    """Wait until it has taken that step."""
    assert child.stdout is not None
    return next(int(line) for line in child.stdout if line.strip().isdigit() and int(line) >= step)


def resumed(folder: Path, last_step: int) -> str:
    """What a second child says in the end."""
    return begun(folder, last_step).communicate(timeout=300)[0].splitlines()[-1]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=lambda how: how.name)
@pytest.mark.parametrize("at", sorted(random.Random(16).sample(range(1, 180), 3)))
def test_run_ended_at_any_step_goes_on(how: signal.Signals, at: int, tmp_path: Path) -> None:
    """The log of the first part has no damaged record; the second reaches its last step, and no monitor fails."""
    child = begun(tmp_path, 10_000)
    reached = steps_until(child, at)
    child.send_signal(how)
    child.communicate(timeout=120)
    first = la.report(tmp_path)

    assert [note for run in first.runs for note in run.notes if "damaged" in note] == []
    assert how is signal.SIGKILL or [run.last_step >= reached - 1 for run in first.runs] == [True]
    assert resumed(tmp_path, at + 40) == f"ended {at + 40} []"
    assert max(run.last_step for run in la.report(tmp_path).runs) == at + 39
