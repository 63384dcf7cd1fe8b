"""SLURM ends a job and queues it again: whatever it was doing, its records are whole and it goes on as if nothing was."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_adam.diagnosis import StepSignals
from lightning_adam.doctor.evidence import recorded
from lightning_adam.doctor.sources import read_runs
from tests.children import start
from tests.run_requeued import ENDED, LAST, WARNED

PLACES = ("the backward", "before the step", "after the step", "a write to the log", "the batch's end")
JOB = {"JOB_ID": "4711", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0", "JOB_NAME": "train"}


def as_job(folder: Path) -> dict[str, str]:
    """The environment of a SLURM job, with a ``scontrol`` that writes down what it is asked for."""
    (folder / "bin").mkdir(exist_ok=True)
    stub = folder / "bin" / "scontrol"
    stub.write_text(f'#!/bin/sh\necho "$@" >> "{folder}/asked"\n')
    stub.chmod(0o755)
    slurm = {f"SLURM_{name}": value for name, value in JOB.items()}
    return {**slurm, "PATH": f"{stub.parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


def begun(folder: Path) -> subprocess.Popen[str]:
    """A job in an interpreter of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.run_requeued", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **as_job(folder)})


def said_last(child: subprocess.Popen[str]) -> str:
    """Its last line; a child that waits for itself is ended, and the test with it."""
    try:
        return child.communicate(timeout=300)[0].splitlines()[-1]
    finally:
        child.kill()


def recorded_steps(folder: Path) -> list[list[int]]:
    """Of each job's signals, none of which may be damaged."""
    runs = read_runs(folder)
    assert [note for run in runs for note in run.notes] == []
    records = [recorded(run, "adam") for run in runs]
    return [[record.step for record in several if isinstance(record, StepSignals)] for several in records]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """One of each place, and what they say."""
    folder = tmp_path_factory.mktemp("jobs")
    child = start(folder, "tests.run_requeued", folder, *PLACES, **as_job(folder))
    child.ended()
    return folder, child.out.read_text().splitlines()


@pytest.mark.parametrize("place", PLACES)
def test_requeued_wherever_the_signal_comes(jobs: tuple[Path, list[str]], place: str) -> None:
    """The checkpoint knows all steps up to the signal, the log all that were taken, and the second job finds nothing.

    Lightning takes a checkpoint of mid-step for one of its end, and begins its own x-axis one step later.
    """
    folder, lines = jobs
    checkpoint = torch.load(folder / place / "hpc_ckpt_1.ckpt", weights_only=True)
    kept, saved = checkpoint["callbacks"]["DivergenceMonitor"], checkpoint["global_step"]
    first, second = recorded_steps(folder / place)

    assert saved == WARNED and len(kept["diagnoses"][0]["history"]["losses"]) == saved
    assert first == list(range(ENDED))
    assert second[0] - saved in (0, 1) and second == list(range(second[0], second[0] + LAST - saved))
    assert f"{place}: ended {LAST} [] []" in lines


def test_every_job_is_requeued_once(jobs: tuple[Path, list[str]]) -> None:
    """By Lightning's own handler, which a monitor at work only makes wait."""
    assert (jobs[0] / "asked").read_text().splitlines() == ["requeue 4711"] * len(PLACES)


@pytest.mark.slow
@pytest.mark.parametrize("at", sorted(random.Random(5).sample(range(1, 100), 3)))
def test_requeued_from_outside(at: int, tmp_path: Path) -> None:
    """The signals come at any moment between two lines of Python."""
    child = begun(tmp_path)
    assert child.stdout is not None
    steps = (int(line) for line in child.stdout if line.strip().isdigit())
    assert any(step >= at for step in steps)
    child.send_signal(signal.SIGUSR1)
    assert any(step >= at + 10 for step in steps)
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=120)

    assert (tmp_path / "asked").read_text().splitlines() == ["requeue 4711"]
    assert said_last(begun(tmp_path)) == f"{tmp_path.name}: ended 200 [] []"
    first, second = recorded_steps(tmp_path)
    assert first == list(range(len(first))) and second[-1] == 199
