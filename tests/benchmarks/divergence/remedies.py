"""Applies what a finding says to change to the scenario that it was found in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from lightning_adam.diagnosis import Finding
from tests.benchmarks.divergence.running import Run
from tests.benchmarks.divergence.scenario import Scenario
from tests.benchmarks.divergence.scoring import event_step

FIELDS = ("lr", "betas", "eps", "weight_decay", "schedule", "warmup", "clip", "precision", "optimizer")


def remedied(scenario: Scenario, found: Sequence[Finding]) -> Scenario | None:
    """The scenario with the first finding's ``changes``; None where no hyper-parameter is its cure."""
    if not set(scenario.cure) <= {*FIELDS, "factor"}:
        return None
    real = [f for f in found if f.severity != "info" and f.step >= scenario.onset and f.changes]
    if not real:
        return None
    first = min(real, key=lambda f: f.step)
    return _changed(scenario, {k: v for k, v in first.changes.items() if k in FIELDS})


def _changed(scenario: Scenario, changes: Mapping[str, Any]) -> Scenario:
    """A rate that the user's own schedule leads to is replaced from the sickness on; all else from the beginning."""
    given = dict(changes)
    if scenario.factor is not None and "lr" in given:
        given["factor"] = _capped(scenario.factor, given.pop("lr") / scenario.lr)
    if scenario.factor is not None and given.get("schedule"):
        given["factor"] = None
    if callable(scenario.optimizer) and ("weight_decay" in given or "eps" in given):
        given |= {"optimizer": "adamw"}
    return replace(scenario, **given)


def _capped(factor: Callable[[int], float], top: float) -> Callable[[int], float]:
    return lambda step: min(factor(step), top)


def is_cured(scenario: Scenario, sick: Run, remedied_run: Run, cured: Run) -> bool:
    """The final loss is within 10 % of the cured run's, or better than half way to it without the event that there was."""
    if remedied_run.final <= 1.1 * cured.final + 0.01 * abs(cured.losses[0]):
        return True
    had, has = event_step(sick.losses, scenario.gan), event_step(remedied_run.losses, scenario.gan)
    return had is not None and has is None and bool(torch.isfinite(torch.tensor(remedied_run.final)))
