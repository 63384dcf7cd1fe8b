"""What is broken in a family's run: each a change of the loop, its data or its rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.benchmarks.divergence.corpus.family import Batch, Family
from tests.benchmarks.divergence.corpus.optimizers import ADAMS

TOO_LARGE = frozenset({"LR-HIGH", "NO-WARMUP"})


@dataclass(frozen=True)
class Mistake:
    """One sickness.

    Attributes:
        cause: its code.
        accepted: other codes that name the same mistake.
        applies: to which families.
        rate: the family's rate times this.
        factor: the rate's multiplier per step and run length.
        batch: changes a batch, given the step and the run length.
        loss: changes the loss, given the step and the run length.
        eps, betas, weight_decay, clip: for the optimizer or the loop.
        zeroed: whether gradients are cleared.
        stale: whether the optimizer holds the tensors of a copy.
        onset: at which share of the run it begins.
        exact: whether it is a fact that needs no harm to be sick.
    """

    cause: str
    accepted: frozenset[str] = frozenset()
    applies: Callable[[Family], bool] = lambda family: True
    rate: float = 1.0
    factor: Callable[[int, int], float] | None = None
    batch: Callable[[int, int, Batch], Batch] | None = None
    loss: Callable[[int, int, Tensor], Tensor] | None = None
    eps: float | None = None
    betas: tuple[float, float] | None = None
    weight_decay: float | None = None
    clip: float | None = None
    zeroed: bool = True
    stale: bool = False
    onset: float = 0.0
    exact: bool = False


def _shuffled(step: int, steps: int, batch: Batch) -> Batch:
    return (*batch[:-1], batch[-1][torch.randperm(len(batch[-1]))])


def _one_bad(change: Callable[[Tensor], Tensor]) -> Callable[[int, int, Batch], Batch]:
    return lambda step, steps, batch: (change(batch[0]), *batch[1:]) if step == round(0.6 * steps) else batch


def _with_nan(x: Tensor) -> Tensor:
    x = x.clone()
    x.view(-1)[0] = math.nan
    return x


def _is_adam(family: Family) -> bool:
    return family.optimizer in ADAMS


def _is_sgd(family: Family) -> bool:
    return family.optimizer in ("sgd", "momentum", "nesterov")


MISTAKES: dict[str, Mistake] = {
    "rate-times-100": Mistake("LR-HIGH", TOO_LARGE, rate=100.0),
    "rate-times-30": Mistake("LR-HIGH", TOO_LARGE, rate=30.0),
    "rate-by-100": Mistake("LR-LOW", frozenset({"BF16-STALL"}), rate=1e-2),
    "rate-by-1000": Mistake("LR-LOW", frozenset({"BF16-STALL"}), rate=1e-3),
    "rate-jumps": Mistake("LR-HIGH", factor=lambda t, n: 300.0 if t >= n // 2 else 1.0, onset=0.5),
    "rate-ramps": Mistake("LR-HIGH", factor=lambda t, n: 1.05 ** max(0, t - n // 3), onset=1 / 3),
    "schedule-collapses": Mistake("SCHEDULE-COLLAPSED", factor=lambda t, n: 0.85**t),
    "warmup-by-epoch": Mistake("SCHEDULE-NEVER-ARRIVES", frozenset({"LR-LOW"}), _is_adam,
                               factor=lambda t, n: 1e-3 * (1 + t // 100)),
    "shuffled-targets": Mistake("NO-LEARNING", applies=lambda f: f.supervised, batch=_shuffled),
    "constant-inputs": Mistake("INPUT-CONSTANT", frozenset({"NO-LEARNING"}), lambda f: f.supervised and f.continuous,
                               batch=lambda t, n, b: (b[0] * 0, *b[1:])),
    "raw-inputs": Mistake("INPUT-SCALE", applies=lambda f: f.continuous and f.supervised,
                          batch=lambda t, n, b: (b[0] * 300 + 1500, *b[1:])),
    "bad-batch": Mistake("BAD-BATCH", frozenset({"GRAD-EXPLODING"}), lambda f: f.continuous,
                         batch=_one_bad(lambda x: x * 1e4), onset=0.6),
    "nan-batch": Mistake("NON-FINITE", applies=lambda f: f.continuous, batch=_one_bad(_with_nan), onset=0.6, exact=True),
    "wrong-sign": Mistake("WRONG-SIGN", loss=lambda t, n, loss: -loss, exact=True),
    "detached": Mistake("NO-GRADIENT", loss=lambda t, n, loss: loss.detach().clone().requires_grad_(), exact=True),
    "not-zeroed": Mistake("GRAD-NOT-ZEROED", zeroed=False, exact=True),
    "stale-optimizer": Mistake("OPTIMIZER-STALE", stale=True, exact=True),
    "eps-one": Mistake("EPS-HIGH", applies=_is_adam, eps=1.0),
    "beta2-half": Mistake("BETA2-LOW", applies=lambda f: _is_adam(f) and f.optimizer != "adam-gan", betas=(0.9, 0.5)),
    "decay-100": Mistake("DECAY-DOMINATES", applies=lambda f: f.optimizer in ("adamw", "adamw-95"), weight_decay=100.0),
    "clip-tiny": Mistake("CLIP-ALWAYS", frozenset({"LR-LOW"}), _is_sgd, clip=1e-4),
}  # fmt: skip
