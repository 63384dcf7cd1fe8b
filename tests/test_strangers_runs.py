"""What strangers' runs showed: returns that grow, losses with the wrong sign, odd families, adversaries."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lightning_adam.diagnosis import Finding
from tests.benchmarks.divergence.corpus import adversaries, structured  # noqa: F401
from tests.benchmarks.divergence.corpus.family import FAMILIES
from tests.benchmarks.divergence.corpus.jobs import Job, recipe_of
from tests.benchmarks.divergence.corpus.runs import Loop, train
from tests.benchmarks.divergence.corpus.verdicts import outcome_of
from tests.benchmarks.divergence.running import Run
from tests.test_every_rule import RUN, Change, both, diagnose, healthy, heavy, light

CLASSES = heavy(target_entropy=math.log(10))


def grave(findings: list[Finding]) -> list[str]:
    """The codes over information."""
    return [f.rule for f in findings if f.severity != "info"]


def found(change: Change, run: object = RUN) -> list[Finding]:
    """On the changed healthy run."""
    return diagnose(map(change, healthy()), run)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "step", "is_wrong"),
    [(-2.3, -0.1, True), (-0.2, -0.1, False), (2.3, -0.1, False), (-2.3, -0.01, False)],
)
def test_loss_that_begins_at_minus_the_labels_entropy_has_the_wrong_sign(first: float, step: float, is_wrong: bool) -> None:
    """And leaves it downwards, however slowly; other losses that turn negative are none of its business."""
    told = found(both(CLASSES, lambda s: replace(s, loss=first + step * s.step)))

    assert ("WRONG-SIGN" in grave(told)) == is_wrong


@pytest.mark.parametrize(("rms", "codes"), [(6.0, []), (1.0, ["LOSS-DIVERGED"])])
def test_loss_that_rises_with_its_targets_has_not_diverged(rms: float, codes: list[str]) -> None:
    """Returns of six times their first size are worth 36 times the squared error."""
    rises = both(heavy(until=10, target_rms=1.0), heavy(10, target_rms=rms), light(70, loss=20.0))

    assert grave(found(rises)) == codes


def test_start_that_large_weights_inflate_makes_no_success_of_guessing() -> None:
    """1,500, and ever after what guessing the classes gives: under 30 % of its start, and nothing is learnt."""
    change = both(CLASSES, lambda s: replace(s, loss=1500.0 if s.step < 3 else math.log(10) + 0.01 * math.sin(9 * s.step)))

    assert "NO-LEARNING" in grave(found(change))


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
