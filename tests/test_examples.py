"""The examples run, and show what they say."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import lightning as L
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import lightning_adam as la
from tests.children import Child, start
from tests.digits import Digits, digits_loader, trainer

EXAMPLES = Path(__file__).parent.parent / "examples"


def started(folder: Path, *arguments: str) -> Child:
    """The LightningCLI example in a process of its own."""
    return start(folder, "lightning_adam.examples.lightning_cli.train", "fit", *arguments)


@pytest.mark.parametrize("example", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: path.name)
def test_an_example_imports_only_what_is_installed_with_the_package(example: Path) -> None:
    """What a function imports for itself is what it is about, such as Accelerate."""
    modules = ast.parse(example.read_text(encoding="utf-8")).body
    names = {alias.name for line in modules if isinstance(line, ast.Import) for alias in line.names}
    names |= {line.module or "" for line in modules if isinstance(line, ast.ImportFrom)}
    installed = {"lightning", "lightning_adam", "torch", "numpy"}
    assert {name.partition(".")[0] for name in names} <= installed | sys.stdlib_module_names


@pytest.mark.parametrize("name", ["train_with_fabric", "train_with_accelerate"])
def test_loops_without_a_trainer_take_the_same_steps(name: str, tmp_path: Path) -> None:
    """Schedule and clipping need no Trainer: the loops have the same losses, and learn; the monitors see the same steps."""
    from lightning_adam.examples import without_trainer

    if name == "train_with_accelerate":
        pytest.importorskip("accelerate")
    (plain, found), (wrapped, found_there) = (
        getattr(without_trainer, loop)(60, tmp_path / loop) for loop in ("train_plainly", name)
    )

    assert plain == pytest.approx(wrapped, rel=1e-6)
    assert plain[-1] < 0.5 * plain[0]
    assert found == found_there == []
    assert written(tmp_path / "train_plainly") == written(tmp_path / name)


def written(folder: Path) -> dict[str, list[tuple[int, str]]]:
    """Our scalars by tag; the tags name the tensors."""
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, f"{e.value:.4g}") for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_cli_trains_from_yaml_and_follows_overrides(tmp_path: Path) -> None:
    """The YAML's dataclass reaches the helper; a command-line value wins; a rule may be given by class path."""
    options = [
        f"--config={EXAMPLES / 'lightning_cli' / 'config.yaml'}",
        f"--trainer.default_root_dir={tmp_path}",
        "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=10",
        "--trainer.enable_progress_bar=false",
        "--model.optim.schedule=wsd",
        "--model.optim.clip=lightning_adam.ClipValue",
        "--model.optim.clip.max_value=0.5",
    ]
    started(tmp_path, *options).output()

    saved = next(tmp_path.rglob("config.yaml")).read_text()
    assert "schedule: wsd" in saved
    assert "class_path: lightning_adam.ClipValue" in saved
    assert "max_value: 0.5" in saved


def test_cli_help_names_the_settings(tmp_path: Path) -> None:
    """``--help`` shows every setting with its meaning, and a misspelt one is refused."""
    text = started(tmp_path, "--help").output()

    assert "--model.optim.warmup" in text
    assert "duration of the warmup" in text
    refused = started(tmp_path, "--model.optim.warmpu=5")
    assert refused.ended() != 0
    assert "warmpu" in refused.err.read_text()


class Remembering(Digits):
    """Keeps its config among the hyper-parameters, as LightningModules do."""

    def __init__(self, config: la.OptimizerConfig) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.config = config

    def configure_optimizers(self) -> object:
        """The config is all there is to say."""
        return la.configure_optimizers(self, self.config)


def test_config_among_the_hyper_parameters_survives_a_checkpoint(tmp_path: Path) -> None:
    """Lightning loads with weights_only: a dataclass would stop the resume, were it not registered."""
    config = la.OptimizerConfig(lr=1e-3, clip=la.ClipNorm(0.5), total_steps=56)
    first = trainer(max_epochs=1)
    first.fit(Remembering(config), digits_loader())
    first.save_checkpoint(tmp_path / "one.ckpt")
    second = trainer(max_epochs=2)
    second.fit(Remembering(config), digits_loader(), ckpt_path=tmp_path / "one.ckpt")

    assert second.global_step == 56
    assert Remembering.load_from_checkpoint(tmp_path / "one.ckpt").config == config


def test_fabric_keeps_the_guided_step() -> None:
    """Under Fabric the wrapped optimizer still clips and moves its schedule on."""
    fabric = L.Fabric(accelerator="cpu", devices=1)
    net = nn.Linear(2, 2)
    made = la.configure_optimizers(net, lr=1.0, total_steps=4, warmup=0, schedule="linear", clip=0.1)
    net, optimizer = fabric.setup(net, made["optimizer"])
    net(fabric.to_device(torch.ones(1, 2))).sum().backward()
    optimizer.step()

    assert made["optimizer"].param_groups[0]["lr"] == pytest.approx(0.75)
    assert bool(made["optimizer"].adam_clip.clipped)
