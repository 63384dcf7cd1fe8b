"""A model that chases a copy of itself (Q-learning, BYOL, MoCo): its loss may rise while it learns."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_adam.callbacks import DivergenceMonitor
from lightning_adam.diagnosis import StepSignals
from lightning_adam.monitoring import Record
from lightning_adam.monitoring.target_network import copy_of_trained
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


def with_lazy_layer() -> nn.Module:
    """Not yet made, and in no optimizer."""
    return nn.ModuleDict({"online": net(), "kept": nn.LazyLinear(2)})


@pytest.mark.parametrize(
    ("build", "is_one"),
    [(copied, True), (beside_another, False), (half_frozen, False), (net, False), (with_lazy_layer, False)],
)
def test_copy_is_an_untrained_part_with_the_values_of_a_trained_one(build: Callable[[], nn.Module], is_one: bool) -> None:
    """The shapes alone are also those of a frozen block."""
    model = build()
    held = {id(p) for name, p in model.named_parameters() if not name.startswith("kept")}

    assert (copy_of_trained(model, held) is not None) == is_one


@pytest.mark.parametrize(
    ("level", "chases", "told"),
    [(2.2, False, True), (2.2, True, False), (200.0, True, True)],
    ids=["fixed targets", "moving targets", "out of range"],
)
def test_a_rise_that_the_targets_may_have_made_is_no_alarm(level: float, chases: bool, told: bool) -> None:
    """From 3 to 1 and up again, under steps of 5 % of the weights; ten times the start is no copy's doing."""
    losses = lambda t: np.where(t < 60, 1 + 2 * np.exp(-t / 10), np.minimum(level, 1 + level * (t - 60) / 60))  # noqa: E731
    large = heavy(update_ratio_p50=0.05, update_ratio_max=0.06)

    moving = (replace(large(signals), target_moves=chases) for signals in run_of(losses))
    assert bool(grave(diagnose(moving, RUN))) == told


class Copied(Digits):
    """Keeps a copy of its network that follows it, or stands; training compares with its answers, or validation does."""

    def __init__(self, asks: bool, follows: bool, manual: bool = False) -> None:
        super().__init__()
        self.kept = copy.deepcopy(self.net).requires_grad_(False)
        self.asks, self.follows = asks, follows
        self.automatic_optimization = not manual

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        with torch.no_grad():
            target = self.kept(batch[0]) if self.asks else 0.0
        loss = (self.net(batch[0]) - target - 1).square().mean()
        if not self.automatic_optimization:
            self.manual_backward(loss)
            self.optimizers().step()
        return loss

    def on_train_batch_end(self, *args: Any) -> None:
        for kept, now in zip(self.kept.parameters(), self.net.parameters(), strict=True):
            kept.lerp_(now.detach(), 0.5 if self.follows else 0.0)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.kept(batch[0])


class Records(DivergenceMonitor):
    """Remembers whether a target network was seen to move."""

    moves = False

    def on_record(self, position: int, record: Record) -> None:
        if isinstance(record, StepSignals):
            self.moves = record.target_moves


@pytest.mark.parametrize(
    ("asks", "follows", "manual", "moves"),
    [(True, True, False, True), (True, True, True, True), (True, False, False, False), (False, True, False, False)],
    ids=["a target network", "one in a step by hand", "a teacher", "an average that validation alone asks"],
)
def test_only_what_answers_in_training_and_changes_is_a_target_that_moves(
    asks: bool, follows: bool, manual: bool, moves: bool
) -> None:
    """Beside averaged weights, frozen teachers and frozen layers a rise is an alarm as ever."""
    records, module = Records(), Copied(asks, follows, manual)
    trainer(max_steps=4, callbacks=[records]).fit(module, digits_loader(examples=256), digits_loader(examples=64))

    assert records.failures == frozenset()
    assert records.moves == moves
    assert all(not part._forward_hooks for part in module.modules())
