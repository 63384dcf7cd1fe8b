"""The corpus of the diagnosis: what its runs are trained with, and how they are judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.stats import binomtest

from lightning_adam.diagnosis import Finding
from tests.benchmarks.divergence.baselines import BASELINES
from tests.benchmarks.divergence.corpus.families import FAMILIES
from tests.benchmarks.divergence.corpus.jobs import Job, jobs_of, recipe_of
from tests.benchmarks.divergence.corpus.mending import Trial, trials_of
from tests.benchmarks.divergence.corpus.report import Figures, wilson
from tests.benchmarks.divergence.corpus.runs import train
from tests.benchmarks.divergence.corpus.settings import SETTINGS
from tests.benchmarks.divergence.corpus.verdicts import Outcome, Verdict, verdicts_of
from tests.benchmarks.divergence.running import Run

ROOT = Path(__file__).parent.parent
RATE = FAMILIES["wine-mlp"].lr


def outcome(kind: str, final: float, *findings: Finding, start: float = 1.0) -> Outcome:
    """Of wine-mlp."""
    return Outcome(Job("wine-mlp", kind), start, final, RATE, findings, dict.fromkeys(BASELINES, -1))


def short(job: Job, steps: int = 12) -> Run:
    """The first steps of it."""
    recipe = recipe_of(job)
    return train(replace(recipe, family=replace(recipe.family, steps=steps)), job.seed)


def warned(rule: str, step: int, **changes: float) -> Finding:
    """A warning."""
    return Finding(rule, "warning", step, "", changes=changes)


@pytest.mark.parametrize(("hits", "count"), [(0, 76), (1, 76), (337, 386), (12, 12)])
def test_interval_is_wilsons(hits: int, count: int) -> None:
    """As SciPy computes it."""
    exact = binomtest(hits, count).proportion_ci(method="wilson")

    assert wilson(hits, count) == pytest.approx((exact.low, exact.high), abs=1e-4)


def test_corpus_is_as_large_as_it_is_said_to_be() -> None:
    """Over 60 families, more than 1,000 runs without a mistake and more than 1,200 with one, each with a file of its own."""
    jobs = [job for family in FAMILIES.values() for job in jobs_of(family)]
    healthy = sum(job.mistake is None for job in jobs)

    assert len(FAMILIES) > 60
    assert healthy > 1000
    assert len(jobs) - healthy > 1200
    assert len({job.path for job in jobs}) == len(jobs)


@pytest.mark.parametrize(
    "setting", ["bf16", "fp16", "float64", "bf16-mixed", "onecycle", "per-epoch", "lion", "8bit", "muon"]
)
def test_stranger_trains_in_another_setting_and_the_monitor_reads_each_step(setting: str) -> None:
    """The optimizer's name and the types are those of the setting; no step is lost."""
    run = short(Job("wine-mlp", "healthy-1", setting=setting))
    told = run.records[0][0]

    assert len(run.steps) == 12
    assert told.dtype == {"bf16": "bfloat16", "float64": "float64"}.get(setting, "float32")
    assert told.optimizer.lower().startswith({"lion": "lion", "8bit": "adamw8bit", "muon": "muon"}.get(setting, "adam"))
    assert told.scaled == (setting == "fp16")


def test_epochs_schedule_steps_at_the_end_of_an_epoch_only() -> None:
    """By 0.3 after two epochs of 50 steps."""
    rates = [s.lr for s in short(Job("wine-mlp", "healthy-1", setting="per-epoch"), 110).steps]

    assert rates[:100] == [pytest.approx(RATE)] * 100
    assert rates[100:] == [pytest.approx(0.3 * RATE)] * 10


def test_remedys_rate_takes_the_place_of_the_configured_one() -> None:
    """In a run whose rate was thirty times too high."""
    changes = json.dumps({"lr": 2 * RATE, "times": 2 / 30})
    run = short(Job("wine-mlp", "rate-times-30", changes=changes))

    assert [s.lr for s in run.steps] == [pytest.approx(2 * RATE)] * 12


def test_rate_that_the_users_schedule_leads_to_is_held_under_the_remedys() -> None:
    """It rises as before, and no further."""
    changes = json.dumps({"lr": RATE})
    run = train(recipe_of(Job("wine-mlp", "rate-jumps", changes=changes)), 0)

    assert max(s.lr for s in run.steps) == pytest.approx(RATE)


def test_advised_warmup_takes_the_place_of_the_mistaken_one() -> None:
    """One that rises by a thousandth each hundred steps."""
    run = short(Job("wine-mlp", "warmup-by-epoch", changes=json.dumps({"warmup": 4})))

    assert [s.lr / RATE for s in run.steps[:6]] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_advised_warmup_clip_and_betas_are_applied() -> None:
    """Each where it belongs: the loop, the schedule, the optimizer's groups."""
    changes = json.dumps({"warmup": 10, "clip": 0.5, "betas": [0.8, 0.9]})
    run = short(Job("wine-mlp", "healthy-1", changes=changes))
    told = run.records[0][0]

    assert [s.lr for s in run.steps[:3]] == pytest.approx([0.1 * RATE, 0.2 * RATE, 0.3 * RATE])
    assert (told.clip, told.beta1, told.beta2) == (0.5, 0.8, 0.9)


def test_run_is_healthy_if_it_learns_as_well_as_its_tuned_sibling() -> None:
    """Within a twentieth of the way; one that has learnt less is neither healthy nor sick."""
    verdicts = verdicts_of([outcome(f"healthy-{k}", final) for k, final in ((0.3, 0.1), (1, 0.14), (3, 0.3))])

    assert [v.is_healthy for v in verdicts] == [True, True, False]
    assert not any(v.is_sick for v in verdicts)


def test_mistake_counts_where_it_did_harm_or_is_a_fact() -> None:
    """A rate a hundred times too high that learns as well is no sickness; gradients that pile up are one."""
    runs = [
        outcome("healthy-1", 0.1),
        outcome("rate-times-100", 0.1),
        outcome("rate-times-30", 0.6),
        outcome("not-zeroed", 0.1),
    ]

    assert [v.is_sick for v in verdicts_of(runs)] == [False, False, True, True]


def test_mistake_that_ends_as_low_as_the_run_without_it_is_no_sickness() -> None:
    """Though another rate would have ended lower."""
    runs = [outcome("healthy-1", 0.5), outcome("healthy-3", 0.1), outcome("beta2-half", 0.5), outcome("eps-one", 0.7)]

    assert [v.is_sick for v in verdicts_of(runs)] == [False, False, False, True]


def test_what_was_said_before_the_mistake_does_not_count_as_found() -> None:
    """The rate jumps at step 125: a warning of step 30 that is over is none of it."""
    early, late = warned("LR-HIGH", 30), warned("LR-HIGH", 130)
    runs = [outcome("healthy-1", 0.1), outcome("rate-jumps", 9.0, early), outcome("rate-jumps", 9.0, early, late)]

    assert [bool(v.grave) for v in verdicts_of(runs)] == [False, False, True]


def test_figures_count_exact_and_accepted_causes() -> None:
    """NO-WARMUP names a rate that is too high, too, but not by its code."""
    sick = [outcome("rate-times-30", 9.0, warned(rule, 3)) for rule in ("LR-HIGH", "NO-WARMUP", "BAD-BATCH")]
    figures = Figures.of(verdicts_of([outcome("healthy-1", 0.1, warned("LR-LOW", 60)), *sick, outcome("eps-one", 9.0)]))

    assert (figures.alarmed.hits, figures.alarmed.count) == (1, 1)
    assert [share.hits for share in (figures.found, figures.exact, figures.accepted)] == [3, 1, 2]
    assert figures.exact.count == 4


@pytest.mark.parametrize(("final", "is_mended"), [(0.27, True), (0.29, False), (float("inf"), False)])
def test_remedy_recovers_if_it_closes_four_fifths_of_the_gap(
    final: float, is_mended: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the start of a run that ended above it: a loss of 1e9 would make each remedy look good."""
    monkeypatch.setattr("tests.benchmarks.divergence.corpus.jobs.STORED", tmp_path)
    sick = Verdict(outcome("rate-times-30", 1e9, warned("LR-HIGH", 3, lr=RATE)), best=0.1, way=0.9, ought=0.1)
    (trial,) = trials_of([sick])
    Run("wine-mlp", 0, [], [], final, 0.0).save(trial.job.path)

    assert isinstance(trial, Trial)
    assert trial.is_mended is is_mended


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_trains_in_each_setting_that_applies(family: str) -> None:
    """Four steps; where torch cannot, the family says so, and the monitor loses nothing."""
    torch.set_num_threads(1)
    for name, setting in SETTINGS.items():
        if setting.applies(FAMILIES[family]):
            assert len(short(Job(family, "healthy-1", setting=name), 4).steps) == 4


@pytest.mark.slow
def test_quick_subset_is_as_good_as_it_was(tmp_path: Path) -> None:
    """Trained anew; two minutes on two idle cores."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.divergence.corpus", "--quick", "--processes", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
