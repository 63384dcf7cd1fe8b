"""What arrives in each kind of logger, read back from what the real libraries wrote; nothing leaves the machine."""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
import yaml
from lightning.fabric.loggers import CSVLogger as FabricCSVLogger
from lightning.fabric.loggers import TensorBoardLogger as FabricTensorBoardLogger
from lightning.pytorch.loggers import CometLogger, CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from lightning_adam.diagnosis import Finding, findings_table
from lightning_adam.diagnosis.archive import Stretch, read_findings_document, read_stretches
from lightning_adam.errors import ConfigError
from lightning_adam.monitoring.sink import Sink
from lightning_adam.sinks import merged_hyperparameters, sink_of, sinks_of
from lightning_adam.sinks.run_files import RunFiles
from lightning_adam.sinks.tensorboard import tab_address
from lightning_adam.statistics import LOG10_EDGES, QUANTITIES
from tests.sink_runs import (
    LR_HIGH,
    OURS,
    SIGNALS,
    SLOW,
    STEPS,
    hparams_tab,
    items,
    keep_offline,
    signals_in,
    snapshots,
    tell_a_run,
    wandb_policy,
    wandb_records,
)


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """No network, nothing in the current folder, nothing on the console."""
    here = tmp_path / "current_folder"
    here.mkdir()
    monkeypatch.chdir(here)
    keep_offline(monkeypatch, tmp_path)
    yield
    assert not list(here.iterdir())
    assert capfd.readouterr() == ("", "")


# Kinds ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning", "lightning.fabric"])
@pytest.mark.parametrize(("name", "sink"), [("TensorBoardLogger", "TensorBoardSink"), ("CSVLogger", "CsvSink")])
def test_a_logger_is_known_by_its_class_in_each_of_lightnings_packages(
    package: str, name: str, sink: str, tmp_path: Path
) -> None:
    """And so are subclasses, whatever their names."""
    logger_class = getattr(importlib.import_module(f"{package}.loggers"), name)
    mine = type("Mine", (logger_class,), {})
    for logger in (logger_class(tmp_path / "theirs"), mine(tmp_path / "mine")):
        assert type(sink_of(logger)).__name__ == sink


def test_nothing_is_written_to_the_logger_of_fast_dev_run() -> None:
    """Though it has every attribute that one asks for."""
    assert sink_of(DummyLogger()) is None
    assert sinks_of([DummyLogger()]) == []


class OwnLogger(Logger):
    """A user's logger."""

    name = version = "own"

    def __init__(self, experiment: Any = None) -> None:
        self.experiment, self.logged = experiment, list[Any]()

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        """Remember."""
        self.logged.append((step, metrics))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Is for the user's."""
        raise AssertionError


def test_an_unknown_logger_gets_the_scalars() -> None:
    """Through ``log_metrics``, each logged step at once."""
    logger = OwnLogger()
    tell_a_run(sinks_of([logger])[0])
    assert [step for step, _ in logger.logged] == list(STEPS)
    assert all("adam/log10_lr" in metrics for _, metrics in logger.logged)


def test_an_unknown_logger_that_holds_a_summary_writer_is_written_to_as_tensorboard(tmp_path: Path) -> None:
    """Known by the writer's class."""
    with SummaryWriter(str(tmp_path)) as writer:
        tell_a_run(sinks_of([OwnLogger(writer)])[0])
    assert "adam_matrix/step_size_rms" in EventAccumulator(str(tmp_path)).Reload().Tags()["tensors"]


def test_a_sink_of_ones_own_is_taken_as_it_is() -> None:
    """In place of a logger."""
    own = Sink()
    assert sink_of(own) is own


@pytest.mark.parametrize("wrong", ["runs/plain", None, MagicMock(), nn.Linear(1, 1)])
def test_what_cannot_be_logged_to_is_refused(wrong: Any) -> None:
    """The message names it, and what is allowed; a mock that answers to everything is none of those either."""
    with pytest.raises(ConfigError, match=rf"(?s){type(wrong).__name__}.*SummaryWriter.*log_metrics"):
        sink_of(wrong)


def test_no_logging_library_is_imported_before_it_is_used() -> None:
    """Nor Lightning."""
    heavy = {"lightning", "pytorch_lightning", "tensorboard", "wandb", "mlflow", "comet_ml"}
    code = f"import sys, lightning_adam.sinks; print(sorted({heavy} & set(sys.modules)))"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    assert printed.stdout.strip() == "[]"


# Hyper-parameters and files -------------------------------------------------------------------------------------------


def test_nothing_of_the_users_hyperparameters_is_written_over() -> None:
    """Ours have their plain names where they are free or say the same, and ``adam/`` before them where they do not."""
    theirs = {"lr": 0.1, "betas": (0.9, 0.999), "schedule": torch.zeros(2), "width": 64}
    merged = merged_hyperparameters(theirs, OURS)
    assert {name: merged[name] for name in theirs} == theirs
    assert {k: v for k, v in merged.items() if k not in theirs} == {
        "optimizer": "AdamW",
        "adam/lr": 1e-3,
        "adam/schedule": "cosine",
    }


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails leaves the earlier content, and nothing else."""
    files = RunFiles(tmp_path / "run")
    path = files.write("findings.json", "old")
    monkeypatch.setattr(os, "replace", MagicMock(side_effect=OSError("no space left")))
    with pytest.raises(OSError, match="no space"):
        files.write("findings.json", "new")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_half_a_line_of_a_killed_run_does_not_spoil_the_next(tmp_path: Path) -> None:
    """It alone is lost."""
    (tmp_path / "adam_signals.jsonl").write_text('{"version": 1, "pre')
    path = RunFiles(tmp_path).append_signals("adam", 3, SIGNALS)
    stretches, damaged = read_stretches(path.read_text().splitlines())
    assert damaged == 1
    assert stretches == [Stretch("adam", 3, SIGNALS)]


def test_a_remote_folder_is_told_about_and_not_made_up() -> None:
    """``s3://`` as a path would be a folder of that name here."""
    with pytest.raises(OSError, match="s3://bucket/run is no local folder"):
        RunFiles("s3://bucket/run").write("findings.json", "")


# TensorBoard ----------------------------------------------------------------------------------------------------------


def test_tensorboard_gets_everything(tmp_path: Path) -> None:
    """Scalars, histograms, every tensor, the heatmap, texts, events, signals, a layout, and the file."""
    logger = TensorBoardLogger(tmp_path, name="", version="run")
    tell_a_run(sinks_of([logger])[0])
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "run"), size_guidance={"tensors": 0}).Reload()
    tags = events.Tags()
    assert [event.step for event in events.Scalars("adam/log10_lr")] == list(STEPS)
    assert {"adam/log10_update_ratio_p50", "adam.tensors/update_ratio/0.weight"} <= set(tags["scalars"])
    assert set(tags["histograms"]) == {"adam.dist/log10_step_size", "adam.dist/log10_effective_lr"}
    assert tags["images"] == ["adam.dist/update_ratio_heatmap"]
    assert {f"adam_matrix/{quantity}" for quantity in QUANTITIES} <= set(tags["tensors"])
    assert "custom_scalars__config__" in tags["tensors"]
    texts = {name: events.Tensors(f"adam/{name}/text_summary")[-1] for name in ("config", "top", "findings")}
    told = {name: event.tensor_proto.string_val[0].decode() for name, event in texts.items()}
    assert told["findings"] == findings_table([SLOW, LR_HIGH])
    assert "Largest update ratio" in told["top"]
    found = [json.loads(event.tensor_proto.string_val[0]) for event in events.Tensors("adam_events")]
    assert [Finding.from_dict(one) for step in found for one in step] == [SLOW, LR_HIGH]
    assert list(events.Tensors("adam_signals")[0].tensor_proto.string_val) == [SIGNALS]
    assert (tmp_path / "run" / "adam_last_steps_3.json").read_text() == "[]"


def test_a_healthy_run_has_no_findings_in_tensorboard(tmp_path: Path) -> None:
    """Neither a text nor an event."""
    with SummaryWriter(str(tmp_path)) as writer:
        tell_a_run(sinks_of([writer])[0], found=())
    tags = EventAccumulator(str(tmp_path)).Reload().Tags()["tensors"]
    assert not {"adam_events", "adam/findings/text_summary"} & set(tags)


def test_the_hparams_tab_sorts_lightnings_runs_by_our_names(tmp_path: Path) -> None:
    """Though Lightning logs the user's after us; and those alone are in ``logger.hparams`` and ``hparams.yaml``."""
    for version, lr in (("a", 0.2), ("b", 0.1)):
        logger = TensorBoardLogger(tmp_path, name="", version=version)
        merged = merged_hyperparameters({"width": 64}, {**OURS, "lr": lr})
        sinks_of([logger])[0].hyperparameters(merged, trainer_follows=True)
        logger.log_hyperparams({"width": 64})
        logger.finalize("success")
        assert logger.hparams == {"width": 64}
        assert yaml.safe_load((tmp_path / version / "hparams.yaml").read_text()) == {"width": 64}
    shown, metrics = hparams_tab(tmp_path)
    assert [run["lr"] for run in shown] == [0.1, 0.2]
    assert all(run["width"] == 64 and run["schedule"] == "cosine" for run in shown)
    assert metrics == {"hp_metric"}


@pytest.mark.parametrize("kind", ["writer", "fabric"])
def test_the_hparams_tab_sorts_other_runs_by_our_names(kind: str, tmp_path: Path) -> None:
    """Those of a bare SummaryWriter, and of Fabric's logger."""
    for version, lr in (("a", 0.2), ("b", 0.1)):
        folder = tmp_path / version
        logger = SummaryWriter(str(folder)) if kind == "writer" else FabricTensorBoardLogger(folder, name="", version="")
        sinks_of([logger])[0].hyperparameters({**OURS, "lr": lr})
        (logger if kind == "writer" else logger.experiment).close()
    shown, _ = hparams_tab(tmp_path)
    assert [(run["lr"], run["schedule"]) for run in shown] == [(0.1, "cosine"), (0.2, "cosine")]


def test_the_users_add_hparams_keeps_its_metrics_beside_ours(tmp_path: Path) -> None:
    """TensorBoard shows the metrics of the first experiment that it finds: ours is none."""
    with SummaryWriter(str(tmp_path)) as writer:
        sinks_of([writer])[0].hyperparameters(OURS)
        writer.add_hparams({"lr": 0.5}, {"accuracy": 0.9}, run_name="users")
    shown, metrics = hparams_tab(tmp_path)
    assert metrics == {"accuracy"}
    assert [run["lr"] for run in shown] == [1e-3, 0.5]


def test_the_address_is_one_short_line(tmp_path: Path) -> None:
    """With the shorter way to the folder, and without the command where that would be too long."""
    with SummaryWriter("./../run") as writer:
        address = sinks_of([writer])[0].address
    assert address == "Adam tab: http://127.0.0.1:6006/#lightning_adam  (tensorboard --logdir ../run)"
    assert tab_address(str(Path.cwd() / "my run")).endswith("(tensorboard --logdir 'my run')")
    assert tab_address("x" * 100) == "Adam tab: http://127.0.0.1:6006/#lightning_adam"


# CSV ------------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")  # such as Lightning's, that the folder is not empty
def test_csv_has_files_beside_its_metrics(tmp_path: Path) -> None:
    """Findings, signals, the configuration, the last steps, and hyper-parameters in ``hparams.yaml``."""
    logger = CSVLogger(tmp_path, name="", version="run")
    tell_a_run(sinks_of([logger])[0])
    logger.finalize("success")
    run = tmp_path / "run"
    assert read_findings_document((run / "findings.json").read_text()) == {"adam": [SLOW, LR_HIGH]}
    assert signals_in(run / "adam_signals.jsonl") == [SIGNALS]
    assert (run / "adam_config.md").read_text() == "| group | lr |"
    assert (run / "adam_last_steps_3.json").read_text() == "[]"
    assert yaml.safe_load((run / "hparams.yaml").read_text()) == OURS
    assert "adam/log10_lr" in (run / "metrics.csv").read_text()


@pytest.mark.filterwarnings("error")
def test_findings_json_has_those_of_all_optimizers_and_is_there_in_a_healthy_run(tmp_path: Path) -> None:
    """Empty lists are the proof that a monitor watched."""
    sink = sinks_of([FabricCSVLogger(tmp_path, name="", version="run")])[0]
    tell_a_run(sink, "adam-AdamW", found=())
    findings = tmp_path / "run" / "findings.json"
    assert read_findings_document(findings.read_text()) == {"adam-AdamW": []}
    tell_a_run(sink, "adam-AdamW-1")
    assert read_findings_document(findings.read_text()) == {"adam-AdamW": [], "adam-AdamW-1": [SLOW, LR_HIGH]}


# Weights & Biases -----------------------------------------------------------------------------------------------------


@pytest.fixture
def wandb() -> Any:
    """The library."""
    return pytest.importorskip("wandb")


def test_wandb_gets_charts_pictures_a_table_alerts_and_files(
    wandb: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the offline folder, from which they are uploaded."""
    logger = WandbLogger(project="sinks", save_dir=tmp_path, offline=True)
    files = Path(logger.experiment.dir)
    capfd.readouterr()  # Lightning gives W&B an argument that it warns of
    tell_a_run(sinks_of([logger])[0])
    logger.experiment.finish()
    records = wandb_records(files.parent)

    rows = [items(row.item) for row in records["history"]]
    logged = [row for row in rows if "adam/log10_lr" in row]
    assert [row["trainer/global_step"] for row in logged] == list(STEPS)
    assert logged[0]["adam.dist/log10_step_size/bins"] == LOG10_EDGES.tolist()
    assert sum(logged[0]["adam.dist/log10_step_size/values"]) == snapshots()[0].hist_step_size.sum()
    assert {m.glob_name: m.step_metric for m in records["metric"] if m.glob_name}["adam*"] == "trainer/global_step"

    picture = next(row for row in rows if "adam.dist/update_ratio_heatmap/path" in row)
    assert (files / picture["adam.dist/update_ratio_heatmap/path"]).stat().st_size > 0
    tables = [row["adam/findings/path"] for row in rows if "adam/findings/path" in row]
    table = json.loads((files / tables[-1]).read_text())
    assert [dict(zip(table["columns"], cells, strict=True))["rule"] for cells in table["data"]] == ["LR-LOW", "LR-HIGH"]
    assert [(alert.title, alert.level) for alert in records["alert"]] == [("LR-HIGH (adam)", "ERROR")]

    settings = {key: value for update in records["config"] for key, value in items(update.update).items()}
    assert {key: settings[key] for key in OURS} == OURS
    assert settings["adam/config"] == "| group | lr |"
    summary = {key: value for update in records["summary"] for key, value in items(update.update).items()}
    assert summary["adam/worst_finding"] == "critical LR-HIGH"
    uploaded = {file.path: file.policy for update in records["files"] for file in update.files}
    live, at_end = (wandb_policy(name) for name in ("LIVE", "END"))
    assert {"findings.json": live, "adam_last_steps_3.json": live, "adam_signals.jsonl": at_end}.items() <= uploaded.items()
    assert read_findings_document((files / "findings.json").read_text()) == {"adam": [SLOW, LR_HIGH]}
    assert signals_in(files / "adam_signals.jsonl") == [SIGNALS]


def test_a_loop_that_numbers_its_own_rows_loses_none_of_them(wandb: Any, tmp_path: Path) -> None:
    """W&B drops what is logged for a row that has gone by; nor is any of ours lost, or a key of the configuration."""
    with wandb.init(project="sinks", dir=tmp_path, config={"lr": 0.5, "betas": [0.9, 0.999]}) as run:
        sink = sinks_of([run])[0]
        for step in range(6):
            run.log({"loss": float(step)}, step=step)
            sink.scalars(step, {"adam/log10_lr": -float(step)})
            sink.findings("adam", step, [LR_HIGH], [LR_HIGH])
            run.log({"accuracy": float(step)}, step=step)
        for step in range(10, 13):
            sink.scalars(step, {"adam/log10_lr": -float(step)})
        sink.hyperparameters(OURS)
        assert dict(run.config) == {**OURS, "lr": 0.5, "adam/lr": 1e-3, "betas": [0.9, 0.999]}
        files = Path(run.dir)
    rows = [items(row.item) for row in wandb_records(files.parent)["history"]]
    theirs = [(row["loss"], row["accuracy"]) for row in rows if "loss" in row]
    assert theirs == [(step, step) for step in range(6)]
    ours = [(row["trainer/global_step"], row["adam/log10_lr"]) for row in rows if "adam/log10_lr" in row]
    assert ours == [(step, -step) for step in (*range(6), 10, 11, 12)]


def test_a_disabled_wandb_run_is_left_alone(wandb: Any) -> None:
    """It has a folder's name, but no folder."""
    run = wandb.init(mode="disabled")
    assert sinks_of([run, WandbLogger(experiment=run)]) == []


# MLflow ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the database and the artifacts; making the tables takes seconds."""
    pytest.importorskip("mlflow")
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture
def mlflow_logger(mlflow_store: Path) -> MLFlowLogger:
    """A new run."""
    return MLFlowLogger(
        tracking_uri=f"sqlite:///{mlflow_store}/mlflow.db", artifact_location=str(mlflow_store / "artifacts")
    )


def artifact(logger: MLFlowLogger, name: str) -> Path:
    """An artifact of a run, where the store has it."""
    return Path(logger.experiment.get_run(logger.run_id).info.artifact_uri, name)


def test_mlflow_gets_metrics_parameters_a_tag_and_artifacts(mlflow_logger: MLFlowLogger) -> None:
    """A logged step is one request; names that MLflow refuses are spelt so that it does not."""
    client = mlflow_logger.experiment
    log_batch = client.log_batch
    client.log_batch = MagicMock(side_effect=log_batch)
    tell_a_run(sinks_of([mlflow_logger])[0])
    run = client.get_run(mlflow_logger.run_id)
    assert [m.step for m in client.get_metric_history(mlflow_logger.run_id, "adam/log10_lr")] == list(STEPS)
    assert len([call for call in client.log_batch.call_args_list if call.kwargs.get("metrics")]) == len(STEPS)
    assert run.data.metrics["adam.groups/log10_lr/blocks_0_"] == -3.0
    assert math.isnan(run.data.metrics["adam/log10_nothing"])
    assert run.data.params == {name: str(value) for name, value in OURS.items()}
    assert run.data.tags["adam.worst_finding"] == "critical LR-HIGH"
    assert read_findings_document(artifact(mlflow_logger, "findings.json").read_text()) == {"adam": [SLOW, LR_HIGH]}
    assert signals_in(artifact(mlflow_logger, "adam_signals.jsonl")) == [SIGNALS]
    assert artifact(mlflow_logger, "adam_config.md").read_text() == "| group | lr |"
    assert artifact(mlflow_logger, "adam.dist/update_ratio_heatmap.png").read_bytes().startswith(b"\x89PNG")


def test_a_healthy_mlflow_run_says_so(mlflow_logger: MLFlowLogger) -> None:
    """With empty lists, and a tag that sorts."""
    tell_a_run(sinks_of([mlflow_logger])[0], found=())
    assert read_findings_document(artifact(mlflow_logger, "findings.json").read_text()) == {"adam": []}
    assert mlflow_logger.experiment.get_run(mlflow_logger.run_id).data.tags["adam.worst_finding"] == "none"


def test_a_resumed_mlflow_run_keeps_its_signals_and_its_parameters(mlflow_logger: MLFlowLogger) -> None:
    """MLflow replaces an artifact whole, and refuses another value for a parameter."""
    tell_a_run(sinks_of([mlflow_logger])[0])
    for lr in (2e-3, 3e-3):
        sink = sinks_of([mlflow_logger])[0]
        sink.hyperparameters({**OURS, "lr": lr})
        sink.records("adam", 5, SIGNALS)
        sink.end()
    parameters = mlflow_logger.experiment.get_run(mlflow_logger.run_id).data.params
    assert (parameters["lr"], parameters["adam/lr"]) == ("0.001", "0.002")
    assert signals_in(artifact(mlflow_logger, "adam_signals.jsonl")) == [SIGNALS] * 3


def test_lightning_may_log_the_users_parameters_to_mlflow_after_us(mlflow_logger: MLFlowLogger) -> None:
    """Ours are in just the same words, however long and nested: other words for a parameter would end the training."""
    theirs = {"note": "x" * 600, "net": {"width": 64}, "lr": 0.1}
    for _ in range(2):  # a trainer may fit twice
        sinks_of([mlflow_logger])[0].hyperparameters(merged_hyperparameters(theirs, OURS))
        mlflow_logger.log_hyperparams(theirs)
    parameters = mlflow_logger.experiment.get_run(mlflow_logger.run_id).data.params
    assert (parameters["net/width"], parameters["lr"], parameters["adam/lr"]) == ("64", "0.1", "0.001")
    assert "adam/note" not in parameters


def test_signals_go_to_mlflow_when_they_have_grown_by_a_quarter(mlflow_logger: MLFlowLogger) -> None:
    """Each upload is of the whole file."""
    client = mlflow_logger.experiment
    client.log_artifact = MagicMock(side_effect=client.log_artifact)
    sink = sinks_of([mlflow_logger])[0]
    for step in range(40):
        sink.records("adam", step, SIGNALS)
    sink.end()
    assert len(signals_in(artifact(mlflow_logger, "adam_signals.jsonl"))) == 40
    assert client.log_artifact.call_count < 20


# Comet ----------------------------------------------------------------------------------------------------------------


def test_comet_gets_scalars_parameters_texts_and_findings_json(tmp_path: Path) -> None:
    """Read from the archive of an offline experiment."""
    pytest.importorskip("comet_ml")
    logger = CometLogger(
        project="sinks", offline_directory=str(tmp_path / "comet"), log_env_details=False, log_code=False,
        log_git_metadata=False, parse_args=False, auto_output_logging=False, display_summary_level=0,
    )  # fmt: skip
    logger.experiment.log_parameter("lr", 0.5)
    tell_a_run(sinks_of([logger])[0])
    sinks_of([logger])[0].hyperparameters(OURS)
    logger.experiment.end()
    with zipfile.ZipFile(next((tmp_path / "comet").glob("*.zip"))) as archive:
        messages = [json.loads(line) for line in archive.read("messages.json").splitlines()]
        told = [message["payload"] for message in messages]
        stored = {
            str(p["additional_params"].get("fileName")): archive.read(p["file_path"]) for p in told if "file_path" in p
        }
        texts = {p["metadata"]["tag"]: archive.read(p["file_path"]) for p in told if "tag" in (p.get("metadata") or {})}
    metrics = [p["metric"] for p in told if "metric" in p]
    assert [m["step"] for m in metrics if m["metricName"] == "adam/log10_lr"] == list(STEPS)
    parameters = {p["param"]["paramName"]: p["param"]["paramValue"] for p in told if "param" in p}
    assert {**OURS, "lr": 0.5, "adam/lr": 1e-3}.items() <= parameters.items()
    assert read_findings_document(stored["findings.json"].decode()) == {"adam": [SLOW, LR_HIGH]}
    assert texts == {"adam/config": b"| group | lr |", "adam/findings": findings_table([SLOW, LR_HIGH]).encode()}
    assert {p["key"]: p["value"] for p in told if "key" in p}["adam/worst_finding"] == "critical LR-HIGH"
    assert any(p["additional_params"].get("figName") == "adam.dist/update_ratio_heatmap" for p in told if "file_path" in p)
