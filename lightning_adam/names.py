"""The names that arguments take, for type checkers and editors; a test holds them against the registries.

Only what neither torch nor a registry is needed for stands here: the registries import this, not the other way round.
"""

from __future__ import annotations

from typing import Literal

OptimizerName = Literal[
    "adam", "adamw", "amsgrad", "nadam", "radam", "adamax", "adafactor", "rmsprop", "sgd", "lbfgs", "muon",
    "adam8bit", "adamw8bit", "paged_adamw", "paged_adamw8bit", "lion8bit", "ademamix8bit", "lamb8bit", "paged_lion",
    "paged_ademamix", "adabelief", "sm3", "ranger", "ranger21", "lion", "sophia", "adan", "adopt", "ademamix", "stableadamw",
    "adamp", "adam_mini", "soap", "lamb", "prodigy", "schedulefree_adamw", "grams", "schedulefree_radam", "schedulefree_sgd",
    "adamz", "caadam", "hn_adam", "bds_adam",
]  # fmt: skip
ScheduleName = Literal[
    "constant", "linear", "cosine", "cosine_restarts", "wsd", "wsd_cosine", "wsd_sqrt", "wsd_exponential", "inverse_sqrt",
    "polynomial", "exponential", "onecycle", "plateau",
]  # fmt: skip
PresetName = Literal["gpt", "bert", "vit", "diffusion", "gan", "finetune", "rl", "memory"]
Mode = Literal["min", "max"]

MEANT = {
    "learning_rate": "lr",
    "learningrate": "lr",
    "max_lr": "lr",
    "wd": "weight_decay",
    "decay_rate": "weight_decay",
    "epsilon": "eps",
    "scheduler": "schedule",
    "lr_scheduler": "schedule",
    "warmup_steps": "warmup",
    "num_warmup_steps": "warmup",
    "warmup_ratio": "warmup",
    "max_steps": "total_steps",
    "num_training_steps": "total_steps",
    "grad_clip": "clip",
    "gradient_clip_val": "clip",
    "max_grad_norm": "clip",
    "max_norm": "clip",
    "llrd": "layer_decay",
    "eta_min": "min_lr",
    "none": "constant",
    "const": "constant",
    "fixed": "constant",
    "flat": "constant",
    "cosine_annealing": "cosine",
    "cosineannealinglr": "cosine",
    "warm_restarts": "cosine_restarts",
    "one_cycle": "onecycle",
    "onecyclelr": "onecycle",
    "reducelronplateau": "plateau",
    "reduce_on_plateau": "plateau",
    "warmup_stable_decay": "wsd",
    "poly": "polynomial",
    "step": "wsd",
}
"""What other libraries call it, where the spelling is too far away for a guess."""
