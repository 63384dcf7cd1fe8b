"""What runs showed that nobody had tuned on: counts, plateaus, warmups that never end, weights that are too large."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_adam.diagnosis import Finding, RunSignals
from lightning_adam.preflight.cheap import cheap_checks
from tests.healthy_run import RUN, both, diagnose, healthy, heavy, light
from tests.test_late_verdicts import SGD, alarms, creeping, run_of
from tests.test_strangers_runs import grave

SHORT = replace(RUN, total_steps=260.0, warmup=math.nan)
LARGE_WEIGHTS = (json.dumps(Finding("INIT-SCALE", "info", 0, "The weights start large.").to_dict()),)


@pytest.mark.parametrize(("size", "told"), [(170.0, []), (1.0, ["WRONG-SIGN"])])
def test_the_likelihood_of_raw_counts_falls_far_under_zero_and_is_no_wrong_sign(size: float, told: list[str]) -> None:
    """In a straight line to -470 after half of the run; that of counts about 170 ends at 170·(1 - ln 170) = -700."""
    run = run_of(lambda t: 2 - 3.6 * t, 131)

    assert grave(diagnose(map(heavy(target_rms=size, alignment=0.9), run), SHORT)) == told


@pytest.mark.parametrize(("first", "told"), [(2.1, []), (1.45, ["LR-HIGH"])])
def test_large_steps_that_learn_most_within_five_steps_are_not_where_they_began(first: float, told: list[str]) -> None:
    """The median of the first five losses is no start of these: the very first one is."""
    run = run_of(lambda t: np.where(t == 0, first, 1.4 + 0.02 * np.exp(-t / 40)))
    large = heavy(update_ratio_p50=0.05, update_ratio_max=0.05)

    assert grave(diagnose(map(large, run), SHORT)) == told


@pytest.mark.parametrize(
    ("end", "step", "told"),
    [(0.9, 3e-4, ["INIT-SCALE"]), (0.9, 4e-3, []), (0.2, 3e-4, []), (1.07, 4e-3, ["INIT-SCALE"])],
    ids=["as they were initialised", "much was changed", "learnt", "what guessing costs"],
)
def test_large_weights_are_judged_by_what_guessing_costs(end: float, step: float, told: list[str]) -> None:
    """Of three classes, 1.1. A fall from 4, which the weights had made of it, says nothing."""
    run = run_of(lambda t: end + (4 - end) * np.exp(-t / 25))
    seen = both(heavy(target_entropy=1.1, update_ratio_p50=step, alignment=0.0), light(lr=1e-3))

    assert grave(diagnose(map(seen, run), replace(SHORT, facts=LARGE_WEIGHTS))) == told


@pytest.mark.parametrize(("constants", "told"), [((0.69, 0.6), ["LR-LOW"]), ((), [])], ids=["yes or no", "classes"])
def test_who_began_trained_is_told_by_what_guessing_costs_in_its_own_loss(
    constants: tuple[float, ...], told: list[str]
) -> None:
    """Five grades as four questions: an untrained loss of 0.77 is under half of the labels' entropy."""
    run = run_of(lambda t: np.full(len(t), 0.77))
    tiny = heavy(update_ratio_p50=1e-5, update_ratio_max=2e-5, normalised_rms=0.9, target_entropy=1.6)

    assert [f.rule for f in alarms(list(map(tiny, run)), replace(SHORT, constants=constants))] == told


NEVER = replace(SHORT, lr=1e-2)


def test_labels_are_not_blamed_where_the_rate_never_arrived() -> None:
    """Weights that begin near zero move by a usual share under any rate."""
    run = list(map(light(lr=1e-5), run_of(lambda t: np.full(len(t), 1.0))))

    assert (grave(diagnose(run, NEVER)), grave(diagnose(run, replace(NEVER, lr=1e-5)))) == (
        ["SCHEDULE-NEVER-ARRIVES"],
        ["NO-LEARNING"],
    )


@pytest.mark.parametrize(("configured", "told"), [(1e-2, "SCHEDULE-NEVER-ARRIVES"), (1e-5, "BF16-STALL")])
def test_steps_of_a_warmup_that_are_rounded_away_are_the_warmups(configured: float, told: str) -> None:
    """In bf16; the rate stays at a thousandth of the configured one, or is that."""
    lost = heavy(lost_updates=0.95, update_ratio_p50=1e-7, update_ratio_max=1e-7, normalised_rms=0.9)
    run = [lost(light(lr=1e-5)(s)) for s in run_of(lambda t: np.full(len(t), 1.0))]

    assert grave(diagnose(run, replace(NEVER, lr=configured, dtype="bfloat16")))[:1] == [told]


@pytest.mark.parametrize(("end", "told"), [(-2.4, []), (-0.05, ["BF16-STALL"])], ids=["far below its start", "at its start"])
def test_a_signed_loss_that_stands_at_its_best_may_have_arrived(end: float, told: list[str]) -> None:
    """An energy's least value is not known, and a few points estimate it with noise; its weights need not move any more."""
    noise = 0.4 * np.random.default_rng(1).normal(size=260)
    run = run_of(lambda t: end * (1 - np.exp(-t / 20)) + noise - 0.01)
    lost = heavy(120, lost_updates=0.95)

    assert grave(diagnose(map(lost, run), replace(SHORT, dtype="bfloat16"))) == told


def test_descent_that_leaves_a_plateau_is_no_slow_one() -> None:
    """The first gradient, 0.6, promised a rate of 1; now it is ten times as large, and 0.3·L/|g|² a hundredth of that."""
    assert alarms(creeping(1.0, lambda t: np.where(t < 60, 0.6, 6.0)), SGD) == []


def thrown(ratio: float, run: RunSignals) -> list[Finding]:
    steps = [heavy(until=10, update_ratio_max=ratio)(s) for s in run_of(lambda t: np.where(t < 4, 1.0, 50.0), 80)]
    return diagnose(steps, run)


@pytest.mark.parametrize(("ratio", "told"), [(14.0, ["LR-HIGH"]), (0.13, [])])
def test_a_rate_that_finds_itself_is_too_large_where_a_step_replaces_the_weights(ratio: float, told: list[str]) -> None:
    """Prodigy at a hundred times its rate; healthy runs' first ten steps stay under 0.14."""
    found = grave(thrown(ratio, replace(SHORT, optimizer="Prodigy", steps_like="adapted", plain_moments=False, lr=1.0)))

    assert [rule for rule in found if rule == "LR-HIGH"] == told


@pytest.mark.parametrize(("beta1", "told"), [(0.85, []), (0.95, ["STATE-CORRUPT"])], ids=["it cycles", "it stays"])
def test_no_bound_of_one_beta1_holds_in_the_first_steps_of_a_fast_cycle(beta1: float, told: list[str]) -> None:
    """``OneCycleLR`` takes β₁ from 0.95 to 0.85 and back, in one step each where a run has four."""
    cycle = both(light(beta1=0.95), light(1, 2, beta1=beta1), heavy(2, 3, bound_excess=1.2))

    assert grave(diagnose(map(cycle, healthy(6)), replace(SHORT, total_steps=6.0))) == told


def drawn(draw: Callable[[Tensor], object]) -> list[str]:
    """What the first step's checks say of three layers whose weights are drawn so."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
    for layer in net[::2]:
        draw(layer.weight)
    return [finding.rule for finding in cheap_checks(net, [], None)]


@pytest.mark.parametrize(
    ("draw", "told"),
    [(nn.init.uniform_, ["INIT-SCALE"]), (lambda w: nn.init.uniform_(w, -0.5, 0.5), []), (nn.init.kaiming_normal_, [])],
    ids=["rand", "around zero", "kaiming"],
)
def test_weights_of_one_sign_are_told_at_the_first_step(draw: Callable[[Tensor], object], told: list[str]) -> None:
    """``torch.rand`` where ``torch.randn`` was meant; no family of the corpus begins so."""
    assert drawn(draw) == told


def test_a_healthy_run_is_told_nothing_of_the_kind() -> None:
    """With a start that was found large, too."""
    assert grave(diagnose(healthy(), replace(RUN, facts=LARGE_WEIGHTS, lr=1e-3))) == []
