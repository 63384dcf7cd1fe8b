"""Asks every rule at every step, and turns what they say into episodes: one sickness, one finding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_adam.diagnosis.finding import Finding
from lightning_adam.diagnosis.rules import CAUSES, RULES, stands_out
from lightning_adam.diagnosis.signals import History, StepSignals

QUIET_STEPS = 100
"""A rule that was silent for so many steps starts a new episode when it fires again."""


class Diagnosis:
    """The diagnosis of one optimizer's run.

    Attributes:
        findings: all findings so far, in order.
        history: what the rules remember.
    """

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.history = History()
        self._last_fired: dict[str, int] = {}

    def observe(self, signals: StepSignals) -> list[Finding]:
        """Take in one step; returns the findings that begin with it."""
        if signals.update_ratios:
            self.history.observe_ratios(signals.update_ratios)
        said = [finding for rule in RULES.values() if (finding := rule(signals, self.history)) is not None]
        if stands_out(signals, self.history):
            self.history.spikes = [*self.history.spikes, signals.step][-50:]
        self.history.remember(signals)
        fresh = [finding for finding in said if self._starts_episode(finding)]
        self.findings += fresh
        return fresh

    def _starts_episode(self, finding: Finding) -> bool:
        """Whether neither this rule nor a cause of it has fired lately: a consequence is not a second sickness."""
        explained = any(self._is_open(rule) for rule in (finding.rule, *CAUSES.get(finding.rule, ())))
        self._last_fired[finding.rule] = self.history.count
        return not explained

    def _is_open(self, rule: str) -> bool:
        last = self._last_fired.get(rule)
        return last is not None and self.history.count - last <= QUIET_STEPS

    def wants_measurement(self, gradient_norm: float, every: int) -> bool:
        """Whether this step's update ratios are worth measuring: the first ten, every n-th, and heavy gradients."""
        count, norms = self.history.count, self.history.norms
        usual = sorted(norms[-50:])[len(norms[-50:]) // 2] if norms else gradient_norm
        return count < 10 or count % every == 0 or gradient_norm > 5 * usual

    def state_dict(self) -> dict[str, Any]:
        """Plain types: Lightning loads checkpoints with ``weights_only=True``."""
        return {
            "findings": [finding.to_dict() for finding in self.findings],
            "history": self.history.to_dict(),
            "last_fired": dict(self._last_fired),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        self.findings = [Finding.from_dict(stored) for stored in state["findings"]]
        self.history = History(**state["history"])
        self._last_fired = dict(state["last_fired"])
