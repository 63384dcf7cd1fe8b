"""What the visitors showed: schedules that end at once, small errors with the wrong sign, learnt inputs, odd loops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from lightning_adam.diagnosis import StepSignals
from tests.benchmarks.divergence.corpus.jobs import Job, recipe_of
from tests.benchmarks.divergence.corpus.runs import train
from tests.healthy_run import RUN, Change, both, diagnose, healthy, heavy
from tests.test_strangers_runs import grave

SMALL = heavy(target_rms=0.03, target_offset=0.1)


def trained(family: str, kind: str, steps: int) -> list[str]:
    """The codes over information in the first steps of a run of the corpus."""
    recipe = recipe_of(Job(family, kind))
    return grave(train(replace(recipe, family=replace(recipe.family, steps=steps)), 0).findings)


def standing_after_large_first_steps(lr: float, first: float = 0.25) -> Change:
    """A loss that stands where it began, first steps of a quarter of the norm, and from step 20 on another rate."""

    def change(s: StepSignals) -> StepSignals:
        return replace(s, loss=2.0 + 0.05 * math.sin(9 * s.step), lr=1e-3 if s.step < 20 else lr)

    return both(heavy(until=10, update_ratio_max=first), change)


def test_loss_that_stands_for_want_of_a_rate_is_not_blamed_on_the_first_steps() -> None:
    """The rate fell by a factor of 10,000 in twenty steps."""
    run = replace(RUN, warmup=math.nan)

    assert grave(diagnose(map(standing_after_large_first_steps(1e-7), healthy()), run)) == ["SCHEDULE-COLLAPSED"]


@pytest.mark.parametrize(("lr", "first"), [(1e-3, 0.25), (1e-7, 4.0)])
def test_first_steps_are_blamed_where_the_rate_stays_or_nothing_is_left_of_the_weights(lr: float, first: float) -> None:
    """A step of four times the norm forgets the initialisation, whatever the rate does afterwards."""
    told = grave(diagnose(map(standing_after_large_first_steps(lr, first), healthy()), replace(RUN, warmup=math.nan)))

    assert told[0] in ("NO-WARMUP", "LR-HIGH")


@pytest.mark.parametrize(
    ("power", "scale", "first", "is_wrong"),
    [
        (3, 5.0, -0.03, True),  # a squared error of the wrong sign: faster the larger the outputs are
        (1, 5.0, -0.03, False),  # as fast as before: nobody knows
        (3, 0.9, -0.03, False),  # a similarity that takes its time
        (3, 5.0, 0.4, False),  # a likelihood that began above zero
    ],
)
def test_error_of_small_targets_that_falls_ever_faster_below_zero_has_the_wrong_sign(
    power: int, scale: float, first: float, is_wrong: bool
) -> None:
    """Less than one nat at first, and five at the end."""
    told = diagnose(map(both(SMALL, lambda s: replace(s, loss=first - scale * (s.step / 260) ** power)), healthy()), RUN)

    assert ("WRONG-SIGN" in grave(told)) == is_wrong


def test_real_error_of_small_targets_with_the_wrong_sign_is_named() -> None:
    """A driver's angles, of hundredths."""
    assert trained("cloned-driver", "wrong-sign", 250) == ["WRONG-SIGN"]


@pytest.mark.parametrize(("kind", "code"), [("cleared-before-step", "NO-GRADIENT"), ("zeroed-per-epoch", "GRAD-NOT-ZEROED")])
def test_loop_that_clears_gradients_at_the_wrong_time_is_named(kind: str, code: str) -> None:
    """Between ``backward`` and ``step``; or once in fifty steps."""
    assert trained("wine-mlp", kind, 12) == [code]


@pytest.mark.parametrize(
    ("family", "kind", "is_known"), [("hashed-field", "healthy-1", False), ("wine-mlp", "inputs-tiny", True)]
)
def test_tiny_inputs_are_those_of_the_data(family: str, kind: str, is_known: bool) -> None:
    """What a first layer is given from learnt tables that begin near zero says nothing of the data."""
    recipe = recipe_of(Job(family, kind))
    (first, *_) = train(replace(recipe, family=replace(recipe.family, steps=2)), 0).steps

    assert first.heavy is not None
    assert (first.heavy.layer_rms < 0.01) == is_known
