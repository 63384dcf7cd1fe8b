"""The quick part of the benchmark of the diagnosis, trained anew: ``python -m tests.benchmarks.divergence --quick``."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_adam.diagnosis.finding import as_told
from tests.benchmarks.divergence.__main__ import QUICK, SCENARIOS
from tests.benchmarks.divergence.baselines import BASELINES
from tests.benchmarks.divergence.running import Run, train
from tests.benchmarks.divergence.scenario import Scenario
from tests.benchmarks.divergence.scoring import causes, diagnoses, live_warnings, score

Pairs = list[tuple[Scenario, Run]]


FEWER = (
    "digits", "always-clipped", "gan", "lr-high-digits", "lr-low-digits", "eps-high-digits", "bad-target", "dead-relu",
    "v-lost",
)  # fmt: skip
"""Of each kind one; the others take half a minute, and ``test_every_rule`` and ``test_doctor_replay`` have their causes."""


@pytest.fixture(scope="module", params=[FEWER, pytest.param(QUICK, marks=pytest.mark.slow)], ids=["fewer", "all"])
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    """Trained, stored, and read back."""
    folder = tmp_path_factory.mktemp("runs")
    for name in request.param:
        train(SCENARIOS[name], 0).save(folder / f"{name}.zip")
    return [(SCENARIOS[name], Run.load(folder / f"{name}.zip")) for name in request.param]


def test_every_sick_run_is_found_and_no_healthy_one_alarmed(runs: Pairs) -> None:
    """The figures of the quick table."""
    row = score("DivergenceMonitor", live_warnings, runs)

    assert row.found == row.sick >= 6
    assert (row.alarmed, row.alarms) == (0, 0)


def test_first_finding_names_the_cause(runs: Pairs) -> None:
    """By its exact code."""
    found = causes(runs)

    assert found.wrong == ()
    assert found.exact == found.runs


def test_replayed_findings_are_the_live_ones(runs: Pairs) -> None:
    """The stored signals hold all that the rules have seen: the doctor finds what the monitor found, in its words."""
    for _, run in runs:
        again = sorted((as_told(f) for d in diagnoses(run) for f in d.findings), key=lambda f: f.step)
        live = sorted(run.findings, key=lambda f: f.step)
        assert [(f.rule, f.step, f.last_step, f.severity, f.message, f.remedy) for f in again] == [
            (f.rule, f.step, f.last_step, f.severity, f.message, f.remedy) for f in live
        ]


def test_no_baseline_has_the_recall_without_the_alarms(runs: Pairs) -> None:
    """Nothing that others use finds half of the sick runs and leaves the healthy ones alone."""
    for name, detector in BASELINES.items():
        row = score(name, detector, runs)
        assert row.found < 0.5 * row.sick or row.alarmed > 0, name


def test_every_scenario_has_a_label_that_can_be_checked() -> None:
    """55 sick ones and more, each with a cure; 30 healthy ones and more; names are unique."""
    sick = [s for s in SCENARIOS.values() if s.cause]

    assert len(sick) >= 55
    assert all(s.cure for s in sick)
    assert len(SCENARIOS) - len(sick) >= 30


def test_run_is_stored_exactly(tmp_path: Path) -> None:
    """What is read back is what was trained."""
    run = train(SCENARIOS["v-lost"], 3)
    run.save(tmp_path / "a.zip")

    assert repr(Run.load(tmp_path / "a.zip")) == repr(run)
