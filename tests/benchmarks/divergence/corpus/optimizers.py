"""The optimizers of the corpus: torch's own and those of the libraries that people install, never the helper's."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

Make = Callable[[Any, float], Optimizer]


def of_library(module: str, name: str, **options: Any) -> Make:
    """A class that is imported where it is used: a run without it needs no such library."""
    return lambda p, lr: getattr(importlib.import_module(module), name)(p, lr=lr, **options)


def muon(parameters: Any, lr: float) -> Optimizer:
    """Muon for matrices, AdamW at a tenth of the rate for the rest, in one object (pytorch-optimizer's)."""
    made = [p for p in parameters if p.ndim >= 2], [p for p in parameters if p.ndim < 2]
    rest = {"params": made[1], "lr": 0.1 * lr, "use_muon": False}
    groups = [{"params": made[0], "lr": lr, "use_muon": True}, *([rest] if made[1] else [])]
    return importlib.import_module("pytorch_optimizer").Muon(groups)  # type: ignore[no-any-return]


OPTIMIZERS: dict[str, Make] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adam-gan": lambda p, lr: torch.optim.Adam(p, lr, betas=(0.5, 0.999)),
    "adamw-95": lambda p, lr: torch.optim.AdamW(p, lr, betas=(0.9, 0.95), weight_decay=0.1),
    "adam-98": lambda p, lr: torch.optim.Adam(p, lr, betas=(0.9, 0.98), eps=1e-9),
    "adam-99": lambda p, lr: torch.optim.Adam(p, lr, betas=(0.99, 0.999)),
    "adam-ngp": lambda p, lr: torch.optim.Adam(p, lr, betas=(0.9, 0.99), eps=1e-15),
    "adam-0": lambda p, lr: torch.optim.Adam(p, lr, betas=(0.0, 0.999)),
    "amsgrad": lambda p, lr: torch.optim.Adam(p, lr, amsgrad=True),
    "sgd": torch.optim.SGD,
    "momentum": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9),
    "momentum-99": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.99),
    "nesterov": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9, nesterov=True, weight_decay=5e-4),
    "rmsprop": torch.optim.RMSprop,
    "rmsprop-dqn": lambda p, lr: torch.optim.RMSprop(p, lr, alpha=0.95, eps=0.01, centered=True),
    "adagrad": torch.optim.Adagrad,
    "sparse-adam": torch.optim.SparseAdam,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "adamax": torch.optim.Adamax,
    "adafactor": torch.optim.Adafactor,
    "lion": of_library("lion_pytorch", "Lion"),
    "8bit": of_library("bitsandbytes.optim", "AdamW8bit", min_8bit_size=256),
    "prodigy": of_library("prodigyopt", "Prodigy"),
    "schedule-free": of_library("schedulefree", "AdamWScheduleFree"),
    "adan": of_library("pytorch_optimizer", "Adan"),
    "adopt": of_library("pytorch_optimizer", "ADOPT"),
    "adabelief": of_library("pytorch_optimizer", "AdaBelief"),
    "ademamix": of_library("pytorch_optimizer", "AdEMAMix"),
    "lamb": of_library("pytorch_optimizer", "Lamb"),
    "soap": of_library("pytorch_optimizer", "SOAP"),
    "muon": muon,
}
ADAMS = frozenset({
    "adam", "adamw", "adamw-95", "adam-gan", "adam-98", "adam-99", "adam-ngp", "adam-0", "amsgrad", "nadam",
    "radam",
})  # fmt: skip
"""Those with Adam's formula and its arguments."""
