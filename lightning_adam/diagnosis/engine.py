"""Asks every rule at every step that may show something; what they say becomes episodes: one sickness, one finding."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from lightning_adam.diagnosis.case import Case
from lightning_adam.diagnosis.codec import Record
from lightning_adam.diagnosis.due import LOOKED_AT, SOON, SUDDEN, Calm, calm, is_due
from lightning_adam.diagnosis.facts import FACTS, known_facts
from lightning_adam.diagnosis.finding import SEVERITIES, Finding, readable_findings
from lightning_adam.diagnosis.harm import (
    FIRST_STEPS,
    RATES_TOO_SMALL,
    agrees,
    blew_up,
    is_cleared,
    is_unmoved,
    judged,
    rises_after_a_fall,
)
from lightning_adam.diagnosis.history import EARLY, PASSES, History
from lightning_adam.diagnosis.ignoring import is_ignored
from lightning_adam.diagnosis.rules import BETTER, CAUSES, LINTS, NEVER_AFTER, OF_A_PASS, RULES
from lightning_adam.diagnosis.rules_gradients import stands_out
from lightning_adam.diagnosis.signals import RunSignals, StepSignals
from lightning_adam.diagnosis.stored import is_list_of
from lightning_adam.diagnosis.wording import course_clause
from lightning_adam.errors import say_left_out

QUIET_STEPS = 100
"""A sickness that was silent for so many steps is over; if it comes back, it is a new one."""
QUIET_SHARE = 20
"""Of a long run, a twentieth: what comes and goes over a hundred thousand steps is no new sickness each time."""
SECOND_LOOK = 40
"""So many steps after a finding its name may still change: what a first step looks like, several have."""
SETTLED = 20
"""So many steps after a suspicion was seen last, a loss that falls clears it."""


ORDER = {rule: index for index, rule in enumerate(RULES)}
T = TypeVar("T", int, bool)


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
        self._suspected: list[bool] = []  # per finding: whether it is information only until the loss agrees
        self._not_over: list[int] = []  # findings' places: a long run has thousands, and few of them go on
        self._since_start = 0
        self._is_alarmed = False
        self._calm: Calm | None = None
        if self.run.state is not None:
            self.load_state_dict(self.run.state)

    def observe(self, signals: StepSignals) -> list[Finding]:
        """Take in one step; returns the findings that begin with it, or that got a better name."""
        self.history.before_step(signals)
        is_asked = self._is_alarmed or is_due(signals, self.history, self.run)
        fresh = self._judged(Case(signals, self.history, self.run)) if is_asked else []
        self.history.after_step(signals)
        self._since_start += 1
        return fresh

    def _judged(self, case: Case) -> list[Finding]:
        """All rules, and what they say put in its place."""
        said = self._ask(case)
        if stands_out(case):
            self.history.spikes = [*self.history.spikes, self.history.count][-50:]
        fresh = [told for finding in said if (told := self._place(finding, case)) is not None]
        fresh += self._confirm(case)
        self._close_old()
        self.history.raised = self.history.count if case.rate_was_raised else self.history.raised
        self._look_round()
        return fresh

    def _look_round(self) -> None:
        """While anything is wrong, every step is asked about."""
        self._is_alarmed = any(finding.severity != "info" for finding in self.lasting)

    @property
    def lasting(self) -> list[Finding]:
        """Those that are not over."""
        return [self.findings[i] for i in self._not_over]

    def _ask(self, case: Case) -> list[Finding]:
        is_first, has_pass = self.history.count == 0, case.now.heavy is not None
        rules = [rule for code, rule in RULES.items() if has_pass or code not in OF_A_PASS]
        rules, said = ([*LINTS, *rules], known_facts(case)) if is_first else (rules, [])
        said += [finding for rule in rules if (finding := self._asked(rule, case)) is not None]
        return [finding for finding in said if not is_ignored(finding, self.run.ignore)]

    def _asked(self, rule: Callable[[Case], Finding | None], case: Case) -> Finding | None:
        """What one rule says; one that raises is its own failure, and the others are asked all the same."""
        try:
            return rule(case)
        except Exception as error:
            self.failures.setdefault(rule.__name__, f"{type(error).__name__}: {error}")
            return None

    def _place(self, said: Finding, case: Case) -> Finding | None:
        """Into an open episode where it belongs to one: then nothing new is told, or only a better name."""
        finding, suspected = judged(said, case)
        if self._is_silenced(finding):
            return None
        open_ = {self.findings[i].rule: i for i in self._not_over if self._is_open(i)}
        if (known := open_.get(finding.rule)) is not None and self._is_same(known, finding, suspected):
            return self._continue(known, finding)
        causes = [open_[rule] for rule in _causes_of(finding, case) if rule in open_]
        causes = [i for i in causes if self._explains(i, finding, case)]
        for worse, better in BETTER.items():
            is_better = finding.rule in better and worse in open_ and self._may_rename(open_[worse], suspected)
            others = [i for i in causes if i != open_.get(worse)]  # a mere fact gives way to a cause
            if is_better and (self._counts(open_[worse]) or not others):
                return self._rename(open_[worse], finding, suspected)
        if causes:
            return self._fold(causes[0], finding)
        return self._begin(finding, suspected)

    def _is_open(self, index: int) -> bool:
        finding = self.findings[index]
        if finding.rule in FACTS:  # how the loss is made does not change from step to step
            return not finding.over
        waits = self._suspected[index] and finding.rule in FIRST_STEPS  # until the loss has fallen, or not
        quiet = max(QUIET_STEPS, self.history.count // QUIET_SHARE)
        return not finding.over and (waits or self.history.count - self._seen[index] <= quiet)

    def _counts(self, index: int) -> bool:
        """More than information, or about to be."""
        return self.findings[index].severity != "info" or self._suspected[index]

    def _explains(self, index: int, finding: Finding, case: Case) -> bool:
        """A fact lies under any cause; what is too small, or learns nothing, under no mere suspicion of too large steps."""
        cause = self.findings[index]
        is_other = finding.rule in RATES_TOO_SMALL or (finding.rule == "NO-LEARNING" and is_unmoved(case))
        if is_other and cause.severity == "info" and cause.rule in FIRST_STEPS:
            return False
        if self._suspected[index] and self._is_outdated(index, case):
            return False
        if cause.rule == "NO-WARMUP" and finding.rule == "LR-HIGH" and self._is_settled(index):
            return False  # steps that are too large for long are no matter of a warmup
        return self._counts(index) or finding.severity == "info"

    def _is_silenced(self, finding: Finding) -> bool:
        """A broken run goes on showing what broke it; and a state that is proven to be lost is no suspicion."""
        causes = NEVER_AFTER.get(finding.rule, ())
        return any(f.rule in causes and f.severity != "info" for f in self.findings)

    def _is_same(self, index: int, finding: Finding, suspected: bool) -> bool:
        """What is a mere fact does not grow into a warning of the same code: that is another sickness."""
        return self._counts(index) or (finding.severity == "info" and not suspected)

    def _may_rename(self, index: int, suspected: bool) -> bool:
        """Soon, and not from what is known to harm to what is only suspected."""
        soon = self.history.count - self._began[index] <= SECOND_LOOK
        return soon and (not suspected or self._suspected[index])

    def _begin(self, finding: Finding, suspected: bool) -> Finding:
        """What comes back keeps its first advice: later numbers are those of a run that is broken already."""
        earlier = next((f for f in self.findings if f.rule == finding.rule and f.severity != "info" and f.changes), None)
        if earlier is not None:
            finding = replace(finding, remedy=earlier.remedy, changes=earlier.changes)
        self._not_over.append(len(self.findings))
        self.findings.append(finding)
        self._seen.append(self.history.count)
        self._began.append(self.history.count)
        self._suspected.append(suspected)
        return finding

    def _continue(self, index: int, finding: Finding) -> Finding | None:
        """Seen again; a suspicion that the loss agrees with by now is told anew, as what it is."""
        self._seen[index] = self.history.count
        known = replace(self.findings[index], last_step=finding.step)
        grown = SEVERITIES.index(finding.severity) > SEVERITIES.index(known.severity)
        self.findings[index] = replace(known, severity=finding.severity) if grown else known
        if not (grown and self._suspected[index]):
            return None
        self._suspected[index] = False
        return self.findings[index]

    def _fold(self, index: int, consequence: Finding) -> Finding | None:
        """Under its cause: which becomes as grave as its consequence, and is told anew then: actions heed what is told."""
        self._seen[index] = self.history.count
        cause, was_suspected = replace(self.findings[index], last_step=consequence.step), self._suspected[index]
        severity = cause.severity
        if consequence.severity == "critical" and f"then {consequence.rule}" not in cause.evidence:
            evidence = {**cause.evidence, f"then {consequence.rule}": f"at step {consequence.step}"}
            cause = replace(cause, evidence=evidence, severity="critical")
        elif consequence.severity == "warning" and was_suspected:
            cause = replace(cause, severity="warning")
        self.findings[index] = cause
        self._suspected[index] = was_suspected and cause.severity == "info"
        return cause if cause.severity != severity else None

    def _confirm(self, case: Case) -> list[Finding]:
        """The first suspicion that the loss agrees with becomes a warning, the others are its consequences."""
        waiting = [i for i in self._not_over if self._suspected[i]]
        for i in waiting:
            self._suspected[i] = not (self._is_settled(i) and is_cleared(self.findings[i].rule, case))
        agreed = [i for i in waiting if self._suspected[i] and self._has_harmed(i, case)]
        if not agreed:
            return []
        first, *rest = sorted(agreed, key=self._rank)
        for i in rest:
            self._suspected[i] = False
        self._suspected[first] = False
        found = self.findings[first]
        message = f"{found.message} The loss agrees: {course_clause(case)} at step {case.now.step}."
        self.findings[first] = replace(found, severity="warning", message=message)
        return [self.findings[first]]

    def _rank(self, index: int) -> tuple[bool, int, int]:
        """Of suspicions that harm at once: what is a fact comes before what it may look like, and the first one first."""
        rule = self.findings[index].rule
        return rule != "INPUT-CONSTANT", self._began[index], ORDER.get(rule, len(ORDER))

    def _has_harmed(self, index: int, case: Case) -> bool:
        """The loss agrees; what was seen in the first steps only is not blamed for what a later one did."""
        return agrees(self.findings[index].rule, case) and not self._is_outdated(index, case)

    def _is_outdated(self, index: int, case: Case) -> bool:
        """Of the first steps only, and since then the loss fell before it rose, or the rate was raised."""
        if self.findings[index].rule not in FIRST_STEPS or not self._is_settled(index):
            return False
        return rises_after_a_fall(case) or case.rate_was_raised or self.history.raised > self._seen[index]

    def _is_settled(self, index: int) -> bool:
        """Not seen for a while."""
        return self.history.count - self._seen[index] > SETTLED

    def _rename(self, index: int, finding: Finding, suspected: bool) -> Finding:
        first = self.findings[index]
        message = f"{finding.message} At step {first.step} it looked like {first.rule}."
        renamed = replace(finding, step=first.step, last_step=finding.step, message=message)
        self.findings[index] = renamed
        self._seen[index], self._suspected[index] = self.history.count, suspected
        return renamed

    def _close_old(self) -> None:
        silent = [i for i in self._not_over if not self._is_open(i)]
        for i in silent:
            self.findings[i] = replace(self.findings[i], over=True)
            self._suspected[i] = False
        if silent:
            self._not_over = [i for i in self._not_over if i not in silent]

    def may_wait(self, loss: float, gradient_norm: float, lr: float, ahead: int) -> bool:
        """Whether nothing can be found in a step in which nothing is wrong but what these numbers tell.

        Args:
            loss: of the step.
            gradient_norm: of the step.
            lr: of the step.
            ahead: steps before it that wait already.
        """
        count = self.history.count + ahead
        if self._is_alarmed or count < SOON or count % LOOKED_AT == 0:
            return False
        if not ahead:
            self._calm = calm(self.history, self.run)
        return self._calm is not None and self._calm.holds(loss, gradient_norm, lr)

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
        if len(past.pass_counts) == PASSES and past.count + ahead - past.pass_counts[0] < 2 * every:
            return False
        heavy = not math.isnan(gradient_norm) and gradient_norm > SUDDEN * past.usual_norm
        return heavy or (past.count >= 3 * EARLY and past.ratio_average > 0.02)

    def went_back(self, steps: int) -> None:
        """Weights and moments are those of so many steps before: findings are over, and what came since is not past."""
        for i in self._not_over:
            self.findings[i] = replace(self.findings[i], over=True)
        self._not_over, self._suspected = [], [False] * len(self.findings)
        self._look_round()
        self.history.forget_last(steps)

    def state_dict(self) -> dict[str, Any]:
        """Plain types: Lightning loads checkpoints with ``weights_only=True``."""
        return {
            "findings": [finding.to_dict() for finding in self.findings],
            "history": self.history.to_dict(),
            "seen": list(self._seen),
            "began": list(self._began),
            "suspected": list(self._suspected),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken, maybe by another version; says what cannot be used."""
        history = state.get("history")
        self.history, lost = History.restore(history) if isinstance(history, Mapping) else (History(), ["history"])
        stored = readable_findings(state.get("findings"))
        self.findings = [finding for finding in stored if finding is not None]
        self._not_over = [i for i, finding in enumerate(self.findings) if not finding.over]
        counts = {name: _matching(int, state.get(name), stored) for name in ("seen", "began")}
        just_now = [self.history.count] * len(self.findings)
        self._seen, self._began = (list(just_now) if counted is None else counted for counted in counts.values())
        kept = state.get("suspected", [False] * len(stored))  # an older version had no suspicions
        suspected = _matching(bool, kept, stored)
        self._suspected = [False] * len(self.findings) if suspected is None else suspected
        self._look_round()
        is_list = isinstance(state.get("findings"), list)
        damaged = [name for name, counted in counts.items() if counted is None]
        damaged += ["suspected"] if suspected is None else []
        damaged += ["findings"] if None in stored or not is_list else []
        say_left_out("diagnosis", [*lost, *damaged])


def _causes_of(finding: Finding, case: Case) -> tuple[str, ...]:
    """What is not finite has a cause only where the run had left its range before, upwards or downwards."""
    return ("WRONG-SIGN",) if finding.rule == "NON-FINITE" and not blew_up(case) else CAUSES.get(finding.rule, ())


def _matching(kind: type[T], counts: Any, stored: Sequence[Finding | None]) -> list[T] | None:
    """Of the findings that can be read; None where they are not one for each finding."""
    if not is_list_of(kind, counts) or len(counts) != len(stored):
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
