"""What a run shows late, or only together: descent that creeps, a slow climb, modes and rates that nobody planned."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from lightning_adam.diagnosis import Finding, RunSignals, StepSignals
from tests.healthy_run import RUN, both, diagnose, healthy, heavy, light

Losses = Callable[[np.ndarray], np.ndarray]
SGD = replace(RUN, optimizer="SGD", steps_like="sgd", plain_moments=False, total_steps=300.0, lr=3e-3)
"""A linear model's: weights begin near zero, so that a short step is a usual share of them."""


def run_of(losses: Losses, steps: int = 260, **changes: float) -> list[StepSignals]:
    """The healthy run with another loss, without the helper's warmup."""
    values = losses(np.arange(steps)) + 0.01 * np.random.default_rng(0).normal(size=steps)
    change = light(lr=1e-3, **changes)
    return [change(replace(s, loss=float(value))) for s, value in zip(healthy(steps), values, strict=True)]


def alarms(run: list[StepSignals], known: RunSignals = RUN) -> list[Finding]:
    return [finding for finding in diagnose(run, replace(known, warmup=math.nan)) if finding.severity != "info"]


def creeping(clip: float, norm: Losses) -> list[StepSignals]:
    """A loss that goes from 1.38 to 1.28 in a straight line, in steps of 0.12 % of the weights."""
    run = run_of(lambda t: 1.38 - 0.1 * t / 300, 300, clip_coefficient=clip)
    small = heavy(update_ratio_p50=1.2e-3, update_ratio_max=1.2e-3, normalised_rms=math.nan, alignment=math.nan)
    norms = norm(np.arange(300))
    return [small(replace(s, lr=3e-3 / clip, gradient_norm=float(size))) for s, size in zip(run, norms, strict=True)]


@pytest.mark.parametrize(("clip", "rule"), [(1.0, "LR-LOW"), (1e-3, "CLIP-ALWAYS")])
def test_plain_descent_that_creeps_is_named_by_what_holds_it(clip: float, rule: str) -> None:
    """The gradient of 0.6 stays, and 0.3·L/|g|² is a rate of 1."""
    known = replace(SGD, clip=0.6e-3 if clip < 1 else math.nan, lr=3e-3 / clip)

    assert [f.rule for f in alarms(creeping(clip, lambda t: np.full(len(t), 0.6)), known)] == [rule]


def test_plain_descent_whose_gradient_has_faded_is_not_too_slow() -> None:
    """What is left is flat, or noise."""
    assert alarms(creeping(1.0, lambda t: 0.6 * np.exp(-t / 40)), SGD) == []


@pytest.mark.parametrize(
    ("losses", "rules"),
    [(lambda t: np.full(len(t), 2.3), ["EVAL-MODE"]), (lambda t: 0.3 + 2 * np.exp(-t / 40), [])],
    ids=["standing", "falling"],
)
def test_eval_mode_is_to_blame_where_nothing_is_learnt(losses: Losses, rules: list[str]) -> None:
    """Frozen statistics are often meant so: what learns with them stays information."""
    assert [f.rule for f in alarms(run_of(losses), replace(RUN, eval_modules=("net.1",)))] == rules


def test_a_climb_over_the_start_is_divergence_however_slow() -> None:
    """From 2.3 to 0.6 in 80 steps, and then to 5.1 in 180: no ten losses stand out of the sixty before."""
    run = run_of(lambda t: np.where(t < 80, 0.6 + 1.7 * np.exp(-t / 15), 0.6 + 0.025 * (t - 80)))

    assert [(f.rule, f.severity) for f in alarms(run)] == [("LOSS-DIVERGED", "critical")]


@pytest.mark.parametrize(("configured", "rule"), [(1e-3, "LR-HIGH"), (1.0, "LOSS-DIVERGED")])
def test_a_likelihood_thrown_over_its_start_by_a_raised_rate_is_the_rates_doing(configured: float, rule: str) -> None:
    """From -0.4 to 6 within a few steps of a jump: unless the rate was to get there."""
    run = run_of(lambda t: np.where(t < 152, 1.0 - 1.4 * (1 - np.exp(-t / 40)), 6.0))
    jump = light(150, lr=0.3)

    told = alarms([jump(s) for s in run], replace(RUN, lr=configured))[0]
    assert (told.rule, "looked like" in told.message) == (rule, False)


@pytest.mark.parametrize(("ratio", "steps", "rules"), [(0.28, 400, []), (14.0, 260, ["LR-HIGH"])])
def test_a_fall_that_lasts_clears_first_steps_unless_they_forgot_the_weights(
    ratio: float, steps: int, rules: list[str]
) -> None:
    """From 3.5 to 3.1, which may be the floor of data that nobody can predict; in the longer run it stands there at last."""
    first = heavy(until=10, update_ratio_max=ratio)
    run = run_of(lambda t: 3.5 - 0.4 * np.minimum(t / 220, 1), steps)

    assert [f.rule for f in alarms([first(s) for s in run], replace(RUN, total_steps=float(steps)))] == rules


def test_a_flat_place_is_not_a_matter_of_the_rate() -> None:
    """The gradient was 1 and moved the weights; it is a thousandth of it now, and the loss stands where it began."""
    of_sgd = heavy(normalised_rms=math.nan, alignment=math.nan)
    fades = both(heavy(until=10, update_ratio_p50=0.02), heavy(10, update_ratio_p50=6e-4), light(5, gradient_norm=1e-3))
    run = [both(of_sgd, fades, light(lr=0.1))(s) for s in run_of(lambda t: np.full(len(t), 4.55), 200)]

    assert "LR-LOW" not in [f.rule for f in alarms(run, replace(SGD, lr=0.1, total_steps=200.0))]
