"""Preflight from the command line: a class, a configuration, a baseline, the forms that machines read."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lightning_adam.cli import main

PROGRAM = """
import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Data(L.LightningDataModule):
    def train_dataloader(self):
        torch.manual_seed(0)
        x = torch.randn(256, 8)
        return DataLoader(TensorDataset(x, x.sum(1) + 0.1 * torch.randn(256)), batch_size=32, shuffle=True)


class Sick(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))

    def training_step(self, batch, index):
        x, y = batch
        return nn.functional.mse_loss(self.net(x), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


class Healthy(Sick):
    def training_step(self, batch, index):
        x, y = batch
        return nn.functional.mse_loss(self.net(x).squeeze(-1), y)
"""
LINE = 1 + PROGRAM.splitlines().index("        return nn.functional.mse_loss(self.net(x), y)")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A user's file with a sick module and a healthy one."""
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    return file


def test_a_sick_class_ends_with_1_and_a_healthy_one_with_0(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{program}:Sick", "--data", f"{program}:Data"]) == 1
    assert "BROADCAST" in capsys.readouterr().out
    assert main(["check", f"{program}:Healthy", "--data", f"{program}:Data"]) == 0


def test_a_file_imports_what_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``python train.py`` does, from wherever the command is called."""
    monkeypatch.setattr("sys.path", [place for place in sys.path if place])
    (tmp_path / "its_neighbour.py").write_text(PROGRAM)
    train = tmp_path / "train.py"
    train.write_text("from its_neighbour import Data, Healthy")

    assert main(["check", f"{train}:Healthy", "--data", f"{train}:Data"]) == 0


def test_what_a_baseline_holds_is_silent(program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["check", f"{program}:Sick", "--data", f"{program}:Data", "--format", "json"]
    assert main(arguments) == 1
    known = tmp_path / "known.json"
    known.write_text(capsys.readouterr().out)
    assert main([*arguments, "--baseline", str(known)]) == 0


def test_sarif_points_at_the_line_of_the_loss_call(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", f"{program}:Sick", "--data", f"{program}:Data", "--format", "sarif"])
    results = json.loads(capsys.readouterr().out)["runs"][0]["results"]
    place = next(r for r in results if r["ruleId"] == "BROADCAST")["locations"][0]["physicalLocation"]
    assert place["region"]["startLine"] == LINE and place["artifactLocation"]["uri"].endswith("program.py")


def test_a_configuration_of_lightning_cli_is_checked(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("jsonargparse")
    monkeypatch.setattr("sys.path", [place for place in sys.path if place])  # as an installed command has it
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "config.yaml"
    config.write_text(
        "trainer: {accelerator: cpu, max_epochs: 1, logger: false}\n"
        "model: {class_path: program.Sick}\ndata: {class_path: program.Data}\n"
    )
    assert main(["check", str(config)]) == 1
    assert "BROADCAST" in capsys.readouterr().out


SAVED = """# lightning.pytorch==2.5.1
seed_everything: true
trainer: {{accelerator: cpu, max_epochs: 20, logger: false, {trainer}}}
model: {{class_path: program.Healthy}}
data: {{class_path: program.Data}}
optimizer: {{class_path: torch.optim.SGD, init_args: {{lr: {lr}, momentum: 0.9}}}}
lr_scheduler: {{class_path: torch.optim.lr_scheduler.{schedule}}}
ckpt_path: null
"""
STEADY = "StepLR, init_args: {step_size: 20}"


@pytest.mark.parametrize(
    ("trainer", "lr", "schedule", "says"),
    [
        ("gradient_clip_val: null", 0.05, STEADY, "nothing found"),
        ("gradient_clip_val: 1.0e-6", 0.05, STEADY, "CLIP-ALWAYS"),
        ("gradient_clip_val: null", 50.0, STEADY, "LR-HIGH"),
        ("gradient_clip_val: null", 0.05, "StepLR, init_args: {step_size: 1}", "SCHEDULE-COLLAPSED"),
    ],
)
def test_a_fault_in_what_fit_has_saved_is_named(
    trainer: str, lr: float, schedule: str, says: str,
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The module is healthy: what is wrong stands in the trainer, the optimizer or the schedule of ``config.yaml``."""
    pytest.importorskip("jsonargparse")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = tmp_path / "config.yaml"
    config.write_text(SAVED.format(trainer=trainer, lr=lr, schedule=schedule))

    assert main(["check", str(config)]) == int(says != "nothing found")
    assert says in capsys.readouterr().out


def test_the_section_of_fit_is_taken_from_a_file_for_all_subcommands(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("jsonargparse")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = tmp_path / "config.yaml"
    config.write_text("fit: {model: {class_path: program.Sick}, data: {class_path: program.Data}, trainer: {logger: false}}")
    assert main(["check", str(config)]) == 1
    assert "BROADCAST" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["[1, 2]", "a: [1"])
def test_a_configuration_that_is_none_is_one_line(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(content)
    assert main(["check", str(config)]) == 2
    assert "config.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "says"),
    [("Sick", "write module:Class"), ("no_such_module:Sick", "could not be imported"), ("json:Sick", "json has no Sick")],
)
def test_a_target_that_cannot_be_checked_is_one_line(target: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", target]) == 2
    assert says in capsys.readouterr().err


def test_what_cannot_be_tried_is_no_success(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A training step that raises, and a module that has no data: exit status 2, and no traceback."""
    assert main(["check", f"{program}:Sick"]) == 2
    assert "Sick has no train_dataloader" in capsys.readouterr().err

    program.write_text(program.read_text().replace("x, y = batch", "x, y, z = batch"))
    assert main(["check", f"{program}:Sick", "--data", f"{program}:Data"]) == 2
    assert "training_step raised ValueError: not enough values to unpack" in capsys.readouterr().out
