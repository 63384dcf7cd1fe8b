"""What strangers' runs showed: rates too low by a hundred, returns that grow, losses with the wrong sign, adversaries."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lightning_adam.diagnosis import Finding, NonFinite, StepSignals
from tests.benchmarks.divergence.corpus.families import FAMILIES
from tests.benchmarks.divergence.corpus.jobs import Job, recipe_of
from tests.benchmarks.divergence.corpus.runs import Loop, train
from tests.benchmarks.divergence.corpus.verdicts import outcome_of
from tests.benchmarks.divergence.running import Run
from tests.healthy_run import RUN, Change, both, diagnose, healthy, heavy, light

SEVERAL = replace(RUN, optimizers=2)
CLASSES = heavy(target_entropy=math.log(10))


def line(fall: float) -> Change:
    """A loss of 4 that falls straight by so much in the whole run."""
    return lambda s: replace(s, loss=4 - fall * s.step / 400 + 0.02 * math.sin(9 * s.step))


def grave(findings: list[Finding]) -> list[str]:
    """The codes over information."""
    return [f.rule for f in findings if f.severity != "info"]


def found(change: Change, run: object = RUN) -> list[Finding]:
    """On the changed healthy run."""
    return diagnose(map(change, healthy()), run)  # type: ignore[arg-type]


def test_gradients_that_never_turn_name_a_rate_that_is_too_low() -> None:
    """Although weights move by a usual share."""
    told = found(both(heavy(alignment=0.97), line(0.4)), replace(RUN, lr=1e-3))

    assert grave(told) == ["LR-LOW"]
    assert told[0].changes == {"lr": 1e-2}


@pytest.mark.parametrize(
    "change",
    [
        both(heavy(alignment=0.97), line(3.5)),  # a slope that leads to the bottom
        both(heavy(alignment=0.5), line(0.4)),  # steps that agree, as they do early in many healthy runs
        both(heavy(alignment=0.97), heavy(20, 150, alignment=0.2), line(0.4)),  # it turned for most of the way
    ],
)
def test_slope_that_is_gone_down_well_is_no_low_rate(change: Change) -> None:
    """Before 60 % of the run, where LR-LOW would be told."""
    assert "LR-LOW" not in [f.rule for f in diagnose(map(change, healthy(200)), RUN)]


def test_of_adversaries_a_low_rate_is_information() -> None:
    """Their losses stand still in healthy runs, too."""
    told = found(both(heavy(alignment=0.97), line(0.0)), SEVERAL)

    assert [(f.rule, f.severity) for f in told] == [("LR-LOW", "info")]


@pytest.mark.parametrize(
    ("first", "step", "is_wrong"),
    [(-2.3, -0.1, True), (-2.3, -0.01, True), (-0.2, -0.1, False), (2.3, -0.1, False), (-2.3, -0.005, False)],
)
def test_loss_that_begins_at_minus_the_labels_entropy_has_the_wrong_sign(first: float, step: float, is_wrong: bool) -> None:
    """And is twice as far down at the end, however slowly; other losses that turn negative are none of its business."""
    told = found(both(CLASSES, lambda s: replace(s, loss=first + step * s.step)))

    assert ("WRONG-SIGN" in grave(told)) == is_wrong


@pytest.mark.parametrize(("rms", "codes"), [(6.0, []), (1.0, ["LOSS-DIVERGED"])])
def test_loss_that_rises_with_its_targets_has_not_diverged(rms: float, codes: list[str]) -> None:
    """Returns of six times their first size are worth 36 times the squared error."""
    rises = both(heavy(until=10, target_rms=1.0), heavy(10, target_rms=rms), light(70, loss=60.0))

    assert grave(found(rises)) == codes


def test_start_that_large_weights_inflate_makes_no_success_of_guessing() -> None:
    """1,500, and ever after what guessing the classes gives: under 30 % of its start, and nothing is learnt."""
    change = both(CLASSES, lambda s: replace(s, loss=1500.0 if s.step < 3 else math.log(10) + 0.01 * math.sin(9 * s.step)))

    assert "NO-LEARNING" in grave(found(change))


def test_bad_value_among_adversaries_is_not_blamed_on_a_suspicion() -> None:
    """A loss that rises is usual among them: the gradient that is not finite is the first thing that is known."""

    def change(s: StepSignals) -> StepSignals:
        s = replace(s, loss=0.6 + s.step / 100)
        return replace(s, non_finite=NonFinite("loss", ()), loss=math.nan) if s.step == 100 else s

    told = found(both(heavy(until=60, update_ratio_p50=0.06), change), SEVERAL)

    assert [(f.rule, f.severity) for f in told] == [("LR-HIGH", "info"), ("NON-FINITE", "critical")]


def test_adversaries_step_in_turn_each_with_an_optimizer_of_its_own() -> None:
    """Each has its records, and the run is judged by what it makes."""
    recipe = recipe_of(Job("gan-ring", "healthy-1"))
    run = train(replace(recipe, family=replace(recipe.family, steps=12)), 0)

    assert [len(records) for records in run.records] == [13, 13]
    assert 0 < run.final < 3
    assert run.start != run.final


def test_measure_leaves_no_trace_in_the_run() -> None:
    """Random numbers are as if it had not been asked."""
    loop = Loop(recipe_of(Job("gan-ring", "healthy-1")), 0)
    before = torch.random.get_rng_state()
    first = loop.measured()

    assert torch.equal(torch.random.get_rng_state(), before)
    assert loop.measured() == first


def test_run_with_a_measure_is_judged_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From where it was before the first step."""
    monkeypatch.setattr("tests.benchmarks.divergence.corpus.jobs.STORED", tmp_path)
    job = Job("gan-ring", "healthy-1")
    recipe = recipe_of(job)
    train(replace(recipe, family=replace(recipe.family, steps=6)), 0).save(job.path)

    stored, outcome = Run.load(job.path), outcome_of(job)
    assert (outcome.start, outcome.final) == (stored.start, stored.final)


@pytest.mark.parametrize(
    "name", [n for n, f in FAMILIES.items() if f.make.__module__.endswith("structured") or not f.by_loss]
)
def test_odd_family_trains(name: str) -> None:
    """No step is lost, and no loss is not finite."""
    recipe = recipe_of(Job(name, "healthy-1"))
    run = train(replace(recipe, family=replace(recipe.family, steps=4)), 0)

    assert len(run.steps) == 4
    assert all(math.isfinite(s.loss) for s in run.steps)
