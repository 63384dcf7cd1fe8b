"""Settings that the papers of a field used, as starting points. What the user gives wins over the preset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """Arguments of :class:`lightning_adam.OptimizerConfig`, and where they come from."""

    arguments: Mapping[str, Any]
    source: str


PRESETS: dict[str, Preset] = {
    "gpt": Preset(
        {"optimizer": "adamw", "lr": 6e-4, "betas": (0.9, 0.95), "weight_decay": 0.1, "schedule": "cosine", "warmup": 0.05,
         "min_lr": 0.1, "clip": 1.0},
        "Brown et al. 2020, arXiv:2005.14165, appendix B; its warmup is 375M tokens",
    ),
    "bert": Preset(
        {"optimizer": "adamw", "lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01, "schedule": "linear",
         "warmup": 0.05, "clip": 1.0},
        "Devlin et al. 2018, arXiv:1810.04805, appendix A.2; its warmup is 1 % of a million steps",
    ),
    "vit": Preset(
        {"optimizer": "adamw", "lr": 5e-4, "betas": (0.9, 0.999), "weight_decay": 0.05, "schedule": "cosine",
         "warmup": "5ep", "min_lr": 0.02, "clip": None},
        "Touvron et al. 2020 (DeiT), arXiv:2012.12877, table 9; lr for batch 512; tokens and positions are not decayed; "
        "ends at 1e-5, as its authors' code does",
    ),
    "diffusion": Preset(
        {"optimizer": "adam", "lr": 2e-4, "betas": (0.9, 0.999), "weight_decay": 0.0, "schedule": "constant", "warmup": 0.01,
         "clip": 1.0},
        "Ho et al. 2020, arXiv:2006.11239, appendix B; its warmup is 5,000 steps",
    ),
    "gan": Preset(
        {"optimizer": "adam", "lr": 2e-4, "betas": (0.5, 0.999), "weight_decay": 0.0, "schedule": "constant", "warmup": 0,
         "clip": None},
        "Radford et al. 2015 (DCGAN), arXiv:1511.06434, section 4",
    ),
    "finetune": Preset(
        {"optimizer": "adamw", "lr": 2e-5, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.1, "schedule": "linear",
         "warmup": 0.06, "clip": None},
        "Liu et al. 2019 (RoBERTa), arXiv:1907.11692, table 10; no clipping there",
    ),
    "rl": Preset(
        {"optimizer": "adam", "lr": 3e-4, "eps": 1e-5, "weight_decay": 0.0, "schedule": "linear", "warmup": 0, "clip": 0.5},
        "Huang et al. 2022, The 37 implementation details of PPO, details 3, 4 and 11",
    ),
    "memory": Preset(
        {"optimizer": "paged_adamw8bit", "lr": 2e-4, "weight_decay": 0.0, "schedule": "constant", "warmup": 0.03,
         "clip": 0.3},
        "Dettmers et al. 2023 (QLoRA), arXiv:2305.14314, appendix B; there with paged AdamW",
    ),
}  # fmt: skip
