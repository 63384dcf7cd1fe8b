"""What is damaged, foreign or cut off beside a log is a note: what the rest holds is judged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch.utils.tensorboard import SummaryWriter

from lightning_adam.diagnosis import StepSignals, encode
from lightning_adam.diagnosis.archive import FINDINGS_FILE, SIGNALS_FILE, Stretch, stretch_line
from lightning_adam.doctor import report
from lightning_adam.tensorboard import TensorBoardWriter
from tests.live_runs import Live, assert_as_live, beside_events, judged


def with_changed_finding(text: str, **changes: Any) -> str:
    """A findings.json whose first finding is another."""
    content = json.loads(text)
    content["findings"]["adam"][0] |= changes
    return json.dumps(content)


DAMAGE: dict[str, tuple[str, Callable[[str], str]]] = {
    "findings.json cut off": (FINDINGS_FILE, lambda text: text[: len(text) // 2]),
    "findings.json empty": (FINDINGS_FILE, lambda text: ""),
    "findings.json is a list": (FINDINGS_FILE, lambda text: "[1, 2]"),
    "findings.json of next year": (FINDINGS_FILE, lambda text: text.replace('"version": 1', '"version": 2')),
    "findings.json is deep": (FINDINGS_FILE, lambda text: "[" * 200_000),
    "a finding of no severity": (FINDINGS_FILE, lambda text: with_changed_finding(text, severity="deadly")),
    "a finding whose evidence is a list": (FINDINGS_FILE, lambda text: with_changed_finding(text, evidence=["a"])),
    "a finding that is never": (FINDINGS_FILE, lambda text: with_changed_finding(text, step="soon", last_step="later")),
    "last line cut off": (SIGNALS_FILE, lambda text: text + text[:50]),
    "an empty object": (SIGNALS_FILE, lambda text: "{}\n" + text),
    "a number": (SIGNALS_FILE, lambda text: "7\n" + text),
    "a deep line": (SIGNALS_FILE, lambda text: "[" * 200_000 + "\n" + text),
    "a stretch that is none": (SIGNALS_FILE, lambda text: text + stretch_line(Stretch("adam", 200, b"nonsense"))),
}


def test_finding_of_a_newer_version_is_read(tmp_path: Path, sick: Live) -> None:
    """A field that this version does not know is no damage."""
    sick.leave(tmp_path)
    (tmp_path / FINDINGS_FILE).write_text(with_changed_finding((tmp_path / FINDINGS_FILE).read_text(), mood="bad"))
    run = judged(tmp_path)

    assert_as_live(run, sick)
    assert not run.notes


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_a_note(tmp_path: Path, sick: Live, damage: str) -> None:
    """One file or line that cannot be read is said; what the others hold is judged."""
    name, spoil = DAMAGE[damage]
    sick.leave(tmp_path)
    (tmp_path / name).write_text(spoil((tmp_path / name).read_text()))
    run = judged(tmp_path)

    assert_as_live(run, sick)
    assert len(run.notes) == 1
    assert "damaged" in run.notes[0]


def test_findings_of_another_tool_are_not_ours(tmp_path: Path, calm: Live) -> None:
    """Others call their files findings.json, too: a note, and nothing against the run."""
    calm.leave(tmp_path)
    (tmp_path / FINDINGS_FILE).write_text('{"findings": [{"rule": "S105", "severity": "critical"}]}')
    run = judged(tmp_path)

    assert (run.findings, len(run.notes)) == ((), 1)


HOSTILE: dict[str, Callable[[Path], Any]] = {
    "pipe as a table": lambda folder: os.mkfifo(folder / "x.csv"),
    "pipe as events": lambda folder: os.mkfifo(folder / "events.out.tfevents.1"),
    "pipe as findings": lambda folder: os.mkfifo(folder / FINDINGS_FILE),
    "device as W&B's": lambda folder: (folder / "run-1.wandb").symlink_to("/dev/zero"),
    "deep history": lambda folder: (folder / "h.json").write_text('[{"_step":1,"x":' + "[" * 200_000),
    "steps beyond numbers": lambda folder: (folder / "metrics.csv").write_text("step,train_loss\n1e19,1\n-1e19,2\n"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_log_does_not_stop_the_doctor(tmp_path: Path, calm: Live, kind: str) -> None:
    """Pipes and devices are left alone, which is a note, and numbers that are none passed over: the run beside is judged."""
    calm.leave(tmp_path / "run")
    (tmp_path / "strange").mkdir()
    HOSTILE[kind](tmp_path / "strange")

    run, *others = sorted(report(tmp_path).runs, key=lambda run: run.name)
    assert run.name == "run" and run.healthy and run.notes == ()
    assert all(len(other.notes) == 1 and other.findings == () for other in others)


def test_findings_that_a_damaged_file_has_are_not_denied(tmp_path: Path, sick: Live) -> None:
    """findings.json is cut off and nothing else is there: that it had findings is known, and no more."""
    sick.leave(tmp_path, signals=False)
    text = (tmp_path / FINDINGS_FILE).read_text()
    (tmp_path / FINDINGS_FILE).write_text(text[: text.index('"rule"') + 60])
    (finding,) = judged(tmp_path).findings

    assert (finding.rule, finding.severity) == ("FINDINGS-UNREAD", "warning")
    assert "1 finding in it cannot be read" in finding.message


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_event_file_that_is_cut_off_is_made_up_for(tmp_path: Path, sick: Live, share: float) -> None:
    """The same signals lie beside it as lines: what holds more of them is replayed."""
    beside_events(tmp_path, sick)
    (events,) = tmp_path.rglob("*tfevents*")
    events.write_bytes(events.read_bytes()[: int(share * events.stat().st_size)])
    run = judged(tmp_path)

    assert_as_live(run, sick)
    assert run.basis == "the recorded signals of 180 steps"


@pytest.mark.parametrize(
    ("log", "rule"), [("events", "NON-FINITE"), ("stretch", "FINDINGS-UNREAD"), ("line", "FINDINGS-UNREAD")]
)
def test_sickness_of_a_damaged_stretch_is_not_forgotten(tmp_path: Path, sick: Live, log: str, rule: str) -> None:
    """The signals of the NaN are lost between others: an event file has the finding still, a table only its count."""
    first, middle, last = sick.stretches
    recovered = last._replace(payload=encode([StepSignals(step, loss=0.1) for step in range(171, 180)]))
    damaged = replace(sick, stretches=[first, middle._replace(payload=b"nonsense"), recovered])
    if log == "events":
        writer = SummaryWriter(tmp_path)
        for stretch in damaged.stretches:
            TensorBoardWriter(writer).write_signals(stretch.step, stretch.payload)
        TensorBoardWriter(writer).write_events(170, [sick.told[1]])
        writer.close()
    else:
        damaged.leave(tmp_path, findings=False)
        (tmp_path / "metrics.csv").write_text("step,adam/findings_total\n170,2\n")
    if log == "line":
        lines = (tmp_path / SIGNALS_FILE).read_text().splitlines()
        (tmp_path / SIGNALS_FILE).write_text("\n".join((lines[0], lines[1][:-9], lines[2])))

    assert {finding.rule for finding in judged(tmp_path).findings} == {"LR-HIGH", rule}
