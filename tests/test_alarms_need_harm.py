"""An alarm needs harm: suspicions wait for the loss, proofs do not, and no rule prints what is no number."""

from __future__ import annotations

import math
import re
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_adam.diagnosis import Diagnosis, Finding, HeavySignals, NonFinite, RunSignals, StepSignals, findings_table
from lightning_adam.diagnosis.course import loss_course
from lightning_adam.diagnosis.finding import as_told
from lightning_adam.diagnosis.history import History
from lightning_adam.diagnosis.theory import good_first_step
from tests.healthy_run import HEAVY, RUN, both, diagnose, healthy, heavy, light
from tests.test_every_rule import SICK, Example

STATES = {"NON-FINITE", "BETA2-LOW", "SCALER-SKIPS", "STATE-LOST", "STATE-CORRUPT", "GRAD-NOT-ZEROED", "NO-GRADIENT",
          "OPTIMIZER-STALE"}  # fmt: skip
"""What is exact: the loss need not agree."""


def remembered(losses: np.ndarray) -> History:
    """A history of these losses alone."""
    history = History()
    for step, loss in enumerate(losses):
        history.before_step(StepSignals(step, loss=float(loss)))
        history.after_step(StepSignals(step, loss=float(loss)))
    return history


def noise(steps: int, size: float = 1.0) -> np.ndarray:
    """Independent normal numbers."""
    return size * np.random.default_rng(0).normal(size=steps)


@pytest.mark.parametrize(
    ("losses", "course"),
    [
        (3 * np.exp(-np.arange(120) / 40) + 1 + noise(120, 0.1), "falling"),
        (2.3 - 0.01 * np.arange(120) + noise(120, 0.2), "falling"),
        (2.3 + noise(120, 0.2), "standing"),
        (-100 - 2 * np.arange(120) + noise(120, 5), "falling"),
        (-1.0 + noise(120, 0.3), "standing"),
        (np.where(np.arange(120) < 60, 1.0, 4.0) + noise(120, 0.1), "rising"),
        (np.exp(-np.arange(120) / 10) + 1e-3 * np.abs(noise(120, 3)), "falling"),
        (np.array([0.0] * 5 + [-1e-3 * k for k in range(115)]), "falling"),
        (np.array([2.3, 2.3]), "unknown"),
        (np.array([]), "unknown"),
        (np.array([2.3, 40.0]), "unknown"),
        (np.array([2.3, 40.0, 45.0]), "rising"),
        (np.array([0.59, 5.9, 0.76]), "unknown"),
        (np.array([22.0, 24.0, 25.0, 26.0, 27.0, 28.0, 28.0, 28.0, 28.0, 28.0]), "unknown"),
        (np.array([2.2, 2.4, 9.0, 10.0, 10.0, 10.0, 10.0, 10.0, 10.0, 10.0]), "rising"),
    ],
)
def test_course_of_the_loss_is_read_through_noise_and_below_zero(losses: np.ndarray, course: str) -> None:
    """Falling, standing, rising: of positive losses, likelihoods, near zero, and of the first steps."""
    assert loss_course(remembered(losses)) == course


@pytest.mark.parametrize("seed", range(40))
def test_pure_noise_is_never_called_rising(seed: int) -> None:
    """The best level of a noisy loss lies under its mean: that is no rise."""
    generator = np.random.default_rng(seed)
    history = remembered(1 + 0.3 * generator.normal(size=300) ** 2)

    assert loss_course(history) != "rising"


@pytest.mark.parametrize("example", [e for e in SICK if e.rule not in STATES], ids=lambda e: e.rule)
def test_nothing_is_above_information_while_the_loss_falls(example: Example) -> None:
    """The same signals under a loss that falls from 4 to 1 are suspicions at most."""
    falls = [replace(example.change(s), loss=s.loss) for s in healthy()]

    assert [f.rule for f in diagnose(falls, example.run) if f.severity != "info"] == []


@pytest.mark.parametrize("example", [e for e in SICK if e.rule in STATES and e.rule != "NON-FINITE"], ids=lambda e: e.rule)
def test_what_is_proven_is_told_while_the_loss_falls(example: Example) -> None:
    """A state that is lost, or gradients that arrive nowhere, need no loss that agrees."""
    falls = [replace(example.change(s), loss=s.loss) for s in healthy()]

    assert example.rule in [f.rule for f in diagnose(falls, example.run) if f.severity != "info"]


def large_first_steps(loss: float, until: int = 10**9) -> list[StepSignals]:
    """A first step of 300 % of the weights, after which the loss stands there."""
    change = both(heavy(until=10, update_ratio_max=3.0), light(1, until, loss=loss))
    return [change(s) for s in healthy()]


def test_suspicion_becomes_a_warning_when_the_loss_agrees() -> None:
    """Told as information at step 0, and anew, as a warning with the same step and rate, once the loss has not fallen."""
    diagnosis, told = Diagnosis(RUN), list[tuple[str, str, int]]()
    for signals in large_first_steps(4.1):
        told += [(f.rule, f.severity, f.step) for f in diagnosis.observe(signals)]

    assert told == [("LR-HIGH", "info", 0), ("LR-HIGH", "warning", 0)]
    assert "The loss agrees: it began at 4.1, and is still at 4.1" in diagnosis.findings[0].message


def test_suspicion_that_the_loss_clears_stays_information() -> None:
    """The loss falls to a quarter, and much later it stands still: that has nothing to do with the first step."""
    assert [(f.rule, f.severity) for f in diagnose(large_first_steps(4.1, until=2))] == [("LR-HIGH", "info")]


def test_first_step_that_forgets_the_weights_is_named_where_the_loss_only_guesses() -> None:
    """From ln 100 down to the labels' entropy, and no further: not the labels, where a step was three times the weights."""
    change = both(heavy(until=10, update_ratio_max=3.0), heavy(target_entropy=2.9), light(loss=2.95), light(0, 8, loss=4.6))

    assert [f.rule for f in diagnose(map(change, healthy())) if f.severity != "info"] == ["LR-HIGH"]


def test_large_first_steps_harm_where_a_slow_fall_gets_no_further_than_guessing() -> None:
    """After a quarter of the run a loss that creeps around the labels' entropy has learnt how often each comes."""
    creeps = lambda s: replace(s, loss=9.0 if s.step in (2, 4) else 4.5 if s.step < 60 else 3.0 - 5e-4 * s.step)  # noqa: E731
    change = both(heavy(until=10, update_ratio_max=0.8), heavy(target_entropy=2.9), light(lr=1e-3), creeps)
    found = diagnose(map(change, healthy()), replace(RUN, warmup=math.nan))

    assert [f.rule for f in found if f.severity != "info"] == ["NO-WARMUP"]


def test_large_first_steps_are_not_blamed_for_a_loss_that_rises_a_hundred_steps_later() -> None:
    """The loss had halved until then: who made it rise came later, and is found by a name of its own."""
    change = both(heavy(until=10, update_ratio_max=3.0), light(150, loss=3.9))
    found = diagnose(map(change, healthy()))

    assert [(f.rule, f.severity) for f in found if f.rule == "LR-HIGH"] == [("LR-HIGH", "info")]
    assert [(f.rule, f.severity) for f in found if f.rule != "LR-HIGH"] == [("LOSS-DIVERGED", "info")]


@pytest.mark.parametrize(
    ("first", "last", "found"),
    [(-4.6, -27.0, ["WRONG-SIGN"]), (-2.3, -7.0, ["WRONG-SIGN"]), (0.0, -1.0, []), (-2.4, -4.0, []), (-138.0, -300.0, [])],
    ids=["language", "images", "similarity", "similarities", "returns"],
)
def test_negative_cross_entropy_is_a_wrong_sign(first: float, last: float, found: list[str]) -> None:
    """Labels of entropy 2.5: what begins at minus their loss and doubles; neither similarities nor returns do that."""
    change = both(heavy(target_entropy=2.5), lambda s: replace(s, loss=first + (last - first) * s.step / 259))

    assert [f.rule for f in diagnose(map(change, healthy())) if f.severity != "info"] == found


@pytest.mark.parametrize(("ratio", "found"), [(2e-5, ["LR-LOW"]), (2e-4, ["LR-LOW"]), (2e-3, [])])
def test_what_has_not_moved_has_not_learnt(ratio: float, found: list[str]) -> None:
    """All 260 steps together are half a percent of the weights, or five: the rate is too low, however gradients disagree."""
    change = both(heavy(update_ratio_p50=ratio, normalised_rms=0.3), light(loss=4.0))
    rules = [f.rule for f in diagnose(map(change, healthy())) if f.severity != "info"]

    assert [rule for rule in rules if rule == "LR-LOW"] == found


def test_rate_in_the_remedy_is_the_configured_one() -> None:
    """During the warmup the rate is a tenth: what is named is what the user wrote, and what to write instead."""
    found = diagnose(large_first_steps(4.1), replace(RUN, lr=1e-3))

    assert "instead of 0.001" in found[0].remedy
    assert found[0].changes["lr"] < 1e-3


def test_rates_that_nobody_would_try_are_not_advised() -> None:
    """A step of 10¹² times the weights asks for no rate of 10⁻¹⁴: three decades at most."""
    change = both(heavy(until=10, update_ratio_max=1e12), light(1, loss=4.1))

    assert diagnose(map(change, healthy()), replace(RUN, lr=1e-3))[0].changes["lr"] == 1e-6


def test_divergence_by_rate_is_one_finding() -> None:
    """A step of fifty times the weights, a loss of 10¹¹, then NaN: LR-HIGH, critical, and no second word about the batch."""
    change = both(
        heavy(until=10, update_ratio_max=50.0),
        lambda s: (
            replace(s, loss=4.0 * 1e5**s.step) if s.step < 3 else replace(s, loss=math.nan, non_finite=NonFinite("loss"))
        ),
    )
    found = diagnose(map(change, healthy()))

    assert [(f.rule, f.severity) for f in found] == [("LR-HIGH", "critical")]
    assert found[0].evidence["then NON-FINITE"] == "at step 3"


def test_bad_value_in_a_run_that_learns_is_not_blamed_on_a_large_first_step() -> None:
    """NaN at step 5 of a run whose loss is as it was: NON-FINITE."""
    change = both(heavy(until=10, update_ratio_max=3.0), light(5, loss=math.nan, non_finite=NonFinite("loss")))

    assert "NON-FINITE" in [f.rule for f in diagnose(map(change, healthy())) if f.severity == "critical"]


def test_raised_rate_is_named_and_no_batch() -> None:
    """The rate is raised three-hundredfold at step 150 and the gradients stand out at once."""
    change = both(light(150, lr=0.3), light(151, gradient_norm=900.0, loss=40.0))

    assert next(f.rule for f in diagnose(map(change, healthy())) if f.severity != "info") == "LR-HIGH"


def test_clip_that_is_on_already_is_not_advised() -> None:
    """A bad batch under clip=0.5: look at the batch, and no word of a clip that is as tight."""
    change = light(70, 71, gradient_norm=900.0, loss=40.0)

    assert "clip" not in diagnose(map(change, healthy()), replace(RUN, clip=0.5))[0].remedy
    assert "clip=2" in diagnose(map(change, healthy()))[0].remedy


@pytest.mark.parametrize(("total", "most"), [(250.0, 25), (100_000.0, 2000)])
def test_warmup_is_at_most_a_tenth_of_the_run(total: float, most: int) -> None:
    """2/(1-0.999) is 2,000 steps: not in a run of 250."""
    change = both(light(lr=1e-3), heavy(until=10, update_ratio_max=0.5), light(1, loss=4.1))
    found = diagnose(map(change, healthy()), replace(RUN, warmup=math.nan, total_steps=total))

    assert found[0].rule == "NO-WARMUP"
    assert found[0].changes["warmup"] == most


@pytest.mark.parametrize(
    ("mode", "words"), [("automatic", "optimizer_zero_grad"), ("manual", "manual_backward"), ("loop", "loss.backward()")]
)
def test_remedy_is_for_the_mode_of_training(mode: str, words: str) -> None:
    """Who clears the gradients differs."""
    assert words in diagnose(map(light(1, not_zeroed=True), healthy()), replace(RUN, mode=mode))[0].remedy


def test_run_whose_weights_stand_still_is_diagnosed_to_its_end() -> None:
    """A ratio of exactly zero ended the monitor's work once; a loss that rises later is still told."""
    dead = heavy(update_ratio_p50=0.0, update_ratio_max=0.0, normalised_rms=math.nan)
    found = diagnose(map(both(dead, light(loss=2.0), light(200, loss=2000.0)), healthy()))

    assert "LOSS-DIVERGED" in [f.rule for f in found]


ODD = st.sampled_from([0.0, -0.0, 1e-300, 1e-12, 1.0, -1.0, 3.0, 1e8, 1e300, -1e300, math.inf, -math.inf, math.nan])
NOT_A_NUMBER = re.compile(r"(?<![A-Za-z])(nan|inf|-inf)(?![A-Za-z])|\de[+]\d+ %|\bNone\b|\{|\}")
FLOATS = {
    kind: tuple(f.name for f in fields(kind) if f.type == "float")  # type: ignore[arg-type]
    for kind in (StepSignals, HeavySignals, RunSignals)
}


def odd_values(kind: type) -> st.SearchStrategy[dict[str, float]]:
    """Some of the kind's numbers replaced by odd ones."""
    return st.dictionaries(st.sampled_from(FLOATS[kind]), ODD, max_size=8)


def constant_run(step: dict[str, float], tensors: dict[str, float], run: dict[str, float], steps: int) -> list[Finding]:
    """The same odd signals at every step of a run."""
    diagnosis = Diagnosis(replace(RUN, **run))  # type: ignore[arg-type]
    for signals in healthy(steps):
        odd = replace(signals.heavy or HEAVY, **tensors)
        diagnosis.observe(replace(signals, **step, heavy=odd))  # type: ignore[arg-type]
    return diagnosis.findings


@settings(max_examples=100, deadline=None, derandomize=True)
@given(odd_values(StepSignals), odd_values(HeavySignals), odd_values(RunSignals), st.sampled_from([1, 2, 30, 130]))
def test_no_rule_raises_or_prints_what_is_no_number(
    step: dict[str, float], tensors: dict[str, float], run: dict[str, float], steps: int
) -> None:
    """Zeros, infinities, NaN, negative and constant losses, single steps, huge values."""
    for finding in constant_run(step, tensors, run, steps):
        assert not NOT_A_NUMBER.search(finding.message + " " + finding.remedy), finding
        assert all(not isinstance(v, float) or math.isfinite(v) for v in finding.changes.values()), finding
        findings_table([finding])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(ODD, min_size=1, max_size=140), st.lists(ODD, min_size=1, max_size=40))
def test_no_rule_raises_on_signals_that_jump(losses: list[float], ratios: list[float]) -> None:
    """Each loss, gradient norm and ratio is another odd value."""
    diagnosis = Diagnosis(RUN)
    for step, loss in enumerate(losses):
        ratio = ratios[step % len(ratios)]
        odd = replace(HEAVY, update_ratio_p50=ratio, update_ratio_max=ratio, second_moment_p50=ratio, state_step=ratio)
        diagnosis.observe(StepSignals(step, loss=loss, gradient_norm=ratio, lr=1e-3, beta1=0.9, beta2=0.999, heavy=odd))
    for finding in diagnosis.findings:
        assert not NOT_A_NUMBER.search(finding.message + " " + finding.remedy), finding


def test_the_advice_of_a_suspicion_is_for_the_case_that_the_loss_agrees() -> None:
    """Applied to a run that learns it would harm; when the loss agrees, it is told in full."""
    rate = {"lr": 1e-4}
    suspected = Finding("LR-HIGH", "info", 3, "steps are large.", remedy="Try lr=0.0001 instead of 0.01.", changes=rate)
    told = as_told(suspected)

    assert told.remedy == "Only if the loss does not fall: Try lr=0.0001 instead of 0.01."
    assert told.changes == {}
    assert as_told(told) == told
    confirmed = replace(suspected, severity="warning")
    assert as_told(confirmed) == confirmed


@pytest.mark.parametrize("course", [{"schedule": "cosine"}, {"clip": 1.0}, {"eps": 1e-8}], ids=["schedule", "clip", "eps"])
def test_information_asks_no_machine_to_change_the_course(course: dict[str, float | str]) -> None:
    """A healthy run is told as much: the words stay, for a person to weigh."""
    told = as_told(Finding("PLATEAU", "info", 90, "the loss has stayed.", remedy="Let the rate decay.", changes=course))

    assert (told.remedy, told.changes) == ("Let the rate decay.", {})


def slow(level_at_end: float, ratio: float = 2e-4, rms: float = 0.6, largest: float = 6e-4) -> list[StepSignals]:
    """A loss that falls as a straight line from 4, under steps of one size."""
    change = heavy(update_ratio_p50=ratio, normalised_rms=rms, update_ratio_max=largest)
    return [change(replace(s, loss=4 + (level_at_end - 4) * s.step / 400)) for s in healthy(400)]


def test_a_run_whose_steps_go_a_short_way_together_is_too_slow() -> None:
    """400 steps of 0.02 % are 8 % of the weights, they all agree, and the loss would end at 85 % of its start."""
    found = [f for f in diagnose(slow(3.4)) if f.severity == "warning"]

    assert [f.rule for f in found] == ["LR-LOW"]
    assert found[0].changes["lr"] == pytest.approx(1e-3 * good_first_step(400) * 0.6 / 2e-4, rel=0.2)


@pytest.mark.parametrize(
    "run",
    [slow(0.9), slow(3.4, ratio=2e-3), slow(3.4, rms=0.23), slow(3.4, largest=1e-2)],
    ids=["the loss arrives", "steps of a usual size", "steps that agree no more than noise", "a head with its own rate"],
)
def test_a_slow_run_is_not_too_slow_where_its_steps_are_as_they_should_be(run: list[StepSignals]) -> None:
    """Fine-tuning moves little, in steps that noise turns; and a straight line may lead down."""
    assert "LR-LOW" not in [f.rule for f in diagnose(run)]


def test_a_model_that_began_trained_may_go_a_short_way() -> None:
    """Fine-tuning a language model takes the loss from 4 to 3.4, and guessing tokens by how often they come costs 6.5."""
    tokens = heavy(target_entropy=6.5)

    assert [f for f in diagnose(map(tokens, slow(3.4))) if f.severity != "info"] == []


def test_a_rate_that_is_raised_is_the_cause_of_what_follows_and_not_the_first_steps() -> None:
    """The first steps were large, the loss fell all the same, and a hundred steps later the rate rises tenfold."""
    large = heavy(until=10, update_ratio_max=0.5)
    raised = light(100, lr=1e-2, gradient_norm=900.0, loss=40.0)
    changed = [raised(large(light(until=100, lr=1e-3)(replace(s, loss=3 + s.loss / 4)))) for s in healthy()]
    run = [replace(s, loss=40.0) if s.step >= 100 else s for s in changed]

    assert next(f.rule for f in diagnose(run, replace(RUN, warmup=math.nan)) if f.severity != "info") == "LR-HIGH"


def test_a_signed_loss_that_gives_back_a_third_confirms_that_steps_are_large() -> None:
    """Zero is no floor of it: over its start it need not come."""
    signed = [replace(s, loss=s.loss - 3.5 + (0.05 * min(40, s.step - 160) if s.step > 160 else 0)) for s in healthy()]
    large = heavy(150, update_ratio_p50=0.06)

    assert [f.rule for f in diagnose(map(large, signed)) if f.severity == "warning"] == ["LR-HIGH"]
    assert [f.rule for f in diagnose(signed) if f.severity != "info"] == []


def test_a_signed_loss_stays_where_a_collapsed_rate_leaves_it() -> None:
    """For fifty steps the rate was a thousandth of its peak, and nothing has fallen."""
    run = [replace(s, lr=1e-6 if s.step >= 60 else s.lr, loss=s.loss - 3 if s.step < 60 else -1.3) for s in healthy()]

    assert [f.rule for f in diagnose(run) if f.severity == "warning"] == ["SCHEDULE-COLLAPSED"]


@pytest.mark.parametrize(("configured", "rules"), [(1e-3, {"LR-HIGH"}), (0.3, {"LOSS-DIVERGED"})])
def test_a_loss_that_rises_under_a_rate_over_its_plan_is_the_rates_doing(configured: float, rules: set[str]) -> None:
    """Nothing else stands out; under a peak that is configured the rate need not be at fault."""
    found = diagnose(
        [replace(s, lr=0.3, loss=8 * s.loss, heavy=None) if s.step >= 70 else s for s in healthy()],
        replace(RUN, lr=configured),
    )

    assert {f.rule for f in found if f.severity != "info"} == rules


def test_nothing_stands_out_from_gradients_that_are_mostly_zero() -> None:
    """More than half of the batches are empty: no number says how many times as large the others' are."""
    found = diagnose(
        [replace(s, gradient_norm=0.0 if s.step % 3 else 1.0, loss=1.0 + 9 * (s.step == 90)) for s in healthy()]
    )

    assert not {"BAD-BATCH", "GRAD-EXPLODING"} & {f.rule for f in found}
