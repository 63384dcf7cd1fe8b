"""Each rule fires on the signals that it is for, and on none of a healthy run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from lightning_adam.diagnosis import RULES, Diagnosis, Finding, NonFinite, StepSignals


def healthy(steps: int = 120) -> list[StepSignals]:
    """A loss that falls from 4 to 1 with some noise, warmup over 10 steps, update ratios of 0.2 %."""
    return [
        StepSignals(
            step=k,
            loss=1 + 3 * math.exp(-k / 30) + 0.05 * math.sin(7 * k),
            gradient_norm=1 + 0.3 * math.sin(3 * k),
            lr=1e-3 * min(1.0, (k + 1) / 10),
            beta2=0.999,
            update_ratios={"layer.weight": 2e-3} if k < 10 or k % 10 == 0 else None,
        )
        for k in range(steps)
    ]


def sick(rule: str) -> Iterator[StepSignals]:
    """The healthy run, with one thing wrong."""
    changes: dict[str, Callable[[StepSignals], StepSignals]] = {
        "NON-FINITE": lambda s: replace(s, non_finite=NonFinite("gradient", ("layer.weight",))) if s.step > 60 else s,
        "NO-WARMUP": lambda s: replace(s, lr=1e-3, update_ratios={"layer.weight": 0.5 / (1 + s.step)}),
        "LR-HIGH": lambda s: replace(s, update_ratios={"layer.weight": 0.06}) if s.step % 10 == 0 else s,
        "BAD-BATCH": lambda s: replace(s, gradient_norm=900.0, loss=40.0) if s.step == 70 else s,
        "GRAD-EXPLODING": lambda s: replace(s, gradient_norm=900.0, loss=40.0) if s.step in (50, 70, 90) else s,
        "LOSS-SPIKE": lambda s: replace(s, loss=9.0) if s.step == 70 else s,
        "LOSS-DIVERGED": lambda s: replace(s, loss=20.0) if s.step >= 70 else s,
    }
    return map(changes[rule], healthy())


def diagnose(signals: Iterator[StepSignals] | list[StepSignals]) -> list[Finding]:
    """All findings of a sequence of signals."""
    diagnosis = Diagnosis()
    for step in signals:
        diagnosis.observe(step)
    return diagnosis.findings


@pytest.mark.parametrize("rule", RULES)
def test_fires_on_its_sickness(rule: str) -> None:
    """The rule's own sick signals give exactly one finding of it, with evidence and a remedy."""
    found = [f for f in diagnose(sick(rule)) if f.rule == rule]

    assert len(found) == 1
    assert found[0].evidence
    assert found[0].remedy
    assert found[0].message.endswith(".")


def test_healthy_run_is_silent() -> None:
    """No rule says anything about a healthy run."""
    assert diagnose(healthy(400)) == []


def test_consequence_is_folded_under_its_cause() -> None:
    """A bad batch that also makes the loss jump is one sickness, and one finding."""
    assert [f.rule for f in diagnose(sick("BAD-BATCH"))] == ["BAD-BATCH"]


def test_lasting_sickness_is_told_once() -> None:
    """A learning rate that is too high from the first step on is not told again when the later threshold sees it too."""
    signals = [replace(s, update_ratios={"layer.weight": 4.0 if s.step < 10 else 0.06}) for s in healthy(300)]

    assert [f.rule for f in diagnose(signals)] == ["LR-HIGH"]


def test_sickness_that_comes_back_after_a_quiet_time_is_a_new_episode() -> None:
    """Two bad stretches with 200 good steps between them are two findings."""
    signals = [
        replace(s, update_ratios={"layer.weight": 0.2 if s.step in (50, 60, 300, 310) else 2e-3}) for s in healthy(400)
    ]

    assert [f.rule for f in diagnose(signals)] == ["LR-HIGH", "LR-HIGH"]


def test_warmup_length_follows_beta2() -> None:
    """The remedy is 2/(1-beta2) steps (Ma & Yarats 2019): 40 at 0.95."""
    signals = [replace(s, beta2=0.95) for s in sick("NO-WARMUP")]

    assert "warmup=40" in diagnose(signals)[0].remedy


def test_rising_learning_rate_is_not_called_missing_warmup() -> None:
    """Large first steps under a warmup are too high a learning rate, not a missing warmup."""
    signals = [replace(s, update_ratios={"layer.weight": 0.5}) for s in healthy(10)]

    assert [f.rule for f in diagnose(signals)] == ["LR-HIGH"]


def test_first_non_finite_thing_is_named() -> None:
    """The finding says what came first and where."""
    finding = diagnose(sick("NON-FINITE"))[0]

    assert "gradient in layer.weight" in finding.message
    assert finding.severity == "critical"
    assert finding.parameters == ("layer.weight",)


def test_state_is_plain_and_continues() -> None:
    """A diagnosis restored in mid-run from JSON finds the same as one that was never interrupted."""
    signals = list(sick("GRAD-EXPLODING"))
    first = Diagnosis()
    for step in signals[:60]:
        first.observe(step)
    second = Diagnosis()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for step in signals[60:]:
        second.observe(step)

    assert second.findings == diagnose(signals)


def test_finding_is_one_console_line() -> None:
    """A finding reads as one line that starts with its code and step."""
    line = diagnose(sick("LR-HIGH"))[0].line()

    assert line.startswith("[LR-HIGH] step ")
    assert "\n" not in line
    assert "Try lr=" in line
