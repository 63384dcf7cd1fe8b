"""Every schedule is one multiplier per real update, exact at the edges."""

from __future__ import annotations

import pytest
import torch

import lightning_adam as la
from lightning_adam.schedules import SCHEDULES, Phases, Schedule, factor

EXPECTED = {
    "constant": [0.5, 1.0, 1.0, 1.0, 1.0, 1.0],
    "linear": [0.5, 1.0, 1.0, 0.75, 0.5, 0.25],
    "cosine": [0.5, 1.0, 1.0, 0.8535533906, 0.5, 0.1464466094],
    "wsd": [0.5, 1.0, 1.0, 1.0, 1.0, 0.5],
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_multipliers_of_a_run_of_six_steps(name: str) -> None:
    """Two warmup steps, then the shape: the first step moves, the last still does."""
    phases = Phases(warmup=2, decay=2 if name == "wsd" else 4, total=6)

    assert [factor(name, phases, step) for step in range(6)] == pytest.approx(EXPECTED[name])


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd"])
def test_decay_ends_at_the_minimum(name: str) -> None:
    """After the last step, and for ever after, the multiplier is min_factor."""
    phases = Phases(warmup=0, decay=5, total=10, min_factor=0.1)

    assert factor(name, phases, 10) == pytest.approx(0.1)
    assert factor(name, phases, 99) == pytest.approx(0.1)


def test_group_added_in_mid_run_joins_the_schedule() -> None:
    """Lightning's finetuning callbacks add groups while training; theirs is their own base rate."""
    first, second = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.AdamW([first], lr=1.0)
    schedule = Schedule(optimizer, "linear", Phases(0, 4, 4))
    schedule.advance()
    optimizer.add_param_group({"params": [second], "lr": 0.1})
    schedule.advance()

    assert schedule.get_last_lr() == pytest.approx([0.5, 0.05])


def test_longer_run_follows_the_new_configuration_and_says_so() -> None:
    """Resumed with twice the length: the rate is the longer run's at the saved update."""
    old = Schedule(torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=1.0), "linear", Phases(0, 4, 4))
    old.advance()
    new = Schedule(torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=1.0), "linear", Phases(0, 8, 8))

    with pytest.warns(la.LightningAdamWarning, match="total 4 -> 8"):
        new.load_state_dict(old.state_dict())
    assert new.get_last_lr() == pytest.approx([0.875])
