"""How a family's run is trained where it is not trained as usual: another schedule, precision or optimizer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LinearLR,
    OneCycleLR,
    PolynomialLR,
    SequentialLR,
    StepLR,
)

from tests.benchmarks.divergence.corpus.family import Family
from tests.benchmarks.divergence.corpus.optimizers import ADAMS

EPOCH = 50
"""Steps of what counts as an epoch."""


def _warmup(optimizer: Optimizer, steps: int) -> LinearLR:
    return LinearLR(optimizer, 0.01, 1.0, max(1, steps // 10))


def _warmup_cosine(optimizer: Optimizer, steps: int) -> SequentialLR:
    warm = _warmup(optimizer, steps)
    return SequentialLR(optimizer, [warm, CosineAnnealingLR(optimizer, steps - warm.total_iters)], [warm.total_iters])


def _one_cycle(optimizer: Optimizer, steps: int) -> OneCycleLR:
    """To three times the rate, with the momentum that goes the other way where there is one."""
    cycles = bool("betas" in optimizer.defaults or optimizer.defaults.get("momentum"))
    return OneCycleLR(optimizer, [3 * group["lr"] for group in optimizer.param_groups], steps, cycle_momentum=cycles)


SCHEDULES: dict[str, Callable[[Optimizer, int], Any]] = {
    "cosine": lambda optimizer, steps: CosineAnnealingLR(optimizer, steps),
    "linear": lambda optimizer, steps: PolynomialLR(optimizer, steps),
    "warmup": _warmup,
    "warmup-cosine": _warmup_cosine,
    "onecycle": _one_cycle,
    "restarts": lambda optimizer, steps: CosineAnnealingWarmRestarts(optimizer, max(1, steps // 3)),
    "per-epoch": lambda optimizer, steps: StepLR(optimizer, 2, 0.3),
}
"""Torch's own schedulers."""
PER_EPOCH = frozenset({"per-epoch"})
"""Stepped at the end of an epoch."""


@dataclass(frozen=True)
class Precision:
    """What is computed in what.

    Attributes:
        weights: their type, and the batches'.
        autocast: the type of matrix products; None where there is no autocast.
        scaled: whether a gradient scaler is used.
    """

    weights: torch.dtype = torch.float32
    autocast: torch.dtype | None = None
    scaled: bool = False


PRECISIONS: dict[str, Precision] = {
    "fp32": Precision(),
    "float64": Precision(torch.float64),
    "bf16": Precision(torch.bfloat16),
    "bf16-mixed": Precision(autocast=torch.bfloat16),
    "fp16": Precision(autocast=torch.float16, scaled=True),
}


@dataclass(frozen=True)
class Setting:
    """One way to train.

    Attributes:
        optimizer: a key of ``OPTIMIZERS``; empty for the family's own.
        rate: what the family's rate is multiplied by, which is one of Adam's then.
        lr: instead of that, the rate itself.
        precision: a key of ``PRECISIONS``.
        schedule: a key of ``SCHEDULES``; empty for a constant rate.
        clip: the total norm.
    """

    optimizer: str = ""
    rate: float = 1.0
    lr: float | None = None
    precision: str = "fp32"
    schedule: str = ""
    clip: float | None = None

    def applies(self, family: Family) -> bool:
        """Rates are carried over from Adam to others only."""
        others = family.optimizer in ADAMS and self.optimizer != family.optimizer
        is_able = self.precision not in family.not_in and (self.clip is None or "clip" not in family.not_in)
        return is_able and (not self.optimizer or others)

    def of(self, family: Family) -> Family:
        """The family with the other optimizer and its rate."""
        lr = family.lr * self.rate if self.lr is None else self.lr
        return replace(family, optimizer=self.optimizer or family.optimizer, lr=lr)


_OPTIMIZERS: dict[str, Setting] = {
    "momentum": Setting("momentum", 10.0),
    "rmsprop": Setting("rmsprop", 0.5),
    "adagrad": Setting("adagrad", 10.0),
    "amsgrad": Setting("amsgrad"),
    "adafactor": Setting("adafactor", 5.0),
    "lion": Setting("lion", 0.2),
    "8bit": Setting("8bit"),
    "prodigy": Setting("prodigy", lr=1.0),
    "schedule-free": Setting("schedule-free", 2.0),
    "adan": Setting("adan"),
    "adopt": Setting("adopt"),
    "adabelief": Setting("adabelief"),
    "ademamix": Setting("ademamix"),
    "lamb": Setting("lamb", 3.0),
    "soap": Setting("soap"),
    "muon": Setting("muon", 5.0),
}
_LOOPS: dict[str, Setting] = {
    **{name: Setting(schedule=name) for name in SCHEDULES},
    **{name: Setting(precision=name) for name in PRECISIONS if name != "fp32"},
    "clip-1": Setting(clip=1.0),
    "bf16-mixed-warmup-cosine-clip": Setting(precision="bf16-mixed", schedule="warmup-cosine", clip=1.0),
}
SETTINGS: Mapping[str, Setting] = {"": Setting(), **_LOOPS, **_OPTIMIZERS}
"""The first is a family's usual way."""


def settings_of(family: Family, count: int = 5) -> list[str]:
    """Every schedule and precision that applies, and some of the optimizers, by the hash of the family's name."""
    able = [name for name in _OPTIMIZERS if _OPTIMIZERS[name].applies(family)]
    chosen = sorted(able, key=lambda name: digest(family.name, name))[:count]
    return [name for name in _LOOPS if _LOOPS[name].applies(family)] + chosen


def setting_of(family: Family, mistake: str) -> str:
    """One for this mistake, by the hash of both names."""
    return min(settings_of(family), key=lambda name: digest(family.name, mistake, name))


def digest(*names: str) -> bytes:
    """The same in each process and version, other than Python's own hash."""
    return hashlib.sha256("/".join(names).encode()).digest()
