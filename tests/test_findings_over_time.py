"""A sickness is told once under its cause's name, from its first step to its last."""

from __future__ import annotations

from dataclasses import replace

from tests.healthy_run import HEAVY, both, diagnose, falling_norm, healthy, heavy, light


def test_consequence_is_folded_under_its_cause() -> None:
    """A bad batch that ruins the loss is one sickness: one finding, which has become critical and says what followed."""
    found = diagnose(map(falling_norm(70), healthy()))

    assert [f.rule for f in found] == ["BAD-BATCH"]
    assert found[0].severity == "critical"
    assert "then LOSS-DIVERGED" in found[0].evidence


def test_lasting_sickness_is_told_once_with_its_last_step() -> None:
    """A rate that is too high from step 40 to the end is one finding that ends with the last pass."""
    found = diagnose(map(heavy(40, update_ratio_p50=0.06), healthy(400)))

    assert [(f.rule, f.step, f.last_step, f.over) for f in found] == [("LR-HIGH", 50, 390, False)]


def test_sickness_that_comes_back_after_a_quiet_time_is_a_new_one() -> None:
    """Two bad stretches with 200 good steps between them are two findings, and the first is over."""
    found = diagnose(map(both(heavy(50, 80, update_ratio_p50=0.1), heavy(300, 330, update_ratio_p50=0.1)), healthy(400)))

    assert [(f.rule, f.over) for f in found] == [("LR-HIGH", True), ("LR-HIGH", False)]


def test_long_run_is_not_told_the_same_sickness_again_and_again() -> None:
    """Too large steps in 50 of each 200, for 8,000 steps: a pause is short beside what the run has behind it."""
    change = heavy(update_ratio_p50=0.1)
    found = diagnose(light(loss=4.0)(change(s) if s.step % 200 >= 150 else s) for s in healthy(8000))

    steps = [f.step for f in found if f.rule == "LR-HIGH"]
    assert len([step for step in steps if step < 2000]) > 5
    assert len([step for step in steps if step >= 4000]) <= 1


def test_first_name_is_corrected_when_later_steps_show_more() -> None:
    """A jump of the gradients looks like a bad batch at first; that v stays behind shows ten steps later."""
    jump = both(light(70, gradient_norm=900.0, loss=40.0), heavy(70, surprise_max=9.0))
    every_step = [replace(s, heavy=s.heavy or HEAVY) for s in healthy()]
    found = diagnose(map(jump, every_step))

    assert found[0].rule == "BETA2-STALE"
    assert found[0].step == 70
    assert "looked like BAD-BATCH" in found[0].message
