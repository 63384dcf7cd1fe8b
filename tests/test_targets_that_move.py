"""A model that chases a copy of itself (Q-learning, BYOL, MoCo): its loss may rise while it learns."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_adam.callbacks import DivergenceMonitor
from lightning_adam.diagnosis import RunSignals
from lightning_adam.monitoring import Record
from lightning_adam.monitoring.target_network import has_target_network
from tests.digits import Digits, digits_loader, trainer
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


class Copied(Digits):
    """Keeps a copy of its network, and compares with what that answers if it is asked."""

    def __init__(self, asks: bool) -> None:
        super().__init__()
        self.kept = copy.deepcopy(self.net).requires_grad_(False)
        self.asks = asks

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        with torch.no_grad():
            moving = self.kept(batch[0]) if self.asks else 0.0
        return (self.net(batch[0]) - moving).square().mean()


class Records(DivergenceMonitor):
    """Remembers what was known when the run began."""

    chases_copy: bool

    def on_record(self, position: int, record: Record) -> None:
        if isinstance(record, RunSignals):
            self.chases_copy = record.chases_copy


@pytest.mark.parametrize("asks", [True, False], ids=["a target network", "an average of the weights"])
def test_a_copy_that_the_step_does_not_call_is_no_target(asks: bool) -> None:
    """Averaged weights (EMA) lie in many modules and answer in validation only: there a rise is an alarm as ever."""
    torch._dynamo.reset()  # what another test has compiled keeps the first step from being traced
    records = Records()
    trainer(max_steps=3, callbacks=[records]).fit(Copied(asks), digits_loader())

    assert records.chases_copy == asks
