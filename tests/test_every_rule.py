"""Each rule fires on the signals that it is for, and on none of a healthy run or of a run that only looks like it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

import pytest

from lightning_adam.diagnosis import (
    RULES,
    Diagnosis,
    Finding,
    NonFinite,
    RunSignals,
    decode,
    encode,
    engine,
    findings_table,
    replay,
)
from lightning_adam.diagnosis.theory import slowest_decay
from tests.healthy_run import RUN, Change, both, diagnose, falling_norm, healthy, heavy, light, one_class


@dataclass(frozen=True)
class Example:
    """A change of the healthy run and of what is known of it: the rule must fire, or must not."""

    rule: str
    change: Change
    run: RunSignals = RUN


SICK = (
    Example("NON-FINITE", light(60, non_finite=NonFinite("gradient", ("net.0.weight",)))),
    Example("BETA2-LOW", light(beta2=0.5), replace(RUN, beta2=0.5)),
    Example("SCALER-SKIPS", light(50, 60, skipped=True, scale=8.0), replace(RUN, scaled=True)),
    Example("STATE-LOST", lambda s: replace(s, heavy=replace(s.heavy, state_step=1.0)) if s.heavy and s.step == 100 else s),
    Example("STATE-CORRUPT", heavy(50, bound_excess=1.1)),
    Example("GRAD-NOT-ZEROED", light(1, not_zeroed=True)),
    Example(
        "OPTIMIZER-STALE",
        light(without_gradient=2),
        replace(RUN, strangers=2, left_out=("net.2.weight", "net.2.bias")),
    ),
    Example(
        "OPTIMIZER-MISSES",
        light(loss=4.0),
        replace(RUN, left_out=("net.2.weight", "net.2.bias"), missed=("net.2.weight", "net.2.bias"), misses_untrained=True),
    ),
    Example("NO-GRADIENT", light(without_gradient=6, gradient_norm=math.nan)),
    Example("SORTED", both(one_class, light(loss=2.3))),
    Example("EVAL-MODE", light(), replace(RUN, eval_modules=("net.1", "net.3"))),
    Example("INPUT-CONSTANT", both(heavy(input_change=0.0), light(loss=2.3))),
    Example("INPUT-SCALE", both(heavy(layer_rms=150.0), light(until=10, gradient_norm=500.0))),
    Example("DECAY-DOMINATES", heavy(decay_ratio=3.0), replace(RUN, weight_decay=50.0)),
    Example("BF16-STALL", heavy(lost_updates=0.95), replace(RUN, dtype="bfloat16")),
    Example("CLIP-ALWAYS", both(heavy(eps_share=0.9), light(clip_coefficient=1e-7))),
    Example("EPS-HIGH", heavy(eps_share=0.9, update_ratio_p50=1e-5), replace(RUN, eps=1.0)),
    Example("GRAD-VANISHING", heavy(first_last=1e-7)),
    Example("LOGIT-GROWTH", lambda s: replace(s, logit_max=3.0 + s.step * 2)),
    Example("LR-HIGH", heavy(40, update_ratio_p50=0.06)),
    Example("NO-WARMUP", both(light(lr=1e-3), heavy(until=10, update_ratio_max=0.5)), replace(RUN, warmup=math.nan)),
    Example("DEAD-PARAMETER", heavy(dead_tensors=2, zero_gradients_max=1.0)),
    Example("GRAD-EXPLODING", lambda s: replace(s, gradient_norm=900.0, loss=40.0) if s.step in (50, 70, 90) else s),
    Example("BAD-BATCH", light(70, 71, gradient_norm=900.0, loss=40.0)),
    Example("BETA2-STALE", heavy(60, surprise_max=9.0)),
    Example("LR-LOW", both(heavy(update_ratio_p50=2e-5, normalised_rms=0.7), light(loss=4.0))),
    Example("SCHEDULE-COLLAPSED", light(60, lr=1e-7)),
    Example("OSCILLATION", both(heavy(60, alignment=-0.6), light(60, loss=2.0))),
    Example("UNUSED-PARAMETER", light(without_gradient=2, unused=("net.2.weight", "net.2.bias"))),
    Example("WRONG-SIGN", lambda s: replace(s, loss=1.0 - (s.step / 10) ** 3)),
    Example("NO-LEARNING", lambda s: replace(s, loss=2.3 + 0.02 * math.sin(s.step))),
    Example("PLATEAU", lambda s: replace(s, loss=max(2.0, 4 - s.step / 10) + 0.05 * math.sin(s.step))),
    Example("LOSS-SPIKE", light(70, 71, loss=19.0)),
    Example("LOSS-DIVERGED", light(70, loss=60.0)),
)

LOOKALIKES = (
    Example("NON-FINITE", light(50, 52, skipped=True, gradient_norm=math.inf, scale=8.0), replace(RUN, scaled=True)),
    Example("BETA2-LOW", light(beta2=0.82), replace(RUN, beta2=0.82)),
    Example("SCALER-SKIPS", light(0, 18, skipped=True, scale=0.5), replace(RUN, scaled=True)),
    Example("STATE-LOST", heavy(50, second_moment_p50=0.1 * slowest_decay(0.999, 10, 50))),
    Example("STATE-CORRUPT", heavy(50, bound_excess=0.99)),
    Example("GRAD-NOT-ZEROED", light(50, 51, not_zeroed=True)),
    Example(
        "OPTIMIZER-STALE",
        light(without_gradient=0),
        replace(RUN, strangers=2, left_out=("frozen.weight",)),
    ),
    Example(
        "OPTIMIZER-MISSES",
        light(loss=4.0),
        replace(RUN, left_out=("body.0.weight",), missed=("body.0.weight",)),
    ),
    Example("NO-GRADIENT", light(without_gradient=5)),
    Example("SORTED", both(heavy(target_classes=1.0, target_label=0.0), light(loss=2.3))),
    Example("EVAL-MODE", light(loss=2.3), replace(RUN, eval_modules=())),
    Example("INPUT-CONSTANT", heavy(input_change=0.0)),
    Example("INPUT-SCALE", both(heavy(input_rms=150.0, layer_rms=1.0), light(gradient_norm=500.0, loss=2.3))),
    Example("DECAY-DOMINATES", both(heavy(decay_ratio=3.0), light(5, loss=0.2))),
    Example("BF16-STALL", both(heavy(lost_updates=0.95), light(20, lr=1e-6)), replace(RUN, dtype="bfloat16")),
    Example("CLIP-ALWAYS", light(clip_coefficient=1e-3)),
    Example("EPS-HIGH", both(heavy(eps_share=0.9), light(5, loss=0.01))),
    Example("GRAD-VANISHING", heavy(first_last=4e-3)),
    Example("LOGIT-GROWTH", light(logit_max=50.0)),
    Example("LR-HIGH", heavy(40, update_ratio_p50=0.025)),
    Example("NO-WARMUP", both(light(lr=1e-3), heavy(until=10, update_ratio_max=0.1)), replace(RUN, warmup=0.0)),
    Example("DEAD-PARAMETER", heavy(zero_gradients=0.5, zero_gradients_max=0.98)),
    Example("GRAD-EXPLODING", falling_norm(70)),
    Example("BAD-BATCH", light(70, 71, gradient_norm=60.0)),
    Example("BETA2-STALE", heavy(60, 75, surprise_max=9.0)),
    Example("LR-LOW", heavy(update_ratio_p50=5e-4, normalised_rms=0.9)),
    Example("SCHEDULE-COLLAPSED", light(60, 75, lr=1e-7)),
    Example("OSCILLATION", heavy(60, 130, alignment=-0.6)),
    Example("UNUSED-PARAMETER", light(50, 55, without_gradient=2)),
    Example("WRONG-SIGN", lambda s: replace(s, loss=20.0 - 30 * math.log(1 + s.step))),
    Example("NO-LEARNING", lambda s: replace(s, loss=2.3 - 0.001 * s.step + 0.01 * math.sin(s.step))),
    Example("PLATEAU", both(lambda s: replace(s, loss=max(2.0, 4 - s.step / 10)), light(60, lr=1e-4))),
    Example("LOSS-SPIKE", light(70, 71, loss=1.8)),
    Example("LOSS-DIVERGED", light(70, 72, loss=60.0)),
)


def _sick(rule: str) -> Example:
    return next(e for e in SICK if e.rule == rule)


def found_in(example: Example) -> list[Finding]:
    """What is found in the changed run."""
    return diagnose(map(example.change, healthy()), example.run)


def test_every_rule_has_its_examples() -> None:
    """Adding a rule asks for a run in which it fires and one in which it must not."""
    assert {e.rule for e in SICK} == {e.rule for e in LOOKALIKES} == set(RULES)


@pytest.mark.parametrize("example", SICK, ids=lambda e: e.rule)
def test_fires_on_its_sickness(example: Example) -> None:
    """The first finding is the rule's own, once, with evidence and a remedy in full sentences."""
    found = found_in(example)

    assert [f.rule for f in found if f.rule == example.rule] == [example.rule]
    assert found[0].rule == example.rule
    assert found[0].evidence
    assert found[0].message.endswith((".", "gradients as in SGD"))
    assert found[0].remedy.endswith(".")


@pytest.mark.parametrize("example", LOOKALIKES, ids=lambda e: e.rule)
def test_is_silent_on_what_only_looks_like_it(example: Example) -> None:
    """The rule says nothing on a run that is a step away from its sickness."""
    assert example.rule not in [f.rule for f in found_in(example) if f.severity != "info"]


@pytest.mark.parametrize("example", [*SICK, *LOOKALIKES], ids=lambda e: e.rule)
def test_rules_of_a_pass_have_nothing_to_say_without_one(example: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked in every step, they find the same to the last word."""
    found = list(map(repr, found_in(example)))
    monkeypatch.setattr(engine, "OF_A_PASS", frozenset())

    assert list(map(repr, found_in(example))) == found


@pytest.mark.parametrize("example", SICK, ids=lambda e: e.rule)
def test_a_plain_loop_is_told_of_no_trainer(example: Example) -> None:
    """Whoever trains with la.watch has no arguments of Lightning's Trainer to change."""
    found = found_in(replace(example, run=replace(example.run, mode="loop")))

    assert not [f.remedy for f in found if "rainer" in f.remedy or "self." in f.remedy]


def test_layers_that_take_turns_are_no_unused_parameters() -> None:
    """As many in each step, and never the same ones twice in a row."""
    found = diagnose(replace(s, without_gradient=2, unused=(f"layers.{s.step % 3}.weight",)) for s in healthy())

    assert "UNUSED-PARAMETER" not in {f.rule for f in found}


def test_healthy_run_is_silent() -> None:
    """No rule says anything about a healthy run."""
    assert diagnose(healthy(400)) == []


def test_warmup_length_follows_beta2() -> None:
    """The remedy is 2/(1-beta2) steps (Ma & Yarats 2019): 40 at 0.95."""
    change = both(light(lr=1e-3, beta2=0.95), heavy(until=10, update_ratio_max=0.5))

    assert diagnose(map(change, healthy()), replace(RUN, warmup=math.nan))[0].changes["warmup"] == 40


def test_rising_learning_rate_is_not_called_missing_warmup() -> None:
    """Large first steps under a warmup are too high a learning rate, not a missing warmup."""
    assert [f.rule for f in diagnose(map(heavy(until=10, update_ratio_max=0.5), healthy(10)))] == ["LR-HIGH"]


def test_missing_warmup_without_large_steps_is_no_finding() -> None:
    """Presets without a warmup are right where the first steps are small: nothing is told by the configuration alone."""
    assert diagnose(map(light(lr=1e-3), healthy()), replace(RUN, warmup=0.0)) == []


def test_eps_that_the_state_cannot_hold_is_advice() -> None:
    """eps=1e-8 is zero in float16."""
    found = diagnose(healthy(), replace(RUN, state_dtype="float16"))

    assert [(f.rule, f.severity) for f in found] == [("NON-FINITE", "info")]


@pytest.mark.parametrize(
    ("kept_in", "changes"),
    [("uint8", {"optimizer": "adamw"}), ("float16", {"precision": "bf16-mixed"}), ("float32", {})],
)
def test_spoilt_state_is_advised_what_it_has_not(kept_in: str, changes: dict[str, str]) -> None:
    """AdamW in 16-bit weights is adamw already, and what has 32 bits needs no more."""
    run = replace(RUN, optimizer="AdamW", state_dtype=kept_in, eps=1e-4, smallest_eps=1e-4)
    (found,) = [f for f in diagnose(map(heavy(50, bound_excess=1.3), healthy()), run) if f.rule == "STATE-CORRUPT"]

    assert found.changes == changes
    assert all(f"{name}='{value}'" in found.remedy for name, value in changes.items())


def test_value_to_try_is_computed_from_the_evidence() -> None:
    """In 400 steps noise leaves 0.9 % per step of a good rate's first 4 %: at 6 % the rate to try is a seventh, 2e-4."""
    found = diagnose(map(heavy(40, update_ratio_p50=0.06), healthy()))

    assert found[0].changes == {"lr": 2e-4}
    assert "Try lr=0.0002 instead of 0.001" in found[0].remedy


def test_adversaries_are_not_judged_by_their_losses() -> None:
    """Of several optimizers each other's loss rises in healthy runs, too."""
    assert diagnose(map(light(70, loss=20.0), healthy()), replace(RUN, optimizers=2)) == []


def test_state_is_plain_and_continues() -> None:
    """A diagnosis restored in mid-run from JSON finds the same as one that was never interrupted."""
    signals = list(map(_sick("GRAD-EXPLODING").change, healthy()))
    first = Diagnosis(RUN)
    for step in signals[:60]:
        first.observe(step)
    second = Diagnosis(RUN)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for step in signals[60:]:
        second.observe(step)

    assert second.findings == diagnose(signals)


@pytest.mark.parametrize("example", SICK, ids=lambda e: e.rule)
def test_replay_of_stored_signals_finds_the_same(example: Example) -> None:
    """Encoded and decoded, the records are the same to the last bit, and so are the findings."""
    records = [example.run, *map(example.change, healthy())]
    again = decode(encode(records))

    assert repr(again) == repr(records)
    assert repr(replay(again).findings) == repr(replay(records).findings)


def test_signals_that_are_not_ours_are_refused() -> None:
    """The doctor must say what is wrong with a file, not crash in it."""
    with pytest.raises(ValueError, match="not recorded signals"):
        decode(b"something else")


def test_finding_is_one_console_line() -> None:
    """A finding reads as one line that starts with its code and step."""
    line = found_in(_sick("LR-HIGH"))[0].line()

    assert line.startswith("[LR-HIGH] step 50: a step moves weights by 5.4 % of their norm (healthy: about 0.2 %), loss ")
    assert "largest in net.0.weight" in line
    assert "\n" not in line


def test_table_holds_every_finding() -> None:
    """One Markdown row per finding, with the steps from first to last."""
    table = findings_table(found_in(_sick("LR-HIGH")))

    assert table.count("\n") == 2
    assert "| 50–250 | **LR-HIGH** | info |" in table
