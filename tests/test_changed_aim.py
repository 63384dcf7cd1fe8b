"""Losses that rise because something else is asked of the model: the steps have not made them rise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lightning_adam as la
from lightning_adam.diagnosis import Finding

Loss = Callable[[int, nn.Module, Tensor, Tensor], Tensor]
STEPS = 160


def found(loss: Loss, rate: Callable[[int], float] = lambda step: 3e-3) -> list[Finding]:
    """Of a small classifier of points by the quadrant that they lie in."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.Adam(net.parameters())
    with la.watch(net, optimizer, total_steps=STEPS) as watch:
        for step in range(STEPS):
            x = torch.randn(64, 8)
            y = (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()
            optimizer.zero_grad()
            optimizer.param_groups[0]["lr"] = rate(step)
            watch.loss(loss(step, net, x, y), batch=(x, y)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return watch.findings


def of_another_task(step: int, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The same quadrants under other names."""
    return F.cross_entropy(net(x), y if step < 90 else 3 - y)


def of_smoothed_labels(step: int, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """From a certain step on."""
    return F.cross_entropy(net(x), y, label_smoothing=0.0 if step < 90 else 0.9)


def by_a_larger_weight(step: int, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The classes' errors count five times from a certain step on."""
    return F.cross_entropy(net(x), y) * (1.0 if step < 90 else 5.0)


@pytest.mark.parametrize("loss", [of_another_task, of_smoothed_labels, by_a_larger_weight])
def test_a_loss_that_is_made_otherwise_has_not_diverged(loss: Loss) -> None:
    assert [f.rule for f in found(loss) if f.severity != "info"] == []


def test_the_information_says_that_steps_were_of_a_usual_size() -> None:
    told = {f.rule: f for f in found(of_another_task)}

    assert "the steps before were of a usual size" in told["LOSS-DIVERGED"].message
    assert not told["LOSS-DIVERGED"].changes


def test_a_rise_under_a_raised_rate_is_still_critical() -> None:
    told = found(lambda step, net, x, y: F.cross_entropy(net(x), y), lambda step: 3e-3 if step < 90 else 2.0)

    assert "critical" in [f.severity for f in told]


def test_what_knew_more_than_guessing_before_a_longer_rollout_has_learnt() -> None:
    """The first step's price of a constant answer is none of a sum of more terms."""

    def of_more_terms(step: int, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(net(x), y) + (step > 90) * F.cross_entropy(net(x * 0.3 + torch.randn_like(x)), y)

    assert [f.rule for f in found(of_more_terms) if f.severity != "info"] == []
