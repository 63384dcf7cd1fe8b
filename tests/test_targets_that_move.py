"""A model that chases a copy of itself (Q-learning, BYOL, MoCo): its loss may rise while it learns."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from lightning_adam.monitoring.target_network import has_target_network
from tests.healthy_run import RUN, diagnose, heavy
from tests.test_late_verdicts import run_of
from tests.test_strangers_runs import grave


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def copied() -> nn.Module:
    """A network, and a copy that is not trained."""
    online = net()
    return nn.ModuleDict({"online": online, "kept": copy.deepcopy(online)})


def beside_another() -> nn.Module:
    """A frozen network of the same shapes that was initialised by itself."""
    return nn.ModuleDict({"online": net(), "kept": net()})


def half_frozen() -> nn.Module:
    """Blocks of the same shapes, of which the first is kept as it is."""
    return nn.ModuleDict({"kept": nn.Linear(8, 8), "second": nn.Linear(8, 8), "head": nn.Linear(8, 2)})


@pytest.mark.parametrize(
    ("build", "is_chased"), [(copied, True), (beside_another, False), (half_frozen, False), (net, False)]
)
def test_target_network_is_an_untrained_part_with_the_values_of_a_trained_one(
    build: Callable[[], nn.Module], is_chased: bool
) -> None:
    """The shapes alone are also those of a frozen block."""
    model = build()
    held = {id(p) for name, p in model.named_parameters() if not name.startswith("kept")}

    assert has_target_network(model, held) == is_chased


@pytest.mark.parametrize(
    ("level", "chases", "told"),
    [(2.2, False, True), (2.2, True, False), (200.0, True, True)],
    ids=["fixed targets", "moving targets", "out of range"],
)
def test_a_rise_that_the_targets_may_have_made_is_no_alarm(level: float, chases: bool, told: bool) -> None:
    """From 3 to 1 and up again, under steps of 5 % of the weights; ten times the start is no copy's doing."""
    losses = lambda t: np.where(t < 60, 1 + 2 * np.exp(-t / 10), np.minimum(level, 1 + level * (t - 60) / 60))  # noqa: E731
    large = heavy(update_ratio_p50=0.05, update_ratio_max=0.06)

    assert bool(grave(diagnose(map(large, run_of(losses)), replace(RUN, chases_copy=chases)))) == told
