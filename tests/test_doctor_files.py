"""The doctor on what monitors leave beside a log: a run that was sick live is never called healthy afterwards."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

import lightning_adam as la
from lightning_adam.callbacks import OptimizerMonitor
from lightning_adam.cli import main
from lightning_adam.diagnosis import Diagnosis, RunSignals, StepSignals
from lightning_adam.diagnosis.archive import FINDINGS_FILE, SIGNALS_FILE
from lightning_adam.doctor import report
from lightning_adam.doctor.roles import prefixes
from lightning_adam.doctor.sources import UnusableLog, read_runs
from lightning_adam.tensorboard import TensorBoardWriter
from lightning_adam.tensorboard.writer import matrix_row, scalar
from tests.digits import Digits
from tests.live_runs import OFFLINE, Live, assert_as_live, beside_csv, beside_events, judged, lived

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


@pytest.mark.parametrize(("delimiter", "encoding"), [(";", "utf-8"), ("\t", "utf-8-sig"), (",", "utf-16"), (";", "utf-16")])
def test_csv_that_a_spreadsheet_saved_anew_is_the_same_run(delimiter: str, encoding: str, tmp_path: Path) -> None:
    losses = [2 / (step + 1) for step in range(30)]
    rows = ["step,train_loss", *(f"{step},{loss}" for step, loss in enumerate(losses))]
    (tmp_path / "metrics.csv").write_text("\n".join(rows).replace(",", delimiter), encoding=encoding)

    [run] = read_runs(tmp_path)

    assert run.scalars["train_loss"].values.tolist() == losses


def test_decimal_commas_of_a_spreadsheet_are_decimal_points(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step;train_loss\n0;2,5\n1;1,25")

    assert read_runs(tmp_path)[0].scalars["train_loss"].values.tolist() == [2.5, 1.25]


def test_decimal_commas_are_read_beside_a_column_with_points(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step;version;train_loss;lr\n0;v1.2;2,5;0.1\n1;v1.2;-1,25e-1;0.1")

    scalars = read_runs(tmp_path)[0].scalars
    assert scalars["train_loss"].values.tolist() == [2.5, -0.125]
    assert scalars["lr"].values.tolist() == [0.1, 0.1]


def test_comma_in_a_step_is_no_decimal_comma(tmp_path: Path) -> None:
    """A thousand steps are not one."""
    (tmp_path / "metrics.csv").write_text("step\ttrain_loss\n999\t3\n1,000\t2")

    assert read_runs(tmp_path)[0].scalars["train_loss"].steps.tolist() == [999]


def test_epochs_alone_are_refused_with_the_reason(tmp_path: Path) -> None:
    """As Keras' CSVLogger writes them."""
    (tmp_path / "training.csv").write_text("epoch,loss\n0,2.5\n1,1.25")

    with pytest.raises(UnusableLog, match=r"no column is named .*it counts epochs"):
        read_runs(tmp_path / "training.csv")


def test_the_history_of_hugging_faces_trainer_is_read(tmp_path: Path) -> None:
    """Its ``trainer_state.json``, by itself or in a folder of checkpoints."""
    rows = [{"epoch": step / 10, "loss": 2 / step, "learning_rate": 1e-3, "step": step} for step in range(1, 30)]
    (tmp_path / "checkpoint-30").mkdir()
    (tmp_path / "checkpoint-30/trainer_state.json").write_text(json.dumps({"epoch": 3, "log_history": rows}))

    [run] = read_runs(tmp_path)

    assert run.scalars["loss"].steps.tolist() == list(range(1, 30))
    assert report(tmp_path).runs[0].healthy


def test_steps_before_the_first_are_passed_over_with_a_note(tmp_path: Path) -> None:
    """Some log the untrained model at step -1; the rules' clock begins at 0, and none of them fails on what was before."""
    rows = ["step,train_loss,lr", *(f"{step},{2 / (step + 9)},0.001" for step in range(-3, 60))]
    (tmp_path / "metrics.csv").write_text("\n".join(rows))
    recorded = Diagnosis(RunSignals("AdamW", total_steps=100))
    recorded.observe(StepSignals(-1, loss=1.0, lr=1e-3))

    assert judged(tmp_path / "metrics.csv").notes == ("3 logged step(s) are negative, and are not judged",)
    assert recorded.failures == {}


def test_long_field_costs_no_row_and_an_open_quotation_mark_is_told(tmp_path: Path) -> None:
    """A picture as text is longer than csv's own limit, which stays as it was for others."""
    limit = csv.field_size_limit()
    rows = ["step,train_loss,image", "0,2.0,", f"1,1.5,{'x' * (limit + 1)}", "2,1.0,"]
    (tmp_path / "whole.csv").write_text("\n".join(rows))
    (tmp_path / "open.csv").write_text("\n".join([*rows, '3,0.5,"x', f"4,0.1,{'x' * limit}", ""]))
    (whole,), (cut,) = (read_runs(tmp_path / name) for name in ("whole.csv", "open.csv"))

    assert (whole.scalars["train_loss"].values.tolist(), whole.notes) == ([2.0, 1.5, 1.0], [])
    assert cut.scalars["train_loss"].values.tolist() == [2.0, 1.5, 1.0, 0.5]
    assert cut.notes == ["a quotation mark is not closed: what follows it could not be read"]
    assert csv.field_size_limit() == limit


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
