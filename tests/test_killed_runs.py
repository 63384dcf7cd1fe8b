"""A run that is ended from outside, at any moment: its records are whole, and it goes on from its last checkpoint."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_adam.diagnosis import StepSignals
from lightning_adam.doctor.evidence import recorded
from lightning_adam.doctor.sources import read_runs
from lightning_adam.monitoring.optimizer_diagnosis import STORED_EVERY

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


def recorded_steps(folder: Path) -> list[list[int]]:
    """Of each run's signals."""
    runs = [recorded(run, "adam") for run in read_runs(folder)]
    return [[record.step for record in records if isinstance(record, StepSignals)] for records in runs]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=lambda how: how.name)
@pytest.mark.parametrize("at", sorted(random.Random(16).sample(range(1, 180), 3)))
def test_run_ended_at_any_step_goes_on(how: signal.Signals, at: int, tmp_path: Path) -> None:
    """Its log has no damaged record; SIGTERM loses none, SIGKILL the last stretch; a second run reaches its last step."""
    child = begun(tmp_path, 10_000)
    reached = steps_until(child, at)
    child.send_signal(how)
    child.communicate(timeout=120)

    assert [note for run in read_runs(tmp_path) for note in run.notes if "damaged" in note] == []
    first = max((steps[-1] for steps in recorded_steps(tmp_path) if steps), default=-1)
    assert first >= (reached - 1 if how is signal.SIGTERM else reached - 1 - STORED_EVERY)
    assert resumed(tmp_path, at + 40) == f"ended {at + 40} []"
    assert [at + 39] == [steps[-1] for steps in recorded_steps(tmp_path)[1:]]
