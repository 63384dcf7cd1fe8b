"""Every schedule is one multiplier per real update, exact at the edges."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning
from torch import nn
from torch.optim import lr_scheduler

import lightning_adam as la
from lightning_adam.planning import plan
from lightning_adam.schedules import SCHEDULES, Phases, Schedule, factor
from tests.digits import Digits, digits_loader, trainer
from tests.test_configure import rates

# Two warmup steps of six; cycles of two steps, tails of two.
EXPECTED = {
    "constant": [0.5, 1.0, 1.0, 1.0, 1.0, 1.0],
    "linear": [0.5, 1.0, 1.0, 0.75, 0.5, 0.25],
    "cosine": [0.5, 1.0, 1.0, 0.8535533906, 0.5, 0.1464466094],
    "cosine_restarts": [0.5, 1.0, 1.0, 0.5, 1.0, 0.5],
    "wsd": [0.5, 1.0, 1.0, 1.0, 1.0, 0.5],
    "wsd_cosine": [0.5, 1.0, 1.0, 1.0, 1.0, 0.5],
    "wsd_sqrt": [0.5, 1.0, 1.0, 1.0, 1.0, 1 - math.sqrt(0.5)],
    "wsd_exponential": [0.5, 1.0, 1.0, 1.0, 1.0, 0.1],
    "inverse_sqrt": [0.5, 1.0, 1.0, math.sqrt(2 / 3), math.sqrt(2 / 4), math.sqrt(2 / 5)],
    "polynomial": [0.5, 1.0, 1.0, 0.5625, 0.25, 0.0625],
    "exponential": [0.5, 1.0, 1.0, 0.01**0.25, 0.1, 0.01**0.75],
    "onecycle": [0.04, 1.0, 0.8535539904, 0.500002, 0.1464500096, 0.000004],
    "plateau": [0.5, 1.0, 1.0, 1.0, 1.0, 1.0],
}


def phases(name: str, warmup: int, total: int, **options: float) -> Phases:
    """Phases as the helper plans them, tails and cycles of two steps."""
    config = la.OptimizerConfig(schedule=name, warmup=warmup, total_steps=total, schedule_options=options or None)
    if SCHEDULES[name].phase in ("tail", "cycle"):
        config.decay = 2
    return plan(config, None)


@pytest.mark.parametrize("name", SCHEDULES)
def test_multipliers_of_a_run_of_six_steps(name: str) -> None:
    """Two warmup steps, then the shape: the first step moves, the last still does."""
    got = [factor(name, phases(name, 2, 6), step) for step in range(6)]

    assert got == pytest.approx(EXPECTED[name], rel=1e-5)
    assert min(got) > 0


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd", "wsd_cosine", "wsd_sqrt", "polynomial"])
def test_decay_ends_at_the_minimum(name: str) -> None:
    """After the last step, and for ever after, the multiplier is min_factor."""
    phases = Phases(warmup=0, decay=5, total=10, min_factor=0.1, options=SCHEDULES[name].options)

    assert factor(name, phases, 10) == pytest.approx(0.1)
    assert factor(name, phases, 99) == pytest.approx(0.1)


def torch_rates(make: Any, steps: int) -> list[float]:
    """What one of torch's or transformers' schedulers gives at each step, for lr 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


TORCH: dict[str, tuple[Any, int, dict[str, float]]] = {
    "linear": (lambda o: lr_scheduler.LinearLR(o, 1.0, 0.0, 20), 0, {}),
    "cosine": (lambda o: lr_scheduler.CosineAnnealingLR(o, 20), 0, {}),
    "cosine_restarts": (lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2), 0, {}),
    "polynomial": (lambda o: lr_scheduler.PolynomialLR(o, 20, 3.0), 0, {"power": 3.0}),
    "exponential": (lambda o: lr_scheduler.ExponentialLR(o, 0.01 ** (1 / 20)), 0, {}),
    "onecycle": (lambda o: lr_scheduler.OneCycleLR(o, 1.0, 20, pct_start=0.3), 6, {}),
}


@pytest.mark.parametrize("name", TORCH)
def test_agrees_with_torch(name: str) -> None:
    """Where torch has the same curve, ours is the same at every step."""
    make, warmup, options = TORCH[name]
    ours = [factor(name, phases(name, warmup, 20, **options), step) for step in range(20)]

    assert ours == pytest.approx(torch_rates(make, 20), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "inverse_sqrt", "polynomial"])
def test_agrees_with_transformers(name: str) -> None:
    """After the warmup the same at every step; within it one step ahead, as theirs starts at 0."""
    theirs = pytest.importorskip("transformers.optimization")
    make: dict[str, Any] = {
        "constant": lambda o: theirs.get_constant_schedule_with_warmup(o, 5),
        "linear": lambda o: theirs.get_linear_schedule_with_warmup(o, 5, 20),
        "cosine": lambda o: theirs.get_cosine_schedule_with_warmup(o, 5, 20),
        "inverse_sqrt": lambda o: theirs.get_inverse_sqrt_schedule(o, 5),
        "polynomial": lambda o: theirs.get_polynomial_decay_schedule_with_warmup(o, 5, 20, lr_end=0.0, power=2.0),
    }
    ours = [factor(name, phases(name, 5, 20), step) for step in range(20)]
    expected = torch_rates(make[name], 20)

    assert ours[5:] == pytest.approx(expected[5:], rel=1e-6)
    assert ours[:5] == pytest.approx(expected[1:6], rel=1e-6)


def test_plateau_cuts_after_the_warmup_in_a_real_run() -> None:
    """A metric that never improves cuts the rate to a tenth after two validations."""
    module = Validated(lr=1.0, schedule="plateau", warmup=4, schedule_options={"patience": 1})
    seen = rates(module, max_epochs=4, val_loader=digits_loader())

    assert seen[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert seen[-1] == pytest.approx(0.1)


class Validated(Digits):
    """Logs a validation loss that stays as it is."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Always 1."""
        self.log("val_loss", 1.0)


def test_group_added_in_mid_run_joins_the_schedule() -> None:
    """Lightning's finetuning callbacks add groups while training: they keep their ratio to the other groups' rate."""
    first, second = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.AdamW([first], lr=1.0)
    schedule = Schedule(optimizer, "linear", Phases(0, 4, 4))
    schedule.advance()
    optimizer.add_param_group({"params": [second], "lr": 0.075})
    schedule.advance()

    assert schedule.get_last_lr() == pytest.approx([0.5, 0.05])


def test_backbone_finetuning_unfreezes_in_mid_run() -> None:
    """Lightning's own callback adds a group in the second epoch: it trains, and follows the schedule (LambdaLR raises)."""

    class Tuned(Digits):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.backbone, self.head = self.net[0], self.net[2]
            self.net = nn.Sequential(self.backbone, nn.ReLU(), self.head)

    module = Tuned(lr=1e-2, schedule="linear", warmup=0)
    start = module.backbone.weight.detach().clone()
    unfreeze = BackboneFinetuning(unfreeze_backbone_at_epoch=1, verbose=False)
    fit = trainer(max_epochs=2, callbacks=[unfreeze])
    fit.fit(module, digits_loader())

    assert len(fit.optimizers[0].param_groups) == 3
    assert not torch.equal(start, module.backbone.weight)
    assert [group["lr"] for group in fit.optimizers[0].param_groups] == pytest.approx([0.0] * 3, abs=1e-9)


@pytest.mark.parametrize(
    ("base", "total", "said", "rate"),
    [(1.0, 8, "total 4 -> 8", 0.875), (1.0, 2, "total 4 -> 2", 0.5), (0.1, 4, r"base_lrs \[1.0\] -> \[0.1\]", 0.075)],
)
def test_changed_run_follows_the_new_configuration_and_says_so(base: float, total: int, said: str, rate: float) -> None:
    """Resumed longer, shorter or with another rate: the new configuration at the saved update, where torch's go wrong."""
    old = Schedule(torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=1.0), "linear", Phases(0, 4, 4))
    old.advance()
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=base)
    new = Schedule(optimizer, "linear", Phases(0, total, total))

    with pytest.warns(la.LightningAdamWarning, match=said):
        new.load_state_dict(old.state_dict())
    assert new.get_last_lr() == pytest.approx([rate])
