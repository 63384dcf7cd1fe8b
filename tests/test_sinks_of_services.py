"""What arrives in W&B, MLflow and Comet, read back from what the real libraries wrote; nothing leaves the machine."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from lightning.pytorch.loggers import CometLogger, MLFlowLogger, WandbLogger

from lightning_adam.diagnosis import findings_table
from lightning_adam.diagnosis.archive import read_findings_document
from lightning_adam.sinks import merged_hyperparameters, sinks_of
from lightning_adam.statistics import LOG10_EDGES
from tests import sink_runs
from tests.sink_runs import (
    LR_HIGH,
    OURS,
    SIGNALS,
    SLOW,
    STEPS,
    items,
    signals_in,
    snapshots,
    tell_a_run,
    wandb_policy,
    wandb_records,
)

alone = sink_runs.alone

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
