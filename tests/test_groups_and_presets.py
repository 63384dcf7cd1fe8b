"""Layer-wise rates, presets, and what the helper says it has made."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from torch import nn

import lightning_adam as la
from lightning_adam.layer_depth import layer_depths
from lightning_adam.presets import PRESETS
from lightning_adam.schedules import SCHEDULES
from tests.digits import Digits, digits_loader, trainer


def test_layer_decay_multiplies_towards_the_input() -> None:
    """Depths 0 (embedding), 1, 2 (blocks) and 3 (head): 0.5³, 0.5², 0.5, 1 of the rate."""
    module = nn.ModuleDict(
        {"embed": nn.Embedding(3, 2), "blocks": nn.ModuleList([nn.Linear(2, 2) for _ in range(2)]), "head": nn.Linear(2, 3)}
    )
    made = la.configure_optimizers(module, lr=1.0, total_steps=10, warmup=0, schedule="constant", layer_decay=0.5)
    rates = {name: g["lr"] for g in made["optimizer"].param_groups for name in g["adam_names"]}

    assert rates["embed.weight"] == 0.125
    assert rates["blocks.0.weight"] == rates["blocks.0.bias"] == 0.25
    assert rates["blocks.1.weight"] == 0.5
    assert rates["head.weight"] == 1.0
    assert len({g["name"] for g in made["optimizer"].param_groups}) == len(made["optimizer"].param_groups)


@pytest.mark.parametrize("name", SCHEDULES)
def test_layer_decay_works_with_every_schedule(name: str) -> None:
    """The ratio of two layers' rates stays as it is while the schedule runs (torch schedulers ignore timm's lr_scale)."""
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    made = la.configure_optimizers(module, total_steps=20, warmup=4, schedule=name, layer_decay=0.5)
    schedule = made["lr_scheduler"]["scheduler"]
    for _ in range(12):
        rates = {lr for lr in schedule.get_last_lr() if lr > 0}
        assert max(rates) == pytest.approx(2 * min(rates))
        schedule.advance()


def test_depths_of_stages_and_numbered_layers() -> None:
    """ConvNeXt's stages.0.blocks.1 and ResNet's layer1.0 count block by block."""
    names = ["stem.w", "stages.0.blocks.0.w", "stages.0.blocks.1.w", "stages.1.blocks.0.w", "head.w"]

    assert list(layer_depths(names).values()) == [0, 1, 2, 3, 4]
    assert layer_depths(["conv1.w", "layer1.0.w", "layer1.1.w", "fc.w"])["layer1.1.w"] == 2


@pytest.mark.parametrize("name", PRESETS)
def test_preset_trains(name: str) -> None:
    """Every preset makes an optimizer that brings the loss down, and names its source."""
    module = Digits(preset=name, lr=None, warmup=0.1)
    trainer(max_epochs=5).fit(module, digits_loader())

    assert sum(module.losses[-10:]) < sum(module.losses[:10])
    assert "20" in PRESETS[name].source


QUOTED = {
    "gpt": {"betas": (0.9, 0.95), "eps": None, "weight_decay": 0.1, "clip": 1.0, "min_lr": 0.1},
    "bert": {"lr": 1e-4, "betas": (0.9, 0.999), "weight_decay": 0.01, "schedule": "linear"},
    "vit": {"lr": 5e-4, "weight_decay": 0.05, "warmup": "5ep", "clip": None, "min_lr": 1e-5 / 5e-4},
    "diffusion": {"lr": 2e-4, "clip": 1.0},
    "gan": {"lr": 2e-4, "betas": (0.5, 0.999), "warmup": 0, "clip": None},
    "finetune": {"betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.1, "warmup": 0.06, "schedule": "linear", "clip": None},
    "rl": {"eps": 1e-5, "clip": 0.5, "schedule": "linear"},
    "memory": {"lr": 2e-4, "weight_decay": 0.0, "schedule": "constant", "clip": 0.3},
}
"""What the sources print: GPT-3's appendix B; BERT's A.2; DeiT's table 9 (clipping off) and code (min_lr 1e-5); DDPM's
appendix B and code; DCGAN's section 4; RoBERTa's table 10 and section 3.1 (no clipping when fine-tuning); PPO's details 3,
4 and 11; QLoRA's appendix B (constant, maximal norm 0.3, no decay)."""


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_numbers_that_its_source_prints(name: str) -> None:
    assert {key: PRESETS[name].arguments.get(key) for key in QUOTED[name]} == QUOTED[name]


def test_what_is_given_wins_over_the_preset() -> None:
    """The preset fills only what was left open."""
    made = la.configure_optimizers(nn.Linear(2, 2), preset="gan", lr=0.5, total_steps=10)

    assert type(made["optimizer"]).__name__ == "Adam"
    assert made["optimizer"].defaults["betas"] == (0.5, 0.999)
    assert made["optimizer"].param_groups[0]["initial_lr"] == 0.5
    assert made["optimizer"].adam_rule is None


def test_another_optimizer_takes_its_own_rate_under_a_preset() -> None:
    """AdamW's learning rate and betas mean nothing to Lion."""
    made = la.configure_optimizers(nn.Linear(2, 2), "lion", preset="gpt", total_steps=10)

    assert made["optimizer"].param_groups[0]["initial_lr"] == 3e-4
    assert made["lr_scheduler"]["scheduler"].phases.min_factor == 0.1


def test_description_says_groups_phases_clip_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    """The table that also goes to TensorBoard's text tab."""
    made = la.configure_optimizers(nn.Linear(100, 10), lr=0.01, total_steps=200, warmup=20)
    text = la.describe(made)

    assert "| decay | 1 | 1,000 | 0.01 | 0.01 |" in text
    assert "| no_decay | 1 | 10 |" in text
    assert "warmup 20 steps, decay 180 steps, in all 200 steps" in text
    assert "ClipNorm(max_norm=1.0)" in text
    assert "8 bytes per parameter" in text
    assert capsys.readouterr().out.strip() == text.strip()


def test_description_of_a_module_counts_epochs() -> None:
    """With a trainer, durations are also in epochs."""
    seen: list[str] = []

    class Described(Digits):
        def on_train_start(self) -> None:
            seen.append(la.describe(self))

    trainer(max_epochs=2).fit(Described(warmup="1ep"), digits_loader())

    assert "warmup 28 steps (1 epochs)" in seen[0]


def test_description_of_a_config_names_preset_values() -> None:
    """A config alone says what it will be."""
    text = la.describe(la.OptimizerConfig(preset="gpt", total_steps=1000))

    assert "| min_lr | 0.1 |" in text
    assert "warmup 50 steps" in text


def test_schedule_is_drawn(tmp_path: Path) -> None:
    """The plot's line is the schedule's rate."""
    pytest.importorskip("matplotlib")
    figure = la.plot_schedule(la.OptimizerConfig(lr=2.0, schedule="cosine", warmup=10), 100)
    figure.savefig(tmp_path / "schedule.png")
    line = figure.axes[0].lines[0].get_ydata()

    assert line[9] == 2.0
    assert line[55] == pytest.approx(2.0 * 0.5 * (1 + math.cos(math.pi * 45 / 90)))
    assert (tmp_path / "schedule.png").stat().st_size > 5000
