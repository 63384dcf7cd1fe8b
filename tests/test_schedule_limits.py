"""A schedule's options are checked when they are configured, and a decaying schedule ends where it should."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import lightning_adam as la
from lightning_adam.errors import ConfigError
from lightning_adam.planning import plan
from lightning_adam.schedule_limits import LIMITS
from lightning_adam.schedules import SCHEDULES, factor, resolve_options

DECAYING = [name for name, shape in SCHEDULES.items() if shape.phase in ("run", "tail", "cycle") and name != "onecycle"]
WRONG = [
    ("polynomial", {"power": -1}),
    ("polynomial", {"power": "2"}),
    ("polynomial", {"power": float("nan")}),
    ("onecycle", {"div_factor": 0}),
    ("onecycle", {"div_factor": -2.0}),
    ("onecycle", {"final_div_factor": True}),
    ("exponential", {"final": -1.0}),
    ("exponential", {"final": 1.0}),
    ("wsd_exponential", {"final": 2.0}),
    ("plateau", {"patience": -1}),
    ("plateau", {"factor": 1.5}),
]


@pytest.mark.parametrize(("schedule", "options"), WRONG)
def test_a_value_that_a_schedule_cannot_take_is_named_with_what_it_can(schedule: str, options: dict[str, object]) -> None:
    (name, value) = next(iter(options.items()))
    config = la.OptimizerConfig(schedule=schedule, schedule_options=options, total_steps=100)
    with pytest.raises(ConfigError, match=f"schedule_options: {name}=") as told:
        la.configure_optimizers(nn.Linear(2, 2), config)
    assert repr(value) in str(told.value)


def test_every_option_of_a_curve_has_its_limits() -> None:
    options = {option for name, shape in SCHEDULES.items() if name != "plateau" for option in shape.options}
    assert options == set(LIMITS)


def test_defaults_are_within_their_limits() -> None:
    for name, shape in SCHEDULES.items():
        assert resolve_options(name, dict(shape.options)) == shape.options


@pytest.mark.parametrize("schedule", DECAYING)
@settings(max_examples=60, deadline=None)
@given(total=st.integers(20, 3000), warmup=st.floats(0.0, 0.4))
def test_the_last_step_of_a_run_of_any_length_is_near_the_minimum(schedule: str, total: int, warmup: float) -> None:
    """Within what one step of the steepest part of the decay changes, and exponential's own end."""
    phases = plan(la.OptimizerConfig(schedule=schedule, total_steps=total, warmup=warmup), None)
    fall = max(1, phases.decay)
    last, before = (factor(schedule, phases, step) for step in (total - 1, total - 2))
    assert last <= max(0.02, 1.6 / fall, (1 / fall) ** 0.5) + 1e-9
    assert last <= before or phases.decay <= 1
