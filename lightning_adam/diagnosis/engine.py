"""Asks every rule at every step, and turns what they say into episodes: one sickness, one finding."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lightning_adam.diagnosis.codec import Record
from lightning_adam.diagnosis.finding import Finding, readable_findings
from lightning_adam.diagnosis.history import EARLY, PASSES, Case, History, median
from lightning_adam.diagnosis.ignoring import is_ignored
from lightning_adam.diagnosis.rules import BETTER, CAUSES, LINTS, RULES
from lightning_adam.diagnosis.rules_gradients import stands_out
from lightning_adam.diagnosis.signals import RunSignals, StepSignals
from lightning_adam.diagnosis.stored import is_list_of
from lightning_adam.errors import say_left_out

QUIET_STEPS = 100
"""A sickness that was silent for so many steps is over; if it comes back, it is a new one."""
SECOND_LOOK = 40
"""So many steps after a finding its name may still change: what a first step looks like, several have."""


class Diagnosis:
    """The diagnosis of one optimizer's run.

    Args:
        run: what is known when it begins.

    Attributes:
        findings: all findings so far, in order; the last step of each, whether it is over, and sometimes its name are
            brought up to date as the run goes on.
        history: what the rules remember.
        run: what is known of the run.
        failures: what rules that could not judge raised first, by their functions' names.
    """

    def __init__(self, run: RunSignals | None = None) -> None:
        self.findings: list[Finding] = []
        self.failures: dict[str, str] = {}
        self.history = History()
        self.run = run or RunSignals()
        self._seen: list[int] = []  # per finding: the count of steps when it was seen last
        self._began: list[int] = []  # per finding: the count of steps when it began
        self._since_start = 0
        if self.run.state is not None:
            self.load_state_dict(self.run.state)

    def observe(self, signals: StepSignals) -> list[Finding]:
        """Take in one step; returns the findings that begin with it, or that got a better name."""
        self.history.before_step(signals)
        case = Case(signals, self.history, self.run)
        said = self._ask(case)
        if stands_out(case):
            self.history.spikes = [*self.history.spikes, self.history.count][-50:]
        fresh = [told for finding in said if (told := self._place(finding)) is not None]
        self._close_old()
        self.history.after_step(signals)
        self._since_start += 1
        return fresh

    def _ask(self, case: Case) -> list[Finding]:
        rules = [*LINTS, *RULES.values()] if self.history.count == 0 else RULES.values()
        said = [finding for rule in rules if (finding := self._asked(rule, case)) is not None]
        return [finding for finding in said if not is_ignored(finding, self.run.ignore)]

    def _asked(self, rule: Callable[[Case], Finding | None], case: Case) -> Finding | None:
        """What one rule says; one that raises is its own failure, and the others are asked all the same."""
        try:
            return rule(case)
        except Exception as error:
            self.failures.setdefault(rule.__name__, f"{type(error).__name__}: {error}")
            return None

    def _place(self, finding: Finding) -> Finding | None:
        """Into an open episode where it belongs to one: then nothing new is told, or only a better name."""
        open_ = {
            f.rule: i
            for i, f in enumerate(self.findings)
            if self.history.count - self._seen[i] <= QUIET_STEPS and not f.over
        }
        if finding.rule in open_ and self.findings[open_[finding.rule]].severity != "info":
            self._continue(open_[finding.rule], finding)
            return None
        for worse, better in BETTER.items():
            if finding.rule in better and worse in open_ and self.history.count - self._began[open_[worse]] <= SECOND_LOOK:
                return self._rename(open_[worse], finding)
        causes = [open_[rule] for rule in CAUSES.get(finding.rule, ()) if rule in open_]
        causes = [i for i in causes if self.findings[i].severity != "info" or finding.severity == "info"]
        if causes:
            self._fold(causes[0], finding)
            return None
        if finding.rule in open_ and finding.severity == "info":
            self._continue(open_[finding.rule], finding)
            return None
        return self._begin(finding)

    def _begin(self, finding: Finding) -> Finding:
        self.findings.append(finding)
        self._seen.append(self.history.count)
        self._began.append(self.history.count)
        return finding

    def _continue(self, index: int, finding: Finding) -> None:
        self._seen[index] = self.history.count
        worse = finding.severity == "critical" and self.findings[index].severity == "warning"
        severity = "critical" if worse else self.findings[index].severity
        self.findings[index] = replace(self.findings[index], last_step=finding.step, severity=severity)

    def _fold(self, index: int, consequence: Finding) -> None:
        """Under its cause: which becomes critical, and says so, when its consequence is."""
        self._seen[index] = self.history.count
        cause = replace(self.findings[index], last_step=consequence.step)
        if consequence.severity == "critical" and f"then {consequence.rule}" not in cause.evidence:
            evidence = {**cause.evidence, f"then {consequence.rule}": f"at step {consequence.step}"}
            cause = replace(cause, evidence=evidence, severity="critical")
        self.findings[index] = cause

    def _rename(self, index: int, finding: Finding) -> Finding:
        first = self.findings[index]
        message = f"{finding.message} At step {first.step} it looked like {first.rule}."
        renamed = replace(finding, step=first.step, last_step=finding.step, message=message)
        self.findings[index] = renamed
        self._seen[index] = self.history.count
        return renamed

    def _close_old(self) -> None:
        for index, finding in enumerate(self.findings):
            if not finding.over and self.history.count - self._seen[index] > QUIET_STEPS:
                self.findings[index] = replace(finding, over=True)

    def wants_measurement(self, every: int, gradient_norm: float = math.nan, ahead: int = 0) -> bool:
        """Whether the next step is worth the pass over all tensors: one of the first ten, every n-th, or a suspicion.

        Args:
            every: steps between two regular passes.
            gradient_norm: of this step, where it is known already.
            ahead: steps that were taken and not yet observed (a GPU's numbers arrive late).
        """
        past = self.history
        if self._since_start + ahead < EARLY or (past.count + ahead) % every == 0:
            return True
        if len(past.pass_counts) == PASSES and past.count - past.pass_counts[0] < 2 * every:
            return False
        heavy = gradient_norm > 5 * median(past.norms[-50:])
        return heavy or (past.count >= 3 * EARLY and past.ratio_average > 0.02)

    def went_back(self) -> None:
        """Weights and moments are those of an earlier step: findings are over, and the passes since are not their past."""
        self.findings = [replace(finding, over=True) for finding in self.findings]
        self.history.passes, self.history.pass_counts = {}, []

    def state_dict(self) -> dict[str, Any]:
        """Plain types: Lightning loads checkpoints with ``weights_only=True``."""
        return {
            "findings": [finding.to_dict() for finding in self.findings],
            "history": self.history.to_dict(),
            "seen": list(self._seen),
            "began": list(self._began),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken, maybe by another version; says what cannot be used."""
        history = state.get("history")
        self.history, lost = History.restore(history) if isinstance(history, Mapping) else (History(), ["history"])
        stored = readable_findings(state.get("findings"))
        self.findings = [finding for finding in stored if finding is not None]
        counts = {name: _counts(state.get(name), stored) for name in ("seen", "began")}
        just_now = [self.history.count] * len(self.findings)
        self._seen, self._began = (list(just_now) if counted is None else counted for counted in counts.values())
        is_list = isinstance(state.get("findings"), list)
        damaged = [name for name, counted in counts.items() if counted is None]
        damaged += ["findings"] if None in stored or not is_list else []
        say_left_out("diagnosis", [*lost, *damaged])


def _counts(counts: Any, stored: Sequence[Finding | None]) -> list[int] | None:
    """Of the findings that can be read; None where they are not one for each finding."""
    if not is_list_of(int, counts) or len(counts) != len(stored):
        return None
    return [count for count, finding in zip(counts, stored, strict=True) if finding is not None]


def replay(records: Iterable[Record]) -> Diagnosis:
    """The diagnosis of recorded signals: finds what the live one found.

    Args:
        records: as :func:`lightning_adam.diagnosis.decode` gives them, of one optimizer, in order.
    """
    diagnosis = Diagnosis()
    for record in records:
        if isinstance(record, RunSignals):
            diagnosis, failures = Diagnosis(record), diagnosis.failures
            diagnosis.failures.update(failures)
        else:
            diagnosis.observe(record)
    return diagnosis
