"""Harm beside the course of the loss: what guessing gives, a straight line, what the gradient promises, what came before."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from lightning_adam.diagnosis import Finding, NonFinite, RunSignals, StepSignals
from lightning_adam.monitoring.pass_signals import batch_scale
from tests.healthy_run import HEAVY, RUN, Change, both, diagnose, healthy, heavy, light

NOISE = np.random.default_rng(3).normal(size=1000)
LN10 = math.log(10)


def losses(curve: Callable[[int], float], noise: float = 0.0) -> Change:
    """The loss follows this curve of the step."""
    return lambda s: replace(s, loss=curve(s.step) + noise * float(NOISE[s.step]))


def told(*changes: Change, run: RunSignals = RUN, steps: int = 400) -> list[tuple[str, str]]:
    """Codes and severities of a changed healthy run."""
    return [(f.rule, f.severity) for f in found(*changes, run=run, steps=steps)]


def graver(*changes: Change) -> list[str]:
    """Codes of what is more than information."""
    return [rule for rule, severity in told(*changes) if severity != "info"]


def found(*changes: Change, run: RunSignals = RUN, steps: int = 400) -> list[Finding]:
    """Findings of a changed healthy run."""
    return diagnose(map(both(*changes), healthy(steps)), run)


def test_run_that_has_learnt_how_often_each_class_comes_has_learnt_nothing() -> None:
    """From 4 to ln 10 at once, and there it stays, with noise: shuffled labels."""
    falls_at_once = losses(lambda k: LN10 + 1.7 * math.exp(-k / 5), 0.1)

    assert ("NO-LEARNING", "warning") in told(falls_at_once, heavy(target_entropy=LN10))
    assert graver(falls_at_once) == []


@pytest.mark.parametrize(("share", "codes"), [(1.0, ["NO-LEARNING"]), (0.7, [])])
def test_regression_that_guesses_the_mean_has_learnt_nothing(share: float, codes: list[str]) -> None:
    """The variance of targets with rms 5 around 4 is 9; a squared error of 70 % of that has learnt something."""
    targets = heavy(target_rms=5.0, target_offset=4 / 3)
    stands = losses(lambda k: 9 * share + 7 * math.exp(-k / 5), 0.2)

    assert graver(targets, stands) == codes


SHORTENED = heavy(eps_share=0.9, normalised_rms=0.05, update_ratio_p50=1e-3)


@pytest.mark.parametrize(
    ("curve", "alignment", "severity"),
    [
        (lambda k: 4 - 1.5 * k / 400, 0.9, "warning"),
        (lambda k: 4 - 3.6 * k / 400, 0.9, "info"),
        (lambda k: 1.5 + 2.5 * math.exp(-k / 60), 0.0, "info"),
    ],
    ids=["a line that leads nowhere", "a line that arrives", "a curve that bends"],
)
def test_short_steps_harm_where_the_loss_only_begins_to_fall(
    curve: Callable[[int], float], alignment: float, severity: str
) -> None:
    """ε shortens steps to a fifth: no harm by itself, and none that a falling loss denies at 40 % of the run."""
    assert told(SHORTENED, heavy(alignment=alignment), losses(curve), steps=220) == [("EPS-HIGH", severity)]


def test_short_steps_harm_where_time_runs_out() -> None:
    """After 60 % of the run the loss is at half of its start, and its pace leads to 45 %."""
    slow = losses(lambda k: 4 - 1.8 * math.sqrt(k / 250), 0.0)

    assert ("EPS-HIGH", "warning") in told(SHORTENED, heavy(alignment=0.1), slow)


def test_squared_error_with_the_wrong_sign_is_named_before_it_overflows() -> None:
    """Each step falls 1.5 times as far as the one before, then NaN: one finding, and no word of a batch."""
    plunge = both(losses(lambda k: -(1.5 ** min(k, 40))), light(40, non_finite=NonFinite("loss"), loss=math.nan))
    findings = found(plunge)

    assert [(f.rule, f.severity) for f in findings] == [("WRONG-SIGN", "critical")]
    assert findings[0].evidence["then NON-FINITE"] == "at step 40"


@pytest.mark.parametrize(
    ("curve", "codes"),
    [
        (lambda k: -2.3 - 0.5 * k, ["WRONG-SIGN"]),
        (lambda k: 3 - 25 * math.log1p(k / 10), []),
        (lambda k: -1 + math.exp(-k / 30), []),
    ],
    ids=["logits that grow for ever", "a likelihood", "a similarity"],
)
def test_loss_that_runs_straight_down_has_no_floor(curve: Callable[[int], float], codes: list[str]) -> None:
    """A cross entropy with the wrong sign falls in a line, all steps agree; what has a best value bends."""
    assert [rule for rule, _ in told(losses(curve, 0.01), heavy(alignment=0.95))] == codes


def test_inputs_that_saturate_the_first_layer_are_the_cause_of_its_vanished_gradient() -> None:
    """rms 1500 as the first layer sees it, small gradients, and none before the last layers: no advice to add a norm."""
    raw = both(heavy(until=5, layer_rms=1500.0), heavy(first_last=1e-6))

    assert told(raw, losses(lambda k: 1.0, 0.05)) == [("INPUT-SCALE", "warning")]
    assert told(heavy(first_last=1e-6), losses(lambda k: 1.0, 0.05)) == [("GRAD-VANISHING", "warning")]


@pytest.mark.parametrize(("largest", "code"), [(3e4, "BAD-BATCH"), (3.0, "GRAD-EXPLODING")])
def test_growth_that_follows_a_batch_of_odd_values_is_that_batch(largest: float, code: str) -> None:
    """Gradients grow for six steps from step 70 on: what the batch held says whether it began there."""
    grows = lambda s: replace(s, gradient_norm=900.0 * 2 ** (s.step - 70), loss=40.0) if 70 <= s.step < 76 else s  # noqa: E731

    assert told(grows, heavy(70, 71, input_max=largest))[0][0] == code


def test_gradients_that_stay_heavy_after_a_raise_are_the_rate_and_no_stale_moment() -> None:
    """Three hundred times the rate at step 150, gradients 900 times as large for good, v behind."""
    jump = both(light(150, lr=0.3), light(151, gradient_norm=900.0, loss=40.0), heavy(151, surprise_max=9.0))
    every_step = [replace(s, heavy=s.heavy or HEAVY) for s in healthy(260)]

    assert [f.rule for f in diagnose(map(jump, every_step)) if f.severity != "info"] == ["LR-HIGH"]


@pytest.mark.parametrize(("lr", "code"), [(2e-5, "LR-LOW"), (5e-2, "NO-LEARNING")])
def test_rate_of_sgd_is_too_low_where_its_gradient_promises_nothing(lr: float, code: str) -> None:
    """A loss that stands at 80, a gradient of 18: α·|g|² per step gives 3 of it in the whole run, or 6,500."""
    sgd = replace(RUN, optimizer="SGD", steps_like="sgd", lr=lr, beta1=math.nan, beta2=math.nan)
    stands = both(light(lr=lr, gradient_norm=18.0, beta1=math.nan, beta2=math.nan), losses(lambda k: 80.0, 2.0))

    first = found(stands, heavy(normalised_rms=math.nan, second_moment_p50=math.nan, eps_share=math.nan), run=sgd)[0]
    assert (first.rule, first.severity) == (code, "warning")


def test_schedule_that_collapsed_is_no_consequence_of_a_suspicion() -> None:
    """A first step of 300 % that nothing confirmed, and a rate of nothing from step 60 on."""
    both_at_once = both(heavy(until=10, update_ratio_max=3.0), light(60, lr=1e-7), losses(lambda k: 4 * 0.99 ** min(k, 60)))

    assert told(both_at_once) == [("LR-HIGH", "info"), ("SCHEDULE-COLLAPSED", "warning")]


def entropy_of(labels: torch.Tensor) -> float:
    """As the pass over a batch of inputs and these targets sees it."""
    return batch_scale((torch.zeros(len(labels), 3), labels)).target_entropy


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_entropy_of_labels_is_that_of_scipy(dtype: torch.dtype) -> None:
    """Of two classes at one in five, as whole numbers or as zeros and ones, and the correction for 5,000 examples."""
    labels = (torch.arange(5000) % 5 == 0).to(dtype)

    assert entropy_of(labels) == pytest.approx(stats.entropy([0.2, 0.8]) + 1 / 10_000, rel=1e-9)


def test_entropy_of_small_batches_is_right_on_the_average() -> None:
    """Batches of 32 of ten equal classes: without the correction it would be 0.14 too low."""
    generator = torch.Generator().manual_seed(0)
    measured = [entropy_of(torch.randint(0, 10, (32,), generator=generator)) for _ in range(200)]

    assert np.mean(measured) == pytest.approx(LN10, abs=0.04)


@pytest.mark.parametrize("targets", [torch.randn(64), torch.zeros(64, dtype=torch.long), torch.arange(2000)])
def test_what_holds_no_classes_has_no_entropy(targets: torch.Tensor) -> None:
    """Real numbers, one class only, and a different number for each example."""
    assert math.isnan(entropy_of(targets))


def test_tokens_alone_are_their_own_targets() -> None:
    """A language model's batch is one tensor of token numbers; pixels of one byte are no classes."""
    tokens = torch.arange(40).reshape(4, 10) % 4

    assert batch_scale(tokens).target_entropy == batch_scale((tokens, tokens)).target_entropy > 1.3
    assert math.isnan(batch_scale(tokens.to(torch.uint8)).target_entropy)


def test_ignored_labels_are_no_class() -> None:
    """-100 is what cross entropy leaves out."""
    labels = torch.tensor([0, 1, 0, 1, -100, -100])

    assert entropy_of(labels) == pytest.approx(math.log(2) + 1 / 8)


def test_signals_without_targets_change_no_verdict() -> None:
    """Records of older versions have no entropy: the healthy run stays silent, and a stored step has NaN there."""
    assert told(losses(lambda k: 1 + 3 * math.exp(-k / 40), 0.05)) == []
    step = healthy(1)[0]
    assert isinstance(step, StepSignals)
    assert step.heavy is not None
    assert math.isnan(step.heavy.target_entropy)
