"""The conformance suite of the measured step: for each optimizer, what is logged is what the weights really did."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lightning_adam as la
from lightning_adam.statistics import copy_parameters, read_optimizer, take_snapshot
from tests.steps_of import Stepper

NAMES = [row.name for row in la.available_optimizers()]
COUPLED = {
    "adam",
    "adam8bit",
    "adamax",
    "rmsprop",
    "sgd",
    "schedulefree_adamw",
    "schedulefree_radam",
    "schedulefree_sgd",
    "sm3",
    "lbfgs",
    "bds_adam",
}
"""Decay is part of their gradient, or there is none: the step is the whole change of the weights."""
OPTIONS: dict[str, dict[str, Any]] = {"prodigy": {"d0": 1e-3}, "hn_adam": {"norm": 2.5}}
"""Prodigy starts with steps of 1e-6, which float32 weights of 0.1 round to three digits; HN-Adam would draw its norm."""

OTHER_DECAYS = [
    ("nadam", {"decoupled_weight_decay": False}, False),
    ("radam", {"decoupled_weight_decay": False}, False),
    ("adabelief", {"weight_decouple": False}, False),
    ("adabelief", {"fixed_decay": True, "weight_decay": 1e-3}, True),
    ("lion", {"fixed_decay": True, "weight_decay": 1e-3}, True),
    ("lion", {"weight_decouple": False}, False),
    ("stableadamw", {"weight_decouple": False}, False),
    ("adopt", {"weight_decouple": False}, False),
]


def assert_step_is_measured(stepper: Stepper, decoupled: bool) -> None:
    """Thirteen steps, past the lookahead of Ranger and the new basis of SOAP; rms and ratio to 1e-4."""
    for step in range(13):
        seen = stepper.step(without_decay=decoupled)
        truth = seen.free if decoupled else seen.moved
        snapshot = take_snapshot(step, seen.readings)
        rounding = {n: 1e-7 * seen.norms[n] / np.sqrt(truth[n].size) for n in snapshot.names}
        for row, name in enumerate(snapshot.names):
            want = np.sqrt(np.mean(truth[name] ** 2))
            got = snapshot.column("step_size_rms")[row], snapshot.column("update_ratio")[row] * seen.norms[name]
            assert got[0] == pytest.approx(want, rel=1e-4, abs=rounding[name]), (step, name)
            assert got[1] == pytest.approx(want * np.sqrt(truth[name].size), rel=1e-4, abs=1e-7 * seen.norms[name])


@pytest.mark.parametrize("name", NAMES)
def test_logged_step_is_the_step_without_decay(name: str) -> None:
    """With learning rate and weight decay above 0, it equals the change that a twin without decay makes, to 1e-4."""
    assert_step_is_measured(Stepper(name, **OPTIONS.get(name, {})), decoupled=name not in COUPLED)


@pytest.mark.parametrize(("name", "options", "decoupled"), OTHER_DECAYS)
def test_decay_options_are_followed(name: str, options: dict[str, Any], decoupled: bool) -> None:
    """Coupled, decoupled and fixed decay of the same optimizer are told apart."""
    assert_step_is_measured(Stepper(name, **options), decoupled)


@pytest.mark.parametrize("name", ["adamw", "adam", "amsgrad", "adamz", "caadam", "muon"])
def test_weights_are_copied_only_where_the_state_does_not_tell_the_step(name: str) -> None:
    """Adam's own formula needs no copy; beside Muon only the matrices are copied."""
    stepper = Stepper(name)
    stepper.step()
    before = copy_parameters(stepper.optimizer)

    copied = set() if before is None else {n for n, p in stepper.named.items() if id(p) in before.parameters}
    assert copied == ({"0.weight"} if name == "muon" else set())


@pytest.mark.parametrize("name", ["adabelief", "lamb", "prodigy", "radam", "sophia", "bds_adam", "ranger21", "caadam"])
def test_rate_and_moments_together_give_the_step(name: str) -> None:
    """For optimizers of Adam's form with a factor of their own, rate times m̂/(√v̂+ε) is the measured step to 1 %."""
    stepper = Stepper(name, weight_decay=0.0, **OPTIONS.get(name, {}))
    for _ in range(8):
        seen = stepper.step()

    snapshot = take_snapshot(0, seen.readings)
    rates = np.array([reading.lr for reading in seen.readings])
    assert rates * snapshot.column("normalised_update_rms") == pytest.approx(snapshot.column("step_size_rms"), rel=1e-2)


def test_small_steps_of_large_weights_are_exact() -> None:
    """The difference is taken before decay is added back: a step of 1e-6 of the weights is right to 1e-4."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(200, 50) * 4)
    optimizer = torch.optim.RMSprop([weight], lr=3e-6)
    start = weight.detach().double().clone()
    before = copy_parameters(optimizer)
    weight.grad = torch.randn(200, 50)
    optimizer.step()

    moved = (weight.detach().double() - start).square().mean().sqrt()
    logged = take_snapshot(0, read_optimizer(optimizer, {}, before)).column("step_size_rms")[0]
    assert logged == pytest.approx(float(moved), rel=1e-6)


def test_sixteen_bit_weights_are_measured() -> None:
    """bf16 weights that a step of Adam cannot move are seen not to move."""
    weight = nn.Parameter(torch.ones(64, 64, dtype=torch.bfloat16))
    optimizer = torch.optim.AdamW([weight], lr=1e-4, weight_decay=0.0)
    before = copy_parameters(optimizer)
    weight.grad = torch.ones_like(weight)
    optimizer.step()

    snapshot = take_snapshot(0, read_optimizer(optimizer, {}, before))
    assert snapshot.column("step_size_rms")[0] == 0
    assert snapshot.column("lost_update_share")[0] == 1
