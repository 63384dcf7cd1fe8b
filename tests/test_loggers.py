"""A sick run under each logger, from the Trainer to the doctor: what was found live is found afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger

import lightning_adam as la
from lightning_adam.callbacks import DivergenceMonitor, OptimizerMonitor
from lightning_adam.cli import main
from tests.digits import Digits, digits_loader, trainer
from tests.sink_runs import keep_offline


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing leaves the machine or the folder."""
    monkeypatch.chdir(tmp_path)
    keep_offline(monkeypatch, tmp_path)


def wandb(folder: Path) -> Any:
    """An offline run."""
    library = pytest.importorskip("wandb")
    library.finish()  # another test's, which this one would join
    return WandbLogger(save_dir=folder, offline=True, project="digits")


def mlflow(folder: Path) -> Any:
    """A local database, and artifacts beside it."""
    pytest.importorskip("mlflow")
    return MLFlowLogger(tracking_uri=f"sqlite:///{folder}/runs.db", artifact_location=str(folder / "artifacts"))


LOGGERS: dict[str, Callable[[Path], Any]] = {
    "tensorboard": TensorBoardLogger,
    "csv": CSVLogger,
    "wandb": wandb,
    "mlflow": mlflow,
    "both": lambda folder: [TensorBoardLogger(folder / "tensorboard"), CSVLogger(folder / "csv")],
}
RUNS: dict[str, dict[str, Any]] = {
    "healthy": {},
    "a NaN": {"poison": (40,)},
    "a rate too high": {"lr": 1.0, "warmup": 0},
}


SERVICES = ("wandb", "mlflow")
"""They take seconds to start; ``test_sinks_of_services`` and ``test_doctor_wandb`` have them by default."""
CASES = [
    pytest.param(kind, run, marks=[pytest.mark.slow] if kind in SERVICES and (kind, run) != ("wandb", "a NaN") else [])
    for kind in LOGGERS
    for run in RUNS
]


@pytest.mark.parametrize(("kind", "run"), CASES)
def test_the_doctor_says_afterwards_what_was_found_live(
    kind: str, run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same findings, to the last word; the exit status and the JSON's ``healthy`` agree with them."""
    folder = tmp_path / "logs"
    folder.mkdir()
    monitor = DivergenceMonitor()
    fit = trainer(max_steps=60, log_every_n_steps=10, logger=LOGGERS[kind](folder), callbacks=[OptimizerMonitor(), monitor])
    fit.fit(Digits(**RUNS[run]), digits_loader())
    if kind == "wandb":
        fit.logger.experiment.finish()  # type: ignore[union-attr]

    report = la.report(folder)
    grave = any(finding.severity != "info" for finding in monitor.findings)
    capsys.readouterr()
    assert bool(monitor.findings) is (run != "healthy")
    for judged in report.runs:
        assert repr(list(judged.findings)) == repr(monitor.findings)
    assert main(["doctor", str(folder), "--format", "json"]) == int(grave)
    assert [one["healthy"] for one in json.loads(capsys.readouterr().out)["runs"]] == [not grave] * len(report.runs)
    assert monitor.failures == set()
