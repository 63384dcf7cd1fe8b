"""The doctor: from the log alone to what is wrong, in every form, and never a traceback."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from lightning_adam.callbacks import DivergenceMonitor, OptimizerMonitor
from lightning_adam.cli import main
from lightning_adam.diagnosis import Diagnosis, HeavySignals, NonFinite, RunSignals, StepSignals, encode
from lightning_adam.diagnosis.finding import as_told
from lightning_adam.doctor import Report, UnusableLog, report
from lightning_adam.doctor.plots import thin
from lightning_adam.tensorboard import TensorBoardWriter
from lightning_adam.tensorboard.writer import matrix_row, scalar
from tests.benchmarks.divergence import running
from tests.benchmarks.divergence.healthy import HEALTHY
from tests.benchmarks.divergence.sick import SICK
from tests.digits import Digits, digits_loader, trainer

SCRIPT = "<script>alert(1)</script>"


class Plain(Digits):
    """Logs as people do: the loss, and the total gradient norm."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Log it."""
        loss = super().training_step(batch, batch_idx)
        self.log("train_loss", loss)
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Before clipping."""
        self.log("grad_norm", torch.nn.utils.get_total_norm([p.grad for p in self.parameters() if p.grad is not None]))


def train(module: Digits, logger: Any, callbacks: list[Any], **options: Any) -> None:
    """A real run that logs at every fifth step."""
    defaults = {"max_steps": 60, "log_every_n_steps": 5, "logger": logger, "callbacks": callbacks}
    trainer(**{**defaults, **options}).fit(module, digits_loader())


def event_run(folder: Path, loss: list[float], tag: str = "train_loss") -> Path:
    """A run that only has a loss, in an event file."""
    writer = SummaryWriter(folder)
    for step, value in enumerate(loss):
        writer.add_scalar(tag, value, step)
    writer.close()
    return folder


def finding_event(folder: Path, **changes: Any) -> Path:
    """A run with one finding that the live monitor wrote."""
    stored = {
        "rule": "NON-FINITE",
        "severity": "critical",
        "step": 3,
        "message": "the loss became NaN.",
        "evidence": {"loss": math.nan, "first": "loss"},
        "parameters": ["w"],
        "remedy": "Look at the batch.",
    }
    writer = SummaryWriter(folder)
    for at, value in enumerate(falling(10)):
        writer.add_scalar("train_loss", value, at)
    TensorBoardWriter(writer).write_events(3, [stored | changes])
    writer.close()
    return folder


def falling(count: int = 60) -> list[float]:
    """A healthy loss."""
    return [2.3 * math.exp(-step / 30) + 0.1 for step in range(count)]


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


STRANGE: dict[str, list[float]] = {
    "one step": [1.0],
    "two equal": [1.0, 1.0],
    "all NaN": [math.nan] * 40,
    "one NaN": [math.nan],
    "infinite": [1.0, math.inf, -math.inf, 2.0],
    "zeros": [0.0] * 100,
    "negative": [-1.0 - step for step in range(100)],
    "huge": [1e38, -1e38, 3e38],
    "tiny": [1e-45] * 50,
}


@pytest.mark.parametrize("form", ["text", "json", "markdown", "html"])
@pytest.mark.parametrize("loss", STRANGE.values(), ids=STRANGE)
def test_strange_numbers_give_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loss: list[float], form: str
) -> None:
    """Every form, whatever the loss was."""
    assert main(["doctor", str(event_run(tmp_path, loss)), "--format", form]) in (0, 1)
    assert "train_loss" in capsys.readouterr().out


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


def test_json_is_valid(tmp_path: Path) -> None:
    """Strict parsers accept it: NaN is a string."""

    def refuse(word: str) -> None:
        raise AssertionError(word)

    content = json.loads(report(finding_event(tmp_path)).to_json(), parse_constant=refuse)

    (run,) = content["runs"]
    assert run["findings"][0]["evidence"] == {"loss": "NaN", "first": "loss"}
    assert run["worst"] == "critical"


def test_page_shows_foreign_text_as_text(tmp_path: Path) -> None:
    """A script in a run's name, a tag, a message, a parameter or the evidence is not a script in the page."""
    place = tmp_path / f"run {SCRIPT.replace('/', '∕')}"
    texts = {"message": SCRIPT, "remedy": SCRIPT, "parameters": [SCRIPT], "evidence": {SCRIPT: SCRIPT}, "rule": SCRIPT}
    finding_event(place, **texts)
    event_run(place, falling(), f"train_loss{SCRIPT}")
    for page in (report(tmp_path).to_html(), report(tmp_path)._repr_html_(), report(tmp_path).to_markdown()):
        assert "<script" not in page
        assert page.count("&lt;script&gt;") >= 5


def test_terminal_shows_foreign_text_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither escape codes (that clear the screen) nor rich's markup of a log reach the terminal."""
    evil = "\x1b[2J[red]x[/blue]\x9b\x07"
    texts = dict.fromkeys(("message", "remedy", "rule", "optimizer"), evil)
    finding_event(tmp_path / "[bold]run", **texts, parameters=[evil, evil], evidence={evil: evil})
    finding_event(tmp_path / "other")
    main(["doctor", str(tmp_path)])
    shown = capsys.readouterr().out

    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown)
    assert "[bold]run" in shown
    assert shown.count("[2J[red]x[/blue]") >= 5


def test_page_loads_nothing(tmp_path: Path) -> None:
    """No address, no script, no picture from elsewhere; both colour schemes are inside."""
    page = report(finding_event(tmp_path)).to_html()

    assert not re.search(r"https?:|src=|url\(|@import|<link|<script", page)
    assert "prefers-color-scheme:dark" in page
    assert page.count('class="la-chart"') == 1


def test_page_marks_the_findings(tmp_path: Path) -> None:
    """Each curve has a mark at the finding's step, with its text behind it."""
    page = report(finding_event(tmp_path)).to_html()

    (mark,) = re.findall(r'<g class="la-mark la-critical"><title>(.*?)</title><line x1="([\d.]+)"', page)
    assert mark[0] == "NON-FINITE, step 3: the loss became NaN."
    assert float(mark[1]) == pytest.approx(64 + (860 - 64 - 14) * 3 / 9, abs=0.06)


def test_thinned_curve_keeps_its_spikes() -> None:
    """100,000 points become a few hundred, the single highest and lowest among them."""
    values = np.random.default_rng(0).standard_normal(100_000)
    values[[777, 50_001]] = 1e6, -1e6
    kept = thin(values, 700)

    assert len(kept) <= 702
    assert {0, 777, 50_001, 99_999} <= set(kept.tolist())


def test_output_goes_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--output makes the folder, and standard output stays empty for pipes."""
    place = tmp_path / "new/report.html"

    assert main(["doctor", str(finding_event(tmp_path / "run")), "--format", "html", "--output", str(place)]) == 1
    assert place.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert capsys.readouterr().out == ""


def test_output_that_cannot_be_written_exits_with_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file where a folder should be."""
    (tmp_path / "file").write_text("")
    status = main(["doctor", str(finding_event(tmp_path / "run")), "--output", str(tmp_path / "file/report.txt")])

    assert status == 2
    assert "--output" in capsys.readouterr().err


def test_colour_is_for_terminals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No escape codes in a pipe, and some where rich is told that it is a terminal."""
    finding_event(tmp_path)
    main(["doctor", str(tmp_path)])
    assert "\x1b" not in capsys.readouterr().out
    monkeypatch.setenv("FORCE_COLOR", "1")
    main(["doctor", str(tmp_path)])
    assert "\x1b" in capsys.readouterr().out


def test_report_reads_as_text_and_as_a_page(tmp_path: Path) -> None:
    """In a console and in a notebook: message, evidence and remedy are there."""
    found = report(finding_event(tmp_path))

    for shown in (repr(found), found._repr_html_(), found.to_markdown()):
        for part in ("NON-FINITE", "the loss became NaN.", "Look at the batch.", "loss nan"):
            assert part in shown


def test_findings_as_a_data_frame(tmp_path: Path) -> None:
    """One row per finding, with its run."""
    pytest.importorskip("pandas")
    frame = report(finding_event(tmp_path / "run")).to_dataframe()

    assert frame[["run", "rule", "step"]].values.tolist() == [["run", "NON-FINITE", 3]]
    assert report(event_run(tmp_path / "calm", falling())).to_dataframe().empty


def test_data_frame_without_pandas_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clear error, and where the findings are without it."""
    monkeypatch.setitem(sys.modules, "pandas", None)

    with pytest.raises(ImportError, match="pip install pandas"):
        report(event_run(tmp_path, falling())).to_dataframe()


def test_optimizer_monitor_alone_shows_update_ratios(tmp_path: Path) -> None:
    """Without DivergenceMonitor its series still judge the size of the steps."""
    train(Plain(lr=0.3), TensorBoardLogger(tmp_path, name="", version="run"), [OptimizerMonitor(every_n_steps=5)])
    (run,) = report(tmp_path).runs

    assert run.findings[0].rule in ("LR-HIGH", "NO-WARMUP")
    assert "adam_matrix/update_ratio" in run.basis


RUN = RunSignals(optimizer="AdamW", beta1=0.9, beta2=0.999, eps=1e-8, smallest_eps=1e-8, plain_moments=True, total_steps=200)


def signals(step: int, **changes: Any) -> StepSignals:
    """A healthy step, with changes."""
    heavy = HeavySignals(update_ratio_p50=2e-3, update_ratio_max=5e-3, update_ratio_max_in="w", surprise_max=1.5)
    usual = {"loss": 2.3 * math.exp(-step / 60), "gradient_norm": 1.0, "lr": 1e-3, "beta1": 0.9, "beta2": 0.999}
    return StepSignals(step, **{**usual, "heavy": heavy if step % 10 == 0 else None, **changes})


def recorded_run(folder: Path, stretches: list[list[Any]], later: str = "") -> Path:
    """An event file with recorded signals, a stretch per event, as DivergenceMonitor writes them."""
    writer = SummaryWriter(folder, filename_suffix=later)
    for stretch in stretches:
        TensorBoardWriter(writer).write_signals(stretch[-1].step, encode(stretch))
    writer.close()
    return folder


def live(records: list[Any]) -> list[Any]:
    """What a monitor that saw these records told."""
    diagnosis = Diagnosis(records[0])
    for record in records[1:]:
        diagnosis.observe(record)
    return [as_told(finding) for finding in diagnosis.findings]


def test_recorded_signals_are_replayed(tmp_path: Path) -> None:
    """A spike at step 90 and a NaN at step 150: the same findings, evidence and remedies as live, from the file alone."""
    steps = [signals(step) for step in range(200)]
    steps[90] = signals(90, gradient_norm=900.0, loss=50.0, batch=90)
    steps[150:] = [signals(s, loss=math.nan, gradient_norm=math.nan, non_finite=NonFinite("loss")) for s in range(150, 200)]
    (run,) = report(recorded_run(tmp_path, [[RUN, *steps[:120]], steps[120:]])).runs

    assert [finding.rule for finding in run.findings] == ["BAD-BATCH", "NON-FINITE"]
    np.testing.assert_equal([f.to_dict() for f in run.findings], [f.to_dict() for f in live([RUN, *steps])])
    assert run.gaps == ()
    assert run.basis == "the recorded signals of 200 steps"


def test_recorded_curves_have_every_step(tmp_path: Path) -> None:
    """The spike between two logged steps is in the picture; where the loss was not finite, the curve is NaN."""
    steps = [signals(step) for step in range(50)]
    steps[33] = signals(33, loss=70.0)
    steps[49] = signals(49, loss=math.nan, non_finite=NonFinite("loss"))
    (run,) = report(recorded_run(tmp_path, [[RUN, *steps]])).runs
    loss = next(curve for curve in run.curves if curve.title == "loss")

    assert loss.steps.tolist() == list(range(50))
    assert loss.values[33] == 70.0
    assert math.isnan(loss.values[49])


def test_resumed_records_go_on_where_the_checkpoint_was(tmp_path: Path) -> None:
    """The first part ran to step 99, the second goes on at step 80 with the state of that checkpoint: 80-99 count once."""
    steps = [signals(step) for step in range(160)]
    steps[60] = signals(60, gradient_norm=900.0, loss=50.0)
    abandoned = [signals(s, loss=math.nan, non_finite=NonFinite("loss")) if s == 95 else signals(s) for s in range(80, 100)]
    half = Diagnosis(RUN)
    for step in steps[:80]:
        half.observe(step)
    rest = RunSignals(**{**vars(RUN), "first_step": 80, "state": json.loads(json.dumps(half.state_dict()))})
    recorded_run(tmp_path, [[RUN, *steps[:80]], abandoned], ".a")
    next(tmp_path.glob("*tfevents*")).rename(tmp_path / "events.out.tfevents.1000000000.host")
    recorded_run(tmp_path, [[rest, *steps[80:]]], ".b")
    (run,) = report(tmp_path).runs

    assert [f.to_dict() for f in run.findings] == [f.to_dict() for f in live([rest, *steps[80:]])]
    assert [f.rule for f in run.findings] == ["BAD-BATCH"]
    assert run.curves[0].steps.tolist() == list(range(160))


@pytest.mark.parametrize("stored", [b"", b"{}", b"x\x9c nonsense", encode([RUN])[:-9]])
def test_damaged_records_are_noted(tmp_path: Path, stored: bytes) -> None:
    """A stretch that cannot be decoded is left out; the others are judged."""
    recorded_run(tmp_path, [[RUN, signals(0)]])
    writer = SummaryWriter(tmp_path, filename_suffix=".b")
    TensorBoardWriter(writer).write_signals(9, stored)
    writer.close()
    (run,) = report(tmp_path).runs

    assert "damaged" in run.notes[0]
    assert run.basis == "the recorded signals of 1 step"


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


AGREEING = (
    "resumed",
    "lr-high-digits",
    "lr-high-gan",
    "no-warmup-cnn",
    "bad-batch",
    "nan-gradient",
    "v-lost",
    "resume-lost",
    "fp16-overflow",
    "not-zeroed",
)


@pytest.mark.parametrize("name", AGREEING)
def test_doctor_finds_what_the_live_monitor_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The benchmark's scenario through a real Trainer with a TensorBoardLogger: the log alone gives the same findings."""
    scenario = next(s for s in (*HEALTHY, *SICK) if s.name == name)
    bare = running._trainer

    def with_logger(*arguments: Any) -> Any:
        made = bare(*arguments)
        made.logger = TensorBoardLogger(tmp_path, name="", version="run")
        return made

    monkeypatch.setattr(running, "_trainer", with_logger)
    found = running.train(scenario, seed=0).findings
    (run,) = report(tmp_path).runs

    assert [repr(finding) for finding in run.findings] == [repr(finding) for finding in found]
    assert any(finding.severity != "info" for finding in found) == bool(scenario.cause)
    assert run.gaps == ()


def test_what_the_monitor_did_is_told(tmp_path: Path) -> None:
    """A rollback is in no signal: the doctor takes it from the findings that were written live."""
    monitor = DivergenceMonitor(on_divergence="rollback")
    train(Digits(poison=(40,)), TensorBoardLogger(tmp_path, name="", version="run"), [monitor])
    (run,) = report(tmp_path).runs

    assert [repr(finding) for finding in run.findings] == [repr(finding) for finding in monitor.findings]
    assert "rollback" in " ".join(finding.message for finding in run.findings)


def test_killed_run_keeps_findings_whose_signals_are_lost(tmp_path: Path) -> None:
    """Signals are written in stretches of 100 steps: the finding of step 130 is there, and its loss in the picture."""
    finding_event(tmp_path, step=130)
    writer = SummaryWriter(tmp_path, filename_suffix=".b")
    TensorBoardWriter(writer).write_signals(99, encode([RUN, *(signals(step) for step in range(100))]))
    writer.add_scalar("train_loss", 7.0, 131)
    writer.close()
    (run,) = report(tmp_path).runs

    assert [(finding.rule, finding.step) for finding in run.findings] == [("NON-FINITE", 130)]
    assert run.curves[0].steps.tolist() == [*range(100), 131]
    assert run.steps == (0, 131)


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


def test_each_finding_of_the_page_links_to_what_its_code_means(tmp_path: Path) -> None:
    page = report(finding_event(tmp_path)).to_html()
    links = set(re.findall(r'href="#(la-about-[A-Z0-9-]+)"', page))
    assert links and all(f'id="{link}"' in page for link in links)
    assert "<h2>What to do, in order</h2>" in page
