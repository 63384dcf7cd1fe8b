"""The doctor on what monitors leave beside a log: a run that was sick live is never called healthy afterwards."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

import lightning_adam as la
from lightning_adam.callbacks import DivergenceMonitor, OptimizerMonitor
from lightning_adam.cli import main
from lightning_adam.diagnosis import Finding, StepSignals, encode
from lightning_adam.diagnosis.archive import FINDINGS_FILE, SIGNALS_FILE, Stretch, findings_document, stretch_line
from lightning_adam.doctor import RunReport, UnusableLog, report
from lightning_adam.doctor.offline import read_offline
from lightning_adam.doctor.roles import prefixes
from lightning_adam.doctor.sources import read_runs
from lightning_adam.tensorboard import TensorBoardWriter
from lightning_adam.tensorboard.reader import RECORDS
from lightning_adam.tensorboard.writer import matrix_row, scalar
from tests.digits import Digits, digits_loader, trainer

OFFLINE = "offline-run-20260101_120000-abc123"


@dataclass(frozen=True)
class Live:
    """A real run, and what its monitor knew when it ended.

    Attributes:
        findings: by the optimizer's prefix.
        stretches: the recorded signals.
        events: the folder with its event file.
        metrics: its ``metrics.csv``.
    """

    findings: dict[str, list[Finding]]
    stretches: list[Stretch]
    events: Path
    metrics: Path

    @property
    def told(self) -> list[dict[str, Any]]:
        """All findings in their order, as the JSON report has them."""
        ordered = sorted((f for found in self.findings.values() for f in found), key=lambda finding: finding.step)
        return [finding.to_dict() for finding in ordered]

    def leave(self, folder: Path, findings: bool = True, signals: bool = True) -> Path:
        """What a sink of a logger without a place for them writes."""
        folder.mkdir(parents=True, exist_ok=True)
        if findings:
            (folder / FINDINGS_FILE).write_text(findings_document(self.findings))
        if signals:
            (folder / SIGNALS_FILE).write_text("".join(f"{stretch_line(stretch)}\n" for stretch in self.stretches))
        return folder


def lived(folder: Path, module: Any, steps: int, *others: Callback) -> Live:
    """Train with both kinds of logger."""
    loggers = [kind(folder, name=kind.__name__, version="run") for kind in (TensorBoardLogger, CSVLogger)]
    monitor = DivergenceMonitor()
    fit = trainer(max_steps=steps, log_every_n_steps=10, logger=loggers, callbacks=[*others, monitor])
    fit.fit(module, digits_loader())
    (events,) = read_runs(folder / "TensorBoardLogger")
    names = prefixes(events)
    found = {name: [finding for finding in monitor.findings if finding.optimizer in (name, "")] for name in names}
    stretches = [Stretch(name, step, payload) for name in names for step, payload in events.texts[name + RECORDS]]
    return Live(found, stretches, Path(loggers[0].log_dir), Path(loggers[1].log_dir) / "metrics.csv")


@pytest.fixture(scope="module")
def sick(tmp_path_factory: pytest.TempPathFactory) -> Live:
    """A learning rate that is too high from the first step on, and a NaN at step 170; three stretches of signals."""
    live = lived(tmp_path_factory.mktemp("sick"), Digits(lr=0.3, poison=(170,)), 180)
    assert [(f.rule, f.severity) for f in live.findings["adam"]] == [("LR-HIGH", "warning"), ("NON-FINITE", "critical")]
    assert len(live.stretches) == 3
    return live


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Live:
    """A run in which nothing was found."""
    live = lived(tmp_path_factory.mktemp("calm"), Digits(lr=1e-3), 60)
    assert live.findings == {"adam": []}
    return live


def judged(place: Path) -> RunReport:
    """The only run there."""
    (run,) = report(place).runs
    return run


def assert_as_live(run: RunReport, live: Live) -> None:
    """The same findings to the last digit, NaN included."""
    np.testing.assert_equal([finding.to_dict() for finding in run.findings], live.told)


def beside_csv(folder: Path, live: Live) -> None:
    """Where CSVLogger writes."""
    live.leave(folder / "lightning_logs/version_0")
    shutil.copy(live.metrics, folder / "lightning_logs/version_0")


def beside_events(folder: Path, live: Live) -> None:
    """Where an event file has the same signals already."""
    shutil.copytree(live.events, folder / "version_0")
    live.leave(folder / "version_0")


PLACES: dict[str, tuple[Callable[[Path, Live], Any], str]] = {
    "CSV": (beside_csv, "lightning_logs/version_0"),
    "events": (beside_events, "version_0"),
    "W&B": (lambda folder, live: live.leave(folder / f"wandb/{OFFLINE}/files"), f"wandb/{OFFLINE}"),
    "W&B online": (lambda folder, live: live.leave(folder / "wandb/run-1-abc/files"), "wandb/run-1-abc"),
    "MLflow": (lambda folder, live: live.leave(folder / "mlruns/0/abc/artifacts"), "mlruns/0/abc"),
    "alone": (lambda folder, live: live.leave(folder / "somewhere"), "somewhere"),
}


@pytest.mark.parametrize("place", PLACES)
def test_judgement_is_the_live_one_wherever_the_files_lie(tmp_path: Path, sick: Live, place: str) -> None:
    """Beside metrics.csv or event files, in W&B's and MLflow's folders, or alone: every recorded step is replayed."""
    put, name = PLACES[place]
    put(tmp_path, sick)
    run = judged(tmp_path)

    assert_as_live(run, sick)
    assert (run.name, run.gaps, run.notes, run.healthy) == (name, (), (), False)
    assert run.basis == "the recorded signals of 180 steps"
    assert run.curves[0].steps.tolist() == list(range(171))  # what follows the NaN is no loss
    assert main(["doctor", str(tmp_path), "--fail-on", "critical"]) == 1


def test_csv_run_agrees_with_the_event_file(tmp_path: Path, sick: Live) -> None:
    """Findings, verdict and gaps of the JSON report are the same from either logger's folder."""
    beside_csv(tmp_path, sick)
    alike = ("healthy", "worst", "steps", "basis", "findings", "not_judged", "notes")
    of_csv, of_events = (json.loads(report(place).to_json())["runs"][0] for place in (tmp_path, sick.events))

    assert {key: of_csv[key] for key in alike} == {key: of_events[key] for key in alike}


@pytest.mark.parametrize("kind", ["findings", "signals"])
def test_one_of_the_files_is_enough(tmp_path: Path, sick: Live, kind: str) -> None:
    """Without signals the findings are taken as they are; without findings the signals give them again."""
    run = judged(sick.leave(tmp_path / "run", findings=kind == "findings", signals=kind == "signals"))

    assert_as_live(run, sick)
    assert run.gaps == ()


@pytest.mark.parametrize("name", [FINDINGS_FILE, SIGNALS_FILE, "metrics.csv"])
def test_one_file_may_be_named(tmp_path: Path, sick: Live, name: str) -> None:
    """What lies beside it counts: a table alone would not tell."""
    beside_csv(tmp_path, sick)

    assert_as_live(judged(tmp_path / "lightning_logs/version_0" / name), sick)


def test_file_of_an_artifact_folder_is_called_like_its_run(tmp_path: Path, sick: Live) -> None:
    """``mlruns/0/abc/artifacts/findings.json`` is of the run abc."""
    place = sick.leave(tmp_path / "mlruns/0/abc/artifacts")

    assert [judged(asked).name for asked in (place, place / FINDINGS_FILE)] == ["abc", "abc"]


def test_table_makes_up_for_an_event_file_that_is_empty(tmp_path: Path, sick: Live) -> None:
    """Two loggers wrote into one folder, and the event file has nothing: the table beside it is the run."""
    beside_csv(tmp_path, sick)
    SummaryWriter(tmp_path / "lightning_logs/version_0").close()
    for name in (FINDINGS_FILE, SIGNALS_FILE):
        (tmp_path / "lightning_logs/version_0" / name).unlink()

    assert [finding.rule for finding in judged(tmp_path).findings] == ["FINDINGS-UNREAD"]


def test_empty_list_is_proof(tmp_path: Path, calm: Live) -> None:
    """A monitor watched and found nothing: healthy, although the table has but a loss."""
    (tmp_path / "metrics.csv").write_text("step,train_loss\n" + "".join(f"{step},{2 / (step + 1)}\n" for step in range(30)))
    assert judged(tmp_path).gaps
    run = judged(calm.leave(tmp_path, signals=False))

    assert (run.findings, run.gaps, run.healthy) == ((), (), True)
    assert run.basis == "what DivergenceMonitor found live"
    assert "healthy" in report(tmp_path).to_text()


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


def test_what_came_after_the_last_record_is_kept(tmp_path: Path, sick: Live) -> None:
    """Two of three stretches are lost: findings.json still knows the NaN, and until when the first sickness was seen."""
    first, last = sick.findings["adam"]
    cut = replace(sick, findings={"adam": [replace(first, last_step=150), last]}, stretches=sick.stretches[:1])
    run = judged(cut.leave(tmp_path))

    assert_as_live(run, cut)
    assert run.basis == "the recorded signals of 99 steps"


def test_graver_word_of_the_live_monitor_counts(tmp_path: Path, sick: Live) -> None:
    """The records give a warning where findings.json has a critical finding under a better name: that is told, once."""
    first, last = sick.findings["adam"]
    graver = replace(sick, findings={"adam": [replace(first, rule="STATE-CORRUPT", severity="critical"), last]})

    assert_as_live(judged(graver.leave(tmp_path)), graver)


def test_records_without_their_beginning_do_not_outweigh_the_findings(tmp_path: Path, sick: Live) -> None:
    """With the first stretch, the rules lose their clock: what was found live is whole, and counts."""
    run = judged(replace(sick, stretches=sick.stretches[1:]).leave(tmp_path))

    assert_as_live(run, sick)
    assert run.basis == "what DivergenceMonitor found live"


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_event_file_that_is_cut_off_is_made_up_for(tmp_path: Path, sick: Live, share: float) -> None:
    """The same signals lie beside it as lines: what holds more of them is replayed."""
    beside_events(tmp_path, sick)
    (events,) = tmp_path.rglob("*tfevents*")
    events.write_bytes(events.read_bytes()[: int(share * events.stat().st_size)])
    run = judged(tmp_path)

    assert_as_live(run, sick)
    assert run.basis == "the recorded signals of 180 steps"


@pytest.mark.parametrize("form", ["metrics.csv", "history.csv", "history.jsonl"])
def test_mere_count_of_findings_is_not_health(tmp_path: Path, form: str) -> None:
    """Older versions left only adam/findings_total in a table: something was found, and nobody knows how grave it is."""
    step = "step" if form == "metrics.csv" else "_step"
    rows = [{step: k, "train_loss": 2 / (k + 1), "adam/findings_total": 0 if k < 20 else 1 + (k > 40)} for k in range(60)]
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    (tmp_path / form).write_text("\n".join(map(json.dumps, rows) if form.endswith("jsonl") else lines))
    run = judged(tmp_path)
    (finding,) = run.findings

    assert "DivergenceMonitor counted 2 findings whose text is not in this log" in finding.message
    assert (finding.rule, finding.severity, finding.step) == ("FINDINGS-UNREAD", "warning", 20)
    assert not run.healthy
    assert main(["doctor", str(tmp_path)]) == 1


def test_real_csv_run_without_files_is_not_healthy(sick: Live, tmp_path: Path) -> None:
    """The metrics.csv of a run that was sick live, and nothing beside it, as the first version left it."""
    shutil.copy(sick.metrics, tmp_path / "metrics.csv")
    run = judged(tmp_path / "metrics.csv")

    assert [finding.rule for finding in run.findings] == ["FINDINGS-UNREAD"]
    assert run.findings[0].evidence["counted"] == 2


@pytest.mark.parametrize(("step", "unread"), [(175, []), (199, ["FINDINGS-UNREAD"])])
def test_count_matters_where_the_records_end(tmp_path: Path, sick: Live, step: int, unread: list[str]) -> None:
    """A third finding up to step 179 is one that today's rules do not make any more; after that, its text is lost."""
    (tmp_path / "metrics.csv").write_text(f"step,adam/findings_total\n{step},3\n")

    assert [finding.rule for finding in judged(sick.leave(tmp_path)).findings] == ["LR-HIGH", "NON-FINITE", *unread]


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


def test_what_the_monitor_did_does_not_count(tmp_path: Path, sick: Live) -> None:
    """A rollback is told as a finding and is none: of two that were counted, one is known, whatever else is told."""
    first, last = sick.findings["adam"]
    rolled = replace(last, evidence={"action": "rollback"})
    (tmp_path / "metrics.csv").write_text("step,adam/findings_total\n170,2\n")
    run = judged(replace(sick, findings={"adam": [first, rolled]}).leave(tmp_path, signals=False))

    assert [(finding.rule, finding.evidence.get("counted")) for finding in run.findings][-1] == ("FINDINGS-UNREAD", 1)


def test_advice_alone_is_healthy(tmp_path: Path, sick: Live) -> None:
    """``healthy`` in the JSON report is what the exit status is 0 for: an info finding is advice; ``worst`` tells of it."""
    for severity, healthy in (("info", True), ("warning", False)):
        first = replace(sick.findings["adam"][0], severity=severity)  # type: ignore[arg-type]
        replace(sick, findings={"adam": [first]}).leave(tmp_path, signals=False)
        (run,) = json.loads(report(tmp_path).to_json())["runs"]

        assert (run["healthy"], run["worst"]) == (healthy, severity)
        assert main(["doctor", str(tmp_path)]) == (0 if healthy else 1)


class Rivals(Digits):
    """Two optimizers of one class, stepped by hand; the second gets a NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Each optimizer has a layer."""
        for index, optimizer in enumerate(self.optimizers()):  # type: ignore[arg-type]
            loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            optimizer.zero_grad()
            self.manual_backward(loss * math.nan if index and self.global_step > 60 else loss)
            optimizer.step()

    def configure_optimizers(self) -> Any:
        """One per layer."""
        return [la.configure_optimizers(self, parameters=layer, lr=1e-3) for layer in ("net.0.*", "net.2.*")]


def test_two_optimizers_are_two(tmp_path: Path) -> None:
    """Both monitors on, every step recorded: nothing is left to judge, in the event file as in the files beside a table."""
    live = lived(tmp_path / "logs", Rivals(), 80, OptimizerMonitor())
    beside_csv(tmp_path / "csv", live)

    assert {finding["optimizer"] for finding in live.told} == {"adam-AdamW", "adam-AdamW-1"}
    for place in (live.events, tmp_path / "csv"):
        assert prefixes(read_runs(place)[0]) == ["adam-AdamW", "adam-AdamW-1"]
        assert_as_live(judged(place), live)
        assert judged(place).gaps == ()


def test_optimizers_keep_their_order(tmp_path: Path, sick: Live) -> None:
    """Of findings at the same step, those of the trainer's first optimizer come first, whatever its name."""
    (first, _), names = sick.findings["adam"], ("adam-SGD", "adam-AdamW")
    several = replace(sick, findings={name: [replace(first, optimizer=name)] for name in names})

    assert [finding.optimizer for finding in judged(several.leave(tmp_path, signals=False)).findings] == [*names]


ROOMS = ("/log10_lr", "/signal_to_noise", ".dist/log10_step_size_p50", ".groups/log10_lr/decay", ".clip/clipped")
MORE_ROOMS = (".amp/skipped_steps_total", ".tensors/update_ratio/net.0.weight", "/findings_total")


@pytest.mark.parametrize(
    "name", ["adam", "adam-Adam", "adam-Adam8bit-1", "adam-my_matrix", "adam-x_events-2", "adam-pkg.Adam"]
)
def test_rooms_of_an_optimizer_are_no_optimizers(tmp_path: Path, name: str) -> None:
    """Whatever its class is called: scalars, tables and texts in an event file, or the columns of a table."""
    tags = [name + room for room in (*ROOMS, *MORE_ROOMS)]
    (tmp_path / "metrics.csv").write_text(f"step,{','.join(tags)}\n" + f"1{',0' * len(tags)}\n")
    for written in (tags, []):
        folder = tmp_path / f"events{len(written)}"
        ours = TensorBoardWriter(SummaryWriter(folder), name)
        ours._add(
            1, [*(scalar(tag, 0.0) for tag in written), matrix_row(f"{name}_matrix/update_ratio", np.ones(1, "f4"), ["w"])]
        )
        ours.write_events(1, [])
        ours.write_signals(1, b"")
        ours.experiment.close()

    assert [prefixes(run) for run in read_runs(tmp_path)] == [[name]] * 3


def test_links_to_runs_are_followed(tmp_path: Path, sick: Live) -> None:
    """A link to a CSV run is the run; beside its folder, it is none of its own."""
    beside_csv(tmp_path / "real", sick)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/latest").symlink_to(tmp_path / "real")
    (tmp_path / "real/an_alias").symlink_to(tmp_path / "real/lightning_logs")

    assert judged(tmp_path / "logs").name == "latest/lightning_logs/version_0"
    assert judged(tmp_path / "real").name == "lightning_logs/version_0"


@contextmanager
def offline_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A real run of W&B without a network."""
    wandb = pytest.importorskip("wandb")
    for name, value in {"MODE": "offline", "SILENT": "true", "ERROR_REPORTING": "false"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    folder.mkdir(exist_ok=True)
    run = wandb.init(dir=folder, project="test")
    yield run
    run.finish()
    wandb.teardown()  # its process writes to the end of the file a little later than finish() returns


def log(run: Any, **columns: Sequence[float]) -> None:
    """As Lightning's WandbLogger logs, every ten steps; a picture, too."""
    import wandb

    for index, row in enumerate(zip(*columns.values(), strict=True)):
        picture = wandb.Histogram(list(range(64)))
        run.log({"trainer/global_step": 10 * index, **dict(zip(columns, row, strict=True)), "picture": picture})


def test_offline_run_of_wandb_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every scalar at the trainer's step, NaN included, many blocks long; ``latest-run`` is the same run, not another."""
    losses = [*(2 / (step + 1) for step in range(200)), math.nan]
    with offline_run(tmp_path, monkeypatch) as run:
        log(run, train_loss=losses)
    (read,) = read_runs(tmp_path)

    assert read.name == f"wandb/{Path(run.dir).parent.name}"
    assert read.notes == []
    assert read.scalars["train_loss"].steps.tolist() == list(range(0, 2010, 10))
    np.testing.assert_allclose(read.scalars["train_loss"].values, losses)
    assert [finding.rule for finding in judged(tmp_path).findings] == ["NON-FINITE"]
    assert "".join(capfd.readouterr()) == ""


def test_files_of_a_wandb_run_belong_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sick: Live) -> None:
    """Scalars from its own file, the judgement from the files in ``files``: one run, also where its file is named."""
    with offline_run(tmp_path, monkeypatch) as run:
        log(run, train_loss=(1.0, 0.5), val_accuracy=(0.5, 0.6))
        sick.leave(Path(run.dir))
    (place,) = tmp_path.glob("wandb/offline-run-*/*.wandb")

    for asked in (tmp_path, place.parent, place):
        assert "val_accuracy" in read_runs(asked)[0].scalars
        assert_as_live(judged(asked), sick)


def test_count_in_a_wandb_run_is_not_health(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The older versions' mere count again; files of several runs in one folder are several runs."""
    with offline_run(tmp_path, monkeypatch) as run:
        log(run, **{"train_loss": (1.0, 0.5, 0.4), "adam/findings_total": (0.0, 0.0, 1.0)})
    (place,) = tmp_path.glob("wandb/offline-run-*/*.wandb")

    assert [(finding.rule, finding.step) for finding in judged(tmp_path).findings] == [("FINDINGS-UNREAD", 20)]
    (tmp_path / "kept").mkdir()
    for name in ("a", "b"):
        shutil.copy(place, tmp_path / f"kept/{name}.wandb")
    assert [run.name for run in report(tmp_path / "kept").runs] == ["a", "b"]


def test_damaged_wandb_file_gives_what_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed run's last record, a wrong byte in the middle: most is there, and a note; what is no such file, is said."""
    with offline_run(tmp_path, monkeypatch) as run:
        log(run, train_loss=[1.0] * 200)
    (place,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    whole = place.read_bytes()
    flipped = bytearray(whole)
    flipped[5 * 32768 + 20] ^= 0x55  # in a record that began in the block before
    for content, note in ((whole[:-5000], "cut off"), (flipped, "1 damaged block"), (whole + bytes(100), "cut off")):
        place.write_bytes(content)
        read = read_offline(place, "run")

        assert 120 < len(read.scalars["train_loss"].steps) <= 200
        assert [note in told for told in read.notes] == [True]
    place.write_bytes(b"something else")
    with pytest.raises(UnusableLog, match="wandb sync"):
        report(tmp_path)


def test_without_wandb_the_way_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sick: Live) -> None:
    """No wandb to read its file with: an error with the commands where nothing else is there, else a note."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    place = tmp_path / "wandb" / OFFLINE
    place.mkdir(parents=True)
    (place / "run-abc123.wandb").write_bytes(b":W&B\xe1\xbe\x00")
    with pytest.raises(UnusableLog, match=r"pip install wandb, or `wandb sync .*` and export the run's history as CSV"):
        report(tmp_path)
    sick.leave(place / "files")
    run = judged(tmp_path)

    assert_as_live(run, sick)
    assert [f"wandb sync {place}" in note for note in run.notes] == [True]
