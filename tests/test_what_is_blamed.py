"""What a sickness is put down to: a batch, the initialisation or the rate, where several look alike."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from lightning_adam.diagnosis import Finding, NonFinite, StepSignals
from tests.healthy_run import HEAVY, RUN, Change, both, diagnose, healthy, heavy, light
from tests.test_late_verdicts import SGD, run_of
from tests.test_strangers_runs import grave

LARGE_WEIGHTS = (json.dumps(Finding("INIT-SCALE", "info", 0, "The weights start large.").to_dict()),)
BROKEN_AT_2 = light(2, 3, loss=math.inf, non_finite=NonFinite("loss"))


@pytest.mark.parametrize(("facts", "told"), [(LARGE_WEIGHTS, ["INIT-SCALE"]), ((), ["LR-HIGH"])])
def test_first_steps_that_overflow_are_put_down_to_weights_known_to_be_large(
    facts: tuple[str, ...], told: list[str]
) -> None:
    """From 6e5 to 1e25 to infinity."""
    thrown = both(heavy(until=10, update_ratio_max=70.0), light(0, 1, loss=6e5), light(1, 2, loss=1e25), BROKEN_AT_2)

    assert grave(diagnose([thrown(s) for s in healthy(10)], replace(RUN, facts=facts)))[:1] == told


def outlier_at_1(size: float) -> Change:
    """The targets' rms, of the second batch or of all."""
    return both(heavy(target_rms=5.0, layer_rms=1.0), heavy(1, 2, target_rms=size))


@pytest.mark.parametrize(
    ("targets", "told"),
    [(outlier_at_1(60.0), "LR-HIGH"), (heavy(target_rms=60.0, layer_rms=1.0), "INPUT-SCALE")],
    ids=["one batch", "all batches"],
)
def test_one_batch_with_an_outlier_is_no_scale_of_the_data(targets: Change, told: str) -> None:
    """A rate that is far too high takes the loss out of its range within three steps."""
    thrown = both(heavy(until=10, update_ratio_max=70.0), light(until=1, loss=4.0), light(1, 2, loss=450.0))
    run = [both(targets, thrown, light(gradient_norm=40.0), BROKEN_AT_2)(s) for s in healthy(10)]

    assert grave(diagnose(run))[:1] == [told]


def struck(s: StepSignals) -> StepSignals:
    """At step 150 by one batch; its step takes the loss to 1e9, from where it comes back slowly."""
    if s.step < 150:
        return s
    norm, loss = (2.5e6, 5e5) if s.step == 150 else (3e5 * 0.97 ** (s.step - 150), 1e9 * 0.95 ** (s.step - 150))
    return replace(s, gradient_norm=norm, loss=loss, heavy=None)


@pytest.mark.parametrize(("ratio", "told"), [(0.04, ["BAD-BATCH"]), (5e-3, ["BAD-BATCH"])])
def test_large_steps_that_did_no_harm_for_long_are_not_blamed_for_one_batch(ratio: float, told: list[str]) -> None:
    """As those of a linear model under plain SGD, whose weights begin near zero."""
    of_sgd = heavy(update_ratio_p50=ratio, update_ratio_max=ratio, normalised_rms=math.nan, alignment=math.nan)
    run = [both(of_sgd, struck)(s) for s in run_of(lambda t: 0.5 + 0.5 * np.exp(-t / 20))]

    assert grave(diagnose(run, replace(SGD, lr=1e-3, warmup=math.nan))) == told


@pytest.mark.parametrize(("floor", "told"), [(2.3, ["INIT-SCALE"]), (1.6, [])])
def test_a_fall_from_far_above_guessing_that_ends_at_it_is_no_success(floor: float, told: list[str]) -> None:
    """From 36 to ln 10, which is what ten classes cost an untrained model."""
    learns = lambda t: floor + 34 * np.exp(-t / 25)  # noqa: E731
    run = [heavy(target_entropy=math.log(10))(s) for s in run_of(learns)]

    assert grave(diagnose(run, replace(RUN, total_steps=260.0, warmup=math.nan, facts=LARGE_WEIGHTS))) == told


@pytest.mark.parametrize(("optimizer", "told"), [("RAdam", []), ("Adam", ["LR-LOW"])])
def test_a_short_way_of_steps_that_are_still_growing_is_judged_later(optimizer: str, told: list[str]) -> None:
    """At 42 % of the steps RAdam has gone 27 % of its way."""
    agreeing = replace(HEAVY, update_ratio_p50=9e-4, update_ratio_max=1.1e-3, normalised_rms=0.53, alignment=0.7)
    run = [replace(s, heavy=s.heavy and agreeing) for s in run_of(lambda t: 0.9 - 0.15 * t / 100, 110)]

    assert grave(diagnose(run, replace(RUN, optimizer=optimizer, total_steps=240.0, warmup=math.nan))) == told


def shrinking(s: StepSignals) -> StepSignals:
    """From 400 % of the weights' norm to 25 %, as 1/√t."""
    ratio = 4 / math.sqrt(s.step + 1)
    return heavy(update_ratio_p50=ratio, update_ratio_max=ratio, normalised_rms=math.nan, alignment=math.nan)(s)


@pytest.mark.parametrize(("like", "told"), [("accumulated", []), ("adam", ["LR-HIGH"])])
def test_first_steps_that_shrink_by_themselves_have_forgotten_nothing(like: str, told: list[str]) -> None:
    """Adagrad's: the loss falls from 1.8 to 0.7, and goes on."""
    run = [shrinking(s) for s in run_of(lambda t: 0.5 + 1.3 * np.exp(-t / 60), 120)]

    assert grave(diagnose(run, replace(RUN, steps_like=like, warmup=math.nan))) == told
