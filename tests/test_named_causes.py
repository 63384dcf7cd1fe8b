"""Causes that a loss which has fallen does not hide: what it fell from, what it stopped for, what never saw a batch."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import lightning_adam as la
from lightning_adam.diagnosis import Finding, StepSignals
from lightning_adam.preflight.cheap import cheap_checks
from tests.healthy_run import RUN, Change, both, diagnose, healthy, heavy, light
from tests.test_strangers_runs import grave

PLANNED = replace(RUN, warmup=math.nan, steps_like="adam")


def falling_to(level: float) -> Change:
    """From 4, in the first 100 steps."""
    return lambda s: replace(s, loss=level + (4 - level) * math.exp(-s.step / 25) + 0.02 * math.sin(9 * s.step))


def first_steps_of(middle: float, largest: float) -> Change:
    """Of the weights' norm: what the first ten steps move the median matrix by, and another one."""
    return heavy(until=10, update_ratio_p50=middle, update_ratio_max=largest)


@pytest.mark.parametrize(
    ("middle", "largest", "level", "like", "told"),
    [
        (1.5, 4.0, 2.0, "adam", ["LR-HIGH"]),
        (2e-3, 4.0, 2.0, "adam", []),  # one head that began near zero
        (1.5, 4.0, 0.5, "adam", []),  # learnt all the same
        (1.5, 4.0, 2.0, "sgd", []),  # such steps shrink with the gradient
    ],
)
def test_loss_that_falls_does_not_excuse_steps_that_threw_all_weights_away(
    middle: float, largest: float, level: float, like: str, told: list[str]
) -> None:
    """What it falls from is what these steps had made of it."""
    change = both(first_steps_of(middle, largest), falling_to(level), light(lr=1e-3))

    assert grave(diagnose(map(change, healthy()), replace(PLANNED, steps_like=like))) == told


def two_tenths(at: int) -> Change:
    """A milestone of a tenth, and ten steps later another."""

    def change(s: StepSignals) -> StepSignals:
        return replace(s, lr=1e-3 if s.step < at else 1e-4 if s.step < at + 10 else 1e-5)

    return change


@pytest.mark.parametrize(("at", "told"), [(50, ["SCHEDULE-COLLAPSED"]), (250, [])])
def test_milestones_that_count_batches_for_epochs_are_named(at: int, told: list[str]) -> None:
    """Two tenths are one hundredth, and not less; at 60 % of the run they are as planned."""
    assert grave(diagnose(map(both(falling_to(1.6), two_tenths(at)), healthy(390)), PLANNED)) == told


@pytest.mark.parametrize(("cosine", "told"), [(0.7, ["SCHEDULE-COLLAPSED"]), (0.0, [])])
def test_loss_that_is_low_for_want_of_steps_is_told_from_one_at_its_floor(cosine: float, told: list[str]) -> None:
    """Gradients go on pointing the same way on a slope; at a floor they are noise."""
    change = both(falling_to(1.0), two_tenths(50), heavy(alignment=cosine))

    assert grave(diagnose(map(change, healthy(390)), PLANNED)) == told


def normalised(has_seen: bool) -> nn.Module:
    """BatchNorm and Dropout in eval mode, after a batch of training or before any."""
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))
    if has_seen:
        net(torch.randn(16, 4))
    return net.eval()


@pytest.mark.parametrize(("has_seen", "told"), [(False, "warning"), (True, "info")])
def test_batchnorm_that_never_saw_a_batch_warns_in_eval_mode(has_seen: bool, told: str, tmp_path: Path) -> None:
    """What was trained before may be meant to keep its statistics; what was not has none to keep."""
    net = normalised(has_seen)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    with la.watch(net, optimizer, log_dir=tmp_path) as watch:
        watch.loss(net(torch.randn(16, 4)).square().mean()).backward()
        optimizer.step()

    found = [f for f in watch.findings if f.rule == "EVAL-MODE"]
    assert [f.severity for f in found] == [told]
    assert ("never saw a batch normalises nothing there: 1." in found[0].message) != has_seen


LOUD = (json.dumps(Finding("INIT-SCALE", "warning", 0, "Weights are large.").to_dict()),)


@pytest.mark.parametrize(
    ("ratio", "untrained", "told"),
    [(2e-4, True, ["INIT-SCALE"]), (2e-4, False, []), (2e-3, True, [])],
)
def test_weights_that_no_step_can_turn_are_too_large_however_far_the_loss_falls(
    ratio: float, untrained: bool, told: list[str]
) -> None:
    """At 2e-4 of their norm per step, 400 steps are 8 % of it; what was trained before may be meant to stay."""
    change = both(heavy(update_ratio_p50=ratio, update_ratio_max=ratio), lambda s: replace(s, loss=1e4 * s.loss**4))

    assert grave(diagnose(map(change, healthy(390)), replace(RUN, untrained=untrained, facts=LOUD))) == told


@pytest.mark.parametrize(("times", "is_told"), [(1, False), (10, True)])
def test_default_weights_times_ten_are_told_before_training(times: int, is_told: bool) -> None:
    """Torch's own layers give 0.58 of their input; 273 models of the corpus at most 1.6."""
    net = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter *= times

    assert ("INIT-SCALE" in [f.rule for f in cheap_checks(net, [], None)]) == is_told
