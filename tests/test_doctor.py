"""The doctor: from the log alone to what is wrong, in every form, and never a traceback."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

from lightning_adam.callbacks import DivergenceMonitor, OptimizerMonitor
from lightning_adam.cli import main
from lightning_adam.doctor import Report, UnusableLog, report
from lightning_adam.tensorboard import TensorBoardWriter
from lightning_adam.tensorboard.writer import matrix_row, scalar
from tests.digits import Digits
from tests.doctor_runs import Plain, event_run, falling, finding_event, train


def rules(found: Report) -> list[str]:
    """The codes, in order."""
    return [finding.rule for _, finding in found.findings]


def test_plain_lightning_log_is_judged(tmp_path: Path) -> None:
    """Loss, learning rate and gradient norm are known by their usual names; the NaN is found where it was logged."""
    logger = TensorBoardLogger(tmp_path, name="plain", version=0)
    train(Plain(poison=(34,)), logger, [LearningRateMonitor()])
    (run,) = report(tmp_path).runs

    assert run.findings[0].rule == "NON-FINITE"
    assert run.findings[0].step == 34
    assert [curve.tag for curve in run.curves] == ["train_loss", "lr/decay", "grad_norm"]


def test_what_a_plain_log_cannot_tell_is_said(tmp_path: Path) -> None:
    """Only a loss: the rules that need more are named, with what to turn on."""
    (run,) = report(event_run(tmp_path, falling())).runs
    unjudged = {rule: gap for gap in run.gaps for rule in gap.rules}

    assert run.findings == ()
    assert "LR-HIGH" in unjudged
    assert "LOSS-DIVERGED" not in unjudged
    assert "DivergenceMonitor()" in unjudged["LR-HIGH"].remedy


def test_csv_log_is_judged_as_the_event_file(tmp_path: Path) -> None:
    """The same run logged by CSVLogger gives the same findings."""
    loggers = [
        TensorBoardLogger(tmp_path / "tb", name="", version="run"),
        CSVLogger(tmp_path / "csv", name="", version="run"),
    ]
    train(Plain(poison=(34,)), loggers, [])
    events, table = report(tmp_path / "tb"), report(tmp_path / "csv")

    assert rules(table) == rules(events) != []
    assert [f.step for _, f in table.findings] == [f.step for _, f in events.findings]


HISTORY: list[dict[str, Any]] = [
    {"_step": step, "_runtime": 0.1, "train/loss": value, "note": "text", "epoch": 0}
    for step, value in enumerate([*falling(), "NaN", "NaN"])
]


@pytest.mark.parametrize("form", ["csv", "json", "jsonl", "columns.json"])
def test_wandb_export_is_judged(tmp_path: Path, form: str) -> None:
    """run.history() as CSV, a JSON list, JSON lines, or DataFrame.to_json()'s columns."""
    place = tmp_path / f"history.{form}"
    if form == "csv":
        with place.open("w", newline="") as file:
            table = csv.DictWriter(file, HISTORY[0])
            table.writeheader()
            table.writerows(HISTORY)
    elif form == "jsonl":
        place.write_text("\n".join(json.dumps(row) for row in HISTORY) + '\n{"_step": 99, "tr')
    else:
        columns = {key: {str(i): row[key] for i, row in enumerate(HISTORY)} for key in HISTORY[0]}
        place.write_text(json.dumps(columns if form == "columns.json" else HISTORY))

    for asked in (tmp_path, place):
        assert [(f.rule, f.step) for _, f in report(asked).findings][:1] == [("NON-FINITE", 60)]


def test_wandb_chart_export_holds_several_runs(tmp_path: Path) -> None:
    """The columns "<run> - <metric>" are one run each; minimum and maximum beside them are none."""
    rows = ['"Step","calm - 1 - loss","calm - 1 - loss__MIN","ill - loss"']
    rows += [f'"{step}","{value}","{value}","{value if step < 50 else "NaN"}"' for step, value in enumerate(falling())]
    (tmp_path / "chart.csv").write_text("\n".join(rows))
    found = report(tmp_path / "chart.csv")

    assert [(run.name, [f.rule for f in run.findings]) for run in found.runs] == [
        ("chart/ill", ["NON-FINITE"]),
        ("chart/calm - 1", []),
    ]


def test_runs_are_ranked_by_trouble(tmp_path: Path) -> None:
    """Critical first, then warnings, then the healthy by name."""
    event_run(tmp_path / "b-healthy", falling())
    event_run(tmp_path / "a-healthy", falling())
    finding_event(tmp_path / "z-warned", severity="warning")
    finding_event(tmp_path / "z-broken")

    assert [run.name for run in report(tmp_path).runs] == ["z-broken", "z-warned", "a-healthy", "b-healthy"]


@pytest.mark.parametrize(
    ("severity", "fail_on", "status"),
    [
        ("critical", "critical", 1),
        ("warning", "critical", 0),
        ("warning", None, 1),
        ("info", None, 0),
        ("info", "info", 1),
    ],
)
def test_exit_status_follows_fail_on(tmp_path: Path, severity: str, fail_on: str | None, status: int) -> None:
    """0 healthy, 1 where a finding is at least as severe as --fail-on, which is warning by default."""
    options = ["--fail-on", fail_on] if fail_on else []

    assert main(["doctor", str(finding_event(tmp_path, severity=severity)), *options]) == status


def test_healthy_run_exits_with_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And says so."""
    assert main(["doctor", str(event_run(tmp_path, falling()))]) == 0
    assert "no findings" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda place: None, "does not exist"),
        (lambda place: place.mkdir(), "no event files"),
        (lambda place: place.write_text("hello"), "not one number"),
        (lambda place: SummaryWriter(place).close(), "not one number"),
        (lambda place: (place.mkdir(), (place / "events.out.tfevents.1").symlink_to("gone")), "could not be read"),
        (lambda place: (place.mkdir(), (place / "metrics.csv").write_text("a,b\n1,2")), "no column is named"),
        (lambda place: (place.mkdir(), (place / "h.json").write_text('{"_step": [1, 2')), "could not be read"),
        (lambda place: (place.mkdir(), (place / "metrics.csv").write_bytes(b"\xff\xfe\0\0step\0")), "not one number"),
    ],
)
def test_unusable_input_exits_with_two(tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any, said: str) -> None:
    """The message names the place and what is wrong with it; no traceback."""
    place = tmp_path / "logs"
    make(place)

    assert main(["doctor", str(place)]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert str(place) in told


def test_unusable_input_raises_in_python(tmp_path: Path) -> None:
    """la.report says the same as an exception."""
    with pytest.raises(UnusableLog, match="does not exist"):
        report(tmp_path / "nowhere")


def test_run_without_anything_known_is_reported(tmp_path: Path) -> None:
    """Scalars of which none is a loss, a rate or a norm: nothing is judged, and that is said."""
    (run,) = report(event_run(tmp_path, falling(), "temperature")).runs

    assert run.findings == ()
    assert {"training loss", "gradient norm"} <= {gap.missing for gap in run.gaps}


@pytest.mark.parametrize(
    "changes",
    [
        {"severity": "deadly"},
        {"step": "soon"},
        {"last_step": "later"},
        {"evidence": [1]},
        {"parameters": None},
        {"changes": [1]},
        {"optimizer": 7},
        {"rule": 7},
    ],
)
def test_damaged_finding_is_passed_over(tmp_path: Path, changes: dict[str, Any]) -> None:
    """What is not a finding is noted, not believed."""
    (run,) = report(finding_event(tmp_path, **changes)).runs

    assert run.findings == ()
    assert "damaged" in run.notes[0]


def test_a_suspicion_that_the_loss_confirmed_is_one_finding(tmp_path: Path) -> None:
    """Without records: of what was told twice, as information and then as a warning, the last telling counts."""
    folder = finding_event(tmp_path, severity="info", rule="LR-HIGH")
    with SummaryWriter(folder, filename_suffix=".more") as files:
        TensorBoardWriter(files).write_events(
            9, [{"rule": "LR-HIGH", "severity": "warning", "step": 3, "message": "Again."}]
        )
    (run,) = report(folder).runs

    assert [(f.rule, f.severity, f.message) for f in run.findings] == [("LR-HIGH", "warning", "Again.")]


def test_finding_of_a_newer_version_is_read(tmp_path: Path) -> None:
    """A field that this version does not know takes nothing from the others."""
    (run,) = report(finding_event(tmp_path, unheard=1)).runs

    assert len(run.findings) == 1
    assert run.notes == ()


def test_optimizer_monitor_alone_shows_update_ratios(tmp_path: Path) -> None:
    """Without DivergenceMonitor its series still judge the size of the steps."""
    train(Plain(lr=0.3), TensorBoardLogger(tmp_path, name="", version="run"), [OptimizerMonitor(every_n_steps=5)])
    (run,) = report(tmp_path).runs

    assert run.findings[0].rule in ("LR-HIGH", "NO-WARMUP")
    assert "adam_matrix/update_ratio" in run.basis


def test_sparse_log_keeps_the_rules_clock(tmp_path: Path) -> None:
    """Logged at every 50th step, a large ratio at step 150 is no early step: LR-HIGH, and not NO-WARMUP."""
    writer = SummaryWriter(tmp_path)
    for step in range(49, 1000, 50):
        row = matrix_row("adam_matrix/update_ratio", np.array([0.3 if step > 100 else 2e-3], "f4"), ["net.weight"])
        TensorBoardWriter(writer)._add(step, [row, scalar("adam/log10_lr", -3.0), scalar("train_loss", 1.0)])
    writer.close()
    (run,) = report(tmp_path).runs

    assert [(finding.rule, finding.step) for finding in run.findings] == [("LR-HIGH", 199)]
    assert "50 steps apart" in run.basis
    assert "NO-WARMUP" in [rule for gap in run.gaps for rule in gap.rules]


def test_configuration_is_read_from_the_log(tmp_path: Path) -> None:
    """β₁ ≥ √β₂ is told from the table that OptimizerMonitor wrote, although the first step was not logged."""
    train(Plain(betas=(0.9, 0.5)), TensorBoardLogger(tmp_path, name="", version="run"), [OptimizerMonitor()])

    assert ("BETA2-LOW", 0) in [(finding.rule, finding.step) for _, finding in report(tmp_path).findings]


def test_ring_buffer_of_the_monitor_is_no_run(tmp_path: Path) -> None:
    """DivergenceMonitor leaves adam_last_steps_40.json beside the event file: it is not taken for a WandB history."""
    train(Digits(poison=(40,)), TensorBoardLogger(tmp_path, name="", version="run"), [DivergenceMonitor()])

    assert list(tmp_path.rglob("*_last_steps_*.json"))
    assert [run.name for run in report(tmp_path).runs] == ["run"]


def test_one_file_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event file from within its folder: the run is called like the folder."""
    monkeypatch.chdir(event_run(tmp_path / "run_7", falling()))

    assert [run.name for run in report(next(Path().glob("*tfevents*"))).runs] == ["run_7"]


def test_summaries_of_wandb_are_no_runs(tmp_path: Path) -> None:
    """WandbLogger's folder has last values with a _step; they are not a history."""
    event_run(tmp_path / "run", falling())
    (tmp_path / "wandb-summary.json").write_text('{"_step": 499, "loss": 1.0}')

    assert [run.name for run in report(tmp_path).runs] == ["run"]
