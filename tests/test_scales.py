"""Losses, targets, inputs and weights of an unusual size are read against their own: what guessing costs, what is tiny."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from lightning_adam.diagnosis import Finding, StepSignals
from tests.healthy_run import RUN, Change, both, diagnose, healthy, heavy, light


def losses(curve: Callable[[int], float], noise: float) -> Change:
    """A loss that follows a curve, with some noise."""
    return lambda s: replace(s, loss=curve(s.step) * (1 + noise * math.sin(9 * s.step)))


def graver(change: Change) -> list[str]:
    """Codes over information."""
    return [f.rule for f in diagnose(map(change, healthy(400))) if f.severity != "info"]


@pytest.mark.parametrize(("share", "codes"), [(1.0, ["NO-LEARNING"]), (0.5, [])])
def test_absolute_error_of_guessing_the_mean_is_four_fifths_of_the_targets_spread(share: float, codes: list[str]) -> None:
    """Of targets around 40 with a standard deviation of 7 it is 5.6; an untrained model costs about 40, and not 1,650."""
    targets = heavy(target_rms=math.hypot(40, 7), target_offset=40 / 7)

    assert graver(both(targets, losses(lambda k: 5.6 * share + 35 * math.exp(-k / 5), 0.05))) == codes


def test_raw_targets_are_no_harm_where_the_absolute_error_is_learnt() -> None:
    """From 40 to 1.5, by way of a stay at 2.5: under half of what guessing costs."""
    targets = both(heavy(target_rms=math.hypot(40, 7), target_offset=40 / 7), light(until=10, gradient_norm=500.0))

    assert graver(both(targets, losses(lambda k: (2.5 if k < 250 else 1.5) + 38 * math.exp(-k / 10), 0.1))) == []


def test_tiny_loss_is_no_guess_because_it_is_tiny() -> None:
    """Targets with a variance of 6e-5, and a loss of another kind that has fallen to 2e-3 and stays."""
    assert (
        graver(both(heavy(target_rms=8e-3, target_offset=0.0), losses(lambda k: 2e-3 + 0.03 * math.exp(-k / 9), 0.1))) == []
    )


def test_noisy_loss_that_is_lower_by_a_third_does_not_guess() -> None:
    """Of batches of four: three standard errors reach up to the labels' entropy."""
    noisy = losses(lambda k: 0.45 + 0.2 * math.exp(-k / 60), 0.9)

    assert graver(both(heavy(target_entropy=0.69), noisy)) == []


def test_tiny_inputs_are_named_where_nothing_is_learnt() -> None:
    """Values of a thousandth drown in the biases; a model that learns from them all the same is told for information."""
    tiny = heavy(layer_rms=1e-3)

    assert graver(both(tiny, light(loss=2.3)))[:1] == ["INPUT-SCALE"]
    assert graver(tiny) == []
    assert "INPUT-SCALE" not in graver(both(heavy(layer_rms=0.0), light(loss=2.3)))


def large_weights(end: float) -> list[Finding]:
    """The first step's checks saw layers that multiply, and the loss falls from 5,000."""
    fact = json.dumps(Finding("INIT-SCALE", "info", 0, "The weights start large.", remedy="Initialise.").to_dict())
    fall: Callable[[StepSignals], StepSignals] = losses(lambda k: end + 5000 * math.exp(-k / 20), 0.02)
    run = [heavy(target_entropy=2.3)(fall(s)) for s in healthy(400)]
    return [f for f in diagnose(run, replace(RUN, facts=(fact,))) if f.rule == "INIT-SCALE"]


@pytest.mark.parametrize(("end", "severity"), [(100.0, "warning"), (0.3, "info")])
def test_weights_that_start_far_too_large_are_a_warning_where_the_loss_stays_high(end: float, severity: str) -> None:
    """A hundred is forty times what guessing ten classes costs, however far it has fallen."""
    assert [f.severity for f in large_weights(end)] == [severity]


def test_loss_that_passes_the_guess_on_its_way_down_confirms_no_suspicion() -> None:
    """Large first steps, and a straight fall from 9 by 2.3 at a quarter of the run."""
    large = both(light(lr=1e-3), heavy(until=10, update_ratio_max=0.5), heavy(target_entropy=2.3))
    run = [large(replace(s, loss=max(0.4, 9 - 0.065 * s.step))) for s in healthy(400)]

    assert [f.rule for f in diagnose(run, replace(RUN, warmup=math.nan)) if f.severity != "info"] == []


def test_loss_that_is_noise_about_zero_confirms_no_suspicion() -> None:
    """Differences of energies: where they stand says nothing, and what they gave back was none."""
    large = both(light(lr=1e-3), heavy(until=10, update_ratio_max=0.5), heavy(30, update_ratio_p50=0.06))
    run = [large(replace(s, loss=0.07 * math.sin(9 * s.step))) for s in healthy(400)]

    assert [f.rule for f in diagnose(run, replace(RUN, warmup=math.nan)) if f.severity != "info"] == []


def test_loss_at_a_high_floor_that_knows_more_than_guessing_was_not_ruined() -> None:
    """Half of the answers cannot be known: from 0.66 to 0.53, where guessing costs 0.68."""
    large = both(light(lr=1e-3), heavy(until=10, update_ratio_max=0.5), heavy(target_entropy=0.68))
    run = [large(replace(s, loss=0.53 + 0.13 * math.exp(-s.step / 10) + 0.02 * math.sin(9 * s.step))) for s in healthy(400)]

    assert [f.rule for f in diagnose(run, replace(RUN, warmup=math.nan)) if f.severity != "info"] == []
