"""Runs that show a code which no benchmark plants; they are drawn by ``lightning-adam explain`` and counted nowhere."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from tests.benchmarks.divergence.data import Batch, diabetes, rows
from tests.benchmarks.divergence.faults import noisier
from tests.benchmarks.divergence.healthy import CNN, DIGITS
from tests.benchmarks.divergence.models import mlp
from tests.benchmarks.divergence.scenario import Scenario, squared
from tests.benchmarks.divergence.sick import SICK

LINEAR = {"net": lambda: mlp([10, 1]), "loss": squared}


def of_one_class(step: int, batch: Batch) -> Batch:
    """The examples of the first one's class, over and over: data that are drawn class by class."""
    same = (batch[1] == batch[1][0]).nonzero()[:, 0]
    rows = same[torch.arange(len(batch[1])) % len(same)]
    return batch[0][rows], batch[1][rows]


def of_the_head(parameters: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """The body has been forgotten."""
    return torch.optim.AdamW(parameters[-2:], lr)


def in_eval_mode(net: nn.Module) -> None:
    """As libraries hand their models out: Lightning keeps modes as they are when training begins."""
    net.eval()


SHOWN: tuple[Scenario, ...] = (
    Scenario(
        "a linear model of all 442 patients at once, at a constant rate", **LINEAR, draw=rows(diabetes(), 0, whole=True),
        lr=0.01, betas=(0.9, 0.95), steps=600, cause="OSCILLATION",
    ),
    Scenario(
        "a linear model of 442 patients, 32 at a time, at a constant rate", **LINEAR, draw=rows(diabetes(), 32), lr=3e-3,
        steps=800, cause="PLATEAU",
    ),
    replace(
        next(s for s in SICK if s.name == "lr-high-text"), name="a transformer on text, at a rate of 0.1",
        cause="LOGIT-GROWTH",
    ),
    Scenario(
        "digits whose labels become random from step 200 on", **DIGITS, lr=1e-3, steps=500, onset=200,
        batch_fault=noisier(200, 150, 10), cause="LOSS-DIVERGED",
    ),
    Scenario(
        "digits, by convolutions with BatchNorm that were left in eval mode", **CNN, lr=2e-3, warmup=20, schedule="cosine",
        steps=250, init=in_eval_mode, cause="EVAL-MODE",
    ),
    Scenario("digits, each batch of one class", **DIGITS, lr=1e-3, steps=250, batch_fault=of_one_class, cause="SORTED"),
    Scenario(
        "digits, with the head alone in the optimizer", **DIGITS, lr=1e-3, steps=250, optimizer=of_the_head,
        cause="OPTIMIZER-MISSES",
    ),
)  # fmt: skip
"""By the code that each one shows, its ``cause``."""
