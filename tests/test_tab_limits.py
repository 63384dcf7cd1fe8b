"""What the Adam tab leaves pale, and what it colours."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lightning_adam.diagnosis import RunSignals
from lightning_adam.tensorboard.names import ABSENT
from lightning_adam.tensorboard.tab.judged import GRADIENT, OVERVIEW, Judge
from lightning_adam.tensorboard.tab.limits import bands, planned_share
from lightning_adam.tensorboard.tab.tiles import Matrix
from tests.benchmarks.divergence.healthy import HEALTHY
from tests.benchmarks.divergence.sick import SICK
from tests.benchmarks.tab_colours import record, separation, shares

ADAM = RunSignals(optimizer="AdamW", beta1=0.9, beta2=0.999, plain_moments=True)
NAMES = ["body.weight", "body.bias"]
STEPS = np.arange(40, 140, 10)


def judged(values: list[float], rates: list[float] | None = None, quantity: str = "update_ratio") -> list[float]:
    """Excess of the weight matrix at ten steps; all steps agree, so that small ones are minded, too."""
    columns = np.array([values, values], np.float32).T
    matrices = {quantity: Matrix(STEPS, columns), "signal_to_noise": Matrix(STEPS, np.ones_like(columns))}
    matrices[GRADIENT] = matrices.get(GRADIENT, Matrix(STEPS, np.ones_like(columns)))
    logged = None if rates is None else (STEPS, np.array(rates))
    found = Judge(bands(ADAM), NAMES, logged).judge(quantity, matrices).excess
    assert found is not None
    return [float(value) for value in found[:, 0]]


@pytest.mark.parametrize(("ratio", "side"), [(1.4e-4, -1), (1.6e-4, 0), (2e-3, 0), (0.029, 0), (0.031, 1), (0.99, 1)])
def test_band_of_the_update_ratio_is_that_of_lr_low_and_lr_high(ratio: float, side: int) -> None:
    """0.015 % to 3 %, as the rules have it; the farther outside, the stronger the colour."""
    assert {math.copysign(1, e) if e else 0 for e in judged([ratio] * 10)} == {side}


def test_band_widens_where_a_smaller_beta1_makes_steps_larger() -> None:
    """The limit scales with the noise floor √((1-β₁)/(1+β₁)): 4.36 times that of 0.9 without momentum."""
    wide = bands(replace(ADAM, beta1=0.0))["update_ratio"].high

    assert wide / bands(ADAM)["update_ratio"].high == pytest.approx(math.sqrt(0.1 / 1.9) ** -1)


def test_decay_of_the_schedule_is_divided_out_and_a_warmup_is_not() -> None:
    """A ratio that falls with its rate stays pale to the end; one that stays while the rate falls does not."""
    rates = [1e-3 * 0.4**i for i in range(10)]

    assert judged([2e-3 * 0.4**i for i in range(10)], rates) == [0] * 10
    assert judged([2e-3] * 10, rates)[-1] > 0
    np.testing.assert_allclose(planned_share(np.array([1.0, 2.0, 4.0, 2.0, 0.0])), [1, 1, 1, 0.5, math.nan])


def test_small_steps_that_disagree_are_noise() -> None:
    """LR-LOW only minds them where they point the same way."""
    small, noise = np.full((10, 2), 1e-5, np.float32), np.full((10, 2), 0.1, np.float32)
    matrices = {"update_ratio": Matrix(STEPS, small), "signal_to_noise": Matrix(STEPS, noise)}
    found = Judge(bands(ADAM), NAMES).judge("update_ratio", matrices).excess

    assert found is not None and not found.any()


def test_biases_and_what_began_at_zero_are_not_judged_by_their_ratio() -> None:
    """They move by any share of their norm; a head that began at zero is all step."""
    values = np.full((10, 2), 0.5, np.float32)
    values[0, 0] = 1.0
    found = Judge(bands(ADAM), NAMES).judge("update_ratio", {"update_ratio": Matrix(STEPS, values)}).excess

    assert found is not None and not found.any()


def test_gradient_of_twenty_times_its_usual_size_and_none_at_all_are_coloured() -> None:
    """As BAD-BATCH and DEAD-PARAMETER have it; before four logged steps nothing is usual."""
    found = judged([1, 1, 1, 1, 1, 19, 21, 1, 0, math.nan], quantity=GRADIENT)

    assert found[:6] == [0] * 6 and found[6] > 0 and found[7:9] == [0, -1] and math.isnan(found[9])


def test_overview_shows_of_each_cell_what_is_farthest_outside() -> None:
    """Its value, how far, and which quantity it is."""
    usual = {name: Matrix(STEPS, np.full((10, 2), 1e-2, np.float32)) for name in bands(ADAM)}
    usual["eps_dominated"].values[4, 0] = 0.9
    overview = Judge(bands(ADAM), NAMES).judge(OVERVIEW, usual)

    assert overview.excess is not None and overview.worst is not None
    assert np.argwhere(overview.excess).tolist() == [[4, 0]]
    assert overview.values[4, 0] == pytest.approx(0.9)
    assert list(bands(ADAM))[int(overview.worst[4, 0])] == "eps_dominated"


def test_sick_runs_are_coloured_and_healthy_ones_are_pale(tmp_path: Path) -> None:
    """Four short runs of the benchmark; ``python -m tests.benchmarks.tab_colours`` has the figures of all."""
    known = {s.name: s for s in (*HEALTHY, *SICK)}
    names = ("digits", "digits-cosine-torch", "lr-high-digits", "eps-high-digits")
    found = [shares(record(replace(known[name], steps=60), 0, tmp_path)).full for name in names]

    assert max(found[:2]) < 0.05 < 0.2 < min(found[2:])
    assert separation(found[:2], found[2:]) == 1.0


def test_a_tensor_that_a_step_has_not_is_not_called_broken() -> None:
    """Frozen from the fifth step on: its cells are no NaN gradients, and no gradients that are too small."""
    norms, ratios = np.ones((10, 2), np.float32), np.full((10, 2), 2e-3, np.float32)
    norms[5:, 1], ratios[5:, 1] = ABSENT, np.nan
    matrices = {GRADIENT: Matrix(STEPS, norms), "update_ratio": Matrix(STEPS, ratios)}
    judge = Judge(bands(ADAM), NAMES)

    for quantity in matrices:
        found = judge.judge(quantity, matrices)
        assert found.excess is not None and not found.excess.any()
        assert np.isnan(found.values[5:, 1]).all()
