"""The doctor follows a job that runs, and says what differs between two runs."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from lightning_adam.callbacks import DivergenceMonitor
from lightning_adam.cli import main
from lightning_adam.diagnosis import Finding
from lightning_adam.doctor.comparison import _names, compare
from lightning_adam.doctor.judgement import RunReport
from lightning_adam.doctor.markdown import escaped
from lightning_adam.doctor.watching import follow
from lightning_adam.errors import ConfigError


class Line(L.LightningModule):
    """A regression whose batch number 20 may be NaN."""

    def __init__(self, lr: float, breaks: bool = False) -> None:
        super().__init__()
        self.layer, self.lr, self.breaks = nn.Linear(4, 1), lr, breaks

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        spoilt = batch * float("nan") if self.breaks and index == 20 else batch
        loss = (self.layer(spoilt) - batch.sum(1, keepdim=True)).square().mean()
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr, betas=(0.9, 0.99))


def train(folder: Path, **options: float) -> str:
    torch.manual_seed(0)
    logger = TensorBoardLogger(folder, name="", version="run")
    trainer = L.Trainer(
        max_steps=40,
        accelerator="cpu",
        logger=logger,
        callbacks=[DivergenceMonitor()],
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(Line(**options), torch.utils.data.DataLoader(torch.randn(320, 4), batch_size=8))
    return logger.log_dir


def test_a_job_that_begins_while_it_is_watched_has_its_finding_told_once(tmp_path: Path) -> None:
    told: list[tuple[str, Finding]] = []

    def wait(seconds: float) -> None:
        if not (tmp_path / "jobs").exists():
            train(tmp_path / "jobs", lr=1e-3, breaks=True)

    follow(tmp_path / "jobs", lambda run, finding: told.append((run, finding)), looks=4, sleep=wait)
    assert [(run, f.rule) for run, f in told if f.severity != "info"] == [("run", "NON-FINITE")]


def test_the_comparison_names_the_setting_the_numbers_and_the_step_where_losses_part(tmp_path: Path) -> None:
    slow, fast = train(tmp_path / "slow", lr=1e-3), train(tmp_path / "fast", lr=0.3)
    compared = compare(slow, fast)
    numbers = {d.what: (d.first, d.second) for d in compared.differences if d.about == "numbers"}
    configuration = [(d.what, d.first, d.second) for d in compared.differences if d.about == "configuration"]
    assert configuration == [("configured learning rate", "0.001", "0.3")]
    assert numbers["learning rate, largest"] == ("0.001", "0.3")
    assert float(numbers["last loss"][1]) < float(numbers["last loss"][0])
    assert compared.parted is not None and 0 < compared.parted < 10


def test_a_run_beside_itself_has_no_differences(tmp_path: Path) -> None:
    run = train(tmp_path, lr=1e-3)
    compared = compare(run, run)
    assert compared.differences == () and compared.parted is None
    assert "are alike" in compared.to_markdown()


def test_a_setting_that_differs_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, broken = train(tmp_path / "whole", lr=1e-3), train(tmp_path / "broken", lr=1e-3, breaks=True)
    assert main(["doctor", "--compare", whole, broken]) == 0
    printed = capsys.readouterr().out
    assert "NON-FINITE" in printed and "The losses part at step" in printed


def test_a_folder_of_several_runs_cannot_be_compared(tmp_path: Path) -> None:
    train(tmp_path / "a", lr=1e-3), train(tmp_path / "b", lr=1e-3)
    with pytest.raises(ConfigError, match="holds 2 runs"):
        compare(str(tmp_path), str(tmp_path / "a"))


def test_the_doctor_without_a_folder_says_what_it_wants(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 2
    assert "--compare A B" in capsys.readouterr().err


def test_runs_of_the_same_name_are_told_apart_and_nothing_is_made_up_of_them(tmp_path: Path) -> None:
    """Lightning calls every run ``version_0``; a log without a configuration has none."""
    for experiment, rate in (("slow", 0.9), ("fast", 0.5)):
        folder = tmp_path / experiment / "version_0"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text("\n".join(["step,train_loss", *(f"{k},{rate**k}" for k in range(30))]))

    compared = compare(str(tmp_path / "slow/version_0"), str(tmp_path / "fast/version_0"))

    assert "**slow/version_0" in compared.to_markdown() and "**fast/version_0" in compared.to_markdown()
    assert {difference.about for difference in compared.differences} == {"numbers"}


def test_run_that_lies_in_another_of_its_name_is_told_by_its_full_path(tmp_path: Path) -> None:
    """A run of TensorBoard's is a folder, and may hold another one."""
    folders = tmp_path / "version_0", tmp_path / "version_0/version_0"
    outer, inner = (RunReport("version_0", folder, (), (), (), "", ()) for folder in folders)

    assert _names(outer, inner) == tuple(escaped(folder.as_posix()) for folder in folders)
