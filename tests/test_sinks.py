"""What arrives in each kind of logger, read back from what the real libraries wrote; nothing leaves the machine."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
import yaml
from lightning.fabric.loggers import CSVLogger as FabricCSVLogger
from lightning.fabric.loggers import TensorBoardLogger as FabricTensorBoardLogger
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
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
from lightning_adam.statistics import QUANTITIES
from tests import sink_runs
from tests.sink_runs import (
    LR_HIGH,
    OURS,
    SIGNALS,
    SLOW,
    STEPS,
    hparams_tab,
    signals_in,
    tell_a_run,
)

alone = sink_runs.alone


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
