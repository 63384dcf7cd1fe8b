"""Asks every rule at every step that may show something; what they say becomes episodes: one sickness, one finding."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lightning_adam.diagnosis.case import Case
from lightning_adam.diagnosis.changed_aim import rose_at_once, without_cause
from lightning_adam.diagnosis.codec import Record
from lightning_adam.diagnosis.due import LOOKED_AT, SOON, SUDDEN, Calm, calm, is_due
from lightning_adam.diagnosis.episodes import Episode, restored, stored
from lightning_adam.diagnosis.facts import BY_DESIGN, FACTS, known_facts
from lightning_adam.diagnosis.finding import SEVERITIES, Finding
from lightning_adam.diagnosis.harm import (
    FIRST_STEPS,
    LARGE_STEPS,
    SCALES,
    agrees,
    blew_up,
    had_fallen_before_odd_batch,
    has_another_cause,
    is_cleared,
    is_inflated,
    is_unmoved,
    judged,
    rises_after_a_fall,
)
from lightning_adam.diagnosis.history import EARLY, PASSES, History
from lightning_adam.diagnosis.ignoring import is_ignored
from lightning_adam.diagnosis.large_steps import fell_despite_large_steps
from lightning_adam.diagnosis.rules import BETTER, CAUSES, LINTS, NEVER_AFTER, OF_A_PASS, RULES
from lightning_adam.diagnosis.rules_gradients import stands_out
from lightning_adam.diagnosis.signals import RunSignals, StepSignals
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


class Diagnosis:
    """The diagnosis of one optimizer's run.

    Args:
        run: what is known when it begins.

    Attributes:
        history: what the rules remember.
        run: what is known of the run.
        failures: what rules that could not judge raised first, by their functions' names.
    """

    def __init__(self, run: RunSignals | None = None) -> None:
        self.failures: dict[str, str] = {}
        self.history = History()
        self.run = run or RunSignals()
        self._episodes: list[Episode] = []
        self._lasting: list[Episode] = []  # a long run has thousands of episodes, and few of them go on
        self._since_start = 0
        self._is_alarmed = False
        self._calm: Calm | None = None
        if self.run.state is not None:
            self.load_state_dict(self.run.state)

    @property
    def findings(self) -> list[Finding]:
        """All so far, in order; the last step of each, whether it is over, and sometimes its name change later."""
        return [episode.finding for episode in self._episodes]

    @property
    def lasting(self) -> list[Finding]:
        """Those that are not over."""
        return [episode.finding for episode in self._lasting]

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
        self._is_alarmed = any(episode.finding.severity != "info" for episode in self._lasting)

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
        going_on = {episode.finding.rule: episode for episode in self._lasting if self._is_open(episode)}
        known = going_on.pop(finding.rule, None)
        causes = [going_on[rule] for rule in _causes_of(finding, case) if rule in going_on]
        causes = [cause for cause in causes if self._explains(cause, finding, case)]
        if not causes and not (known is not None and known.counts):
            finding = without_cause(finding, case)
        if known is not None and _is_same(known, finding, suspected) and not self._is_unrelated_now(known, case):
            return self._continue(known, finding)
        for worse, better in BETTER.items():
            if finding.rule in better and worse in going_on and self._gives_way(going_on[worse], suspected, causes):
                return self._rename(going_on[worse], finding, suspected)
        if causes:
            return self._fold(causes[0], finding, case)
        return self._begin(finding, suspected)

    def _is_open(self, episode: Episode) -> bool:
        finding = episode.finding
        is_of_data = finding.rule in SCALES and finding.severity != "info"
        if finding.rule in FACTS or finding.rule in BY_DESIGN or is_of_data:  # what does not change from step to step
            return not finding.over
        waits = episode.is_suspected and finding.rule in FIRST_STEPS  # until the loss has fallen, or not
        quiet = max(QUIET_STEPS, self.history.count // QUIET_SHARE)
        return not finding.over and (waits or self.history.count - episode.seen <= quiet)

    def _explains(self, cause: Episode, finding: Finding, case: Case) -> bool:
        """A fact lies under any cause; what is too small, or learns nothing, under no mere suspicion of too large steps.

        Under one of raw values a rate is too low where these have inflated the first loss: the way is too long.
        """
        rule = cause.finding.rule
        if has_another_cause(finding.rule, case) and cause.finding.severity == "info" and rule in FIRST_STEPS:
            return rule in SCALES and finding.rule == "LR-LOW" and is_inflated(case)
        if self._is_disproved(cause, case) or (finding.rule == "BAD-BATCH" and self._did_no_harm_for_long(cause, case)):
            return False
        if finding.rule == "LOSS-DIVERGED" and self._was_followed_by_bad_batch(cause):
            return False
        if finding.rule == "LOSS-DIVERGED" and rule in LARGE_STEPS and cause.is_suspected and rose_at_once(case):
            return False
        if rule == "NO-WARMUP" and finding.rule == "LR-HIGH" and self._is_settled(cause):
            return False  # steps that are too large for long are no matter of a warmup
        return cause.counts or finding.severity == "info"

    def _did_no_harm_for_long(self, cause: Episode, case: Case) -> bool:
        """Large steps that did no harm for long are not what one batch does at once."""
        is_old = self.history.count - cause.began > SECOND_LOOK
        return cause.finding.rule in LARGE_STEPS and cause.is_suspected and is_old and fell_despite_large_steps(case)

    def _is_unrelated_now(self, episode: Episode, case: Case) -> bool:
        """A suspicion that what is seen now has nothing to do with."""
        return self._is_disproved(episode, case) or self._was_followed_by_bad_batch(episode)

    def _was_followed_by_bad_batch(self, episode: Episode) -> bool:
        """Large steps, beside which a later batch is told: what the loss does since then is the batch's doing."""
        batches = [known for known in self._lasting if known.finding.rule == "BAD-BATCH" and known.began > episode.began]
        return episode.finding.rule in LARGE_STEPS and episode.is_suspected and bool(batches)

    def _is_silenced(self, finding: Finding) -> bool:
        """A broken run goes on showing what broke it; and a state that is proven to be lost is no suspicion."""
        causes = NEVER_AFTER.get(finding.rule, ())
        return any(known.rule in causes and known.severity != "info" for known in self.findings)

    def _gives_way(self, known: Episode, suspected: bool, causes: Sequence[Episode]) -> bool:
        """Whether a better name takes its place: soon, and not from what is known to harm to what is only suspected.

        A mere fact gives way to another cause.
        """
        soon = self.history.count - known.began <= SECOND_LOOK
        return soon and (not suspected or known.is_suspected) and (known.counts or all(cause is known for cause in causes))

    def _begin(self, finding: Finding, suspected: bool) -> Finding:
        """What comes back keeps its first advice: later numbers are those of a run that is broken already."""
        earlier = next((f for f in self.findings if f.rule == finding.rule and f.severity != "info" and f.changes), None)
        if earlier is not None:
            finding = replace(finding, remedy=earlier.remedy, changes=earlier.changes)
        episode = Episode(finding, self.history.count, self.history.count, suspected)
        self._episodes.append(episode)
        self._lasting.append(episode)
        return finding

    def _continue(self, episode: Episode, finding: Finding) -> Finding | None:
        """Seen again; a suspicion that the loss agrees with by now is told anew, as what it is."""
        episode.seen = self.history.count
        known = replace(episode.finding, last_step=finding.step)
        grown = SEVERITIES.index(finding.severity) > SEVERITIES.index(known.severity)
        episode.finding = replace(known, severity=finding.severity) if grown else known
        if not (grown and episode.is_suspected):
            return None
        episode.is_suspected = False
        return episode.finding

    def _fold(self, episode: Episode, consequence: Finding, case: Case) -> Finding | None:
        """Under its cause: which becomes as grave as its consequence, and is told anew then: actions heed what is told.

        Information keeps no suspicion of the first steps awake: what spikes much later is not their doing. And steps that
        the loss never showed to be too large are blamed for nothing: units also die where there is nothing to learn.
        """
        is_blamed = not (episode.finding.rule in LARGE_STEPS and is_unmoved(case))
        if consequence.severity != "info" or episode.finding.rule not in FIRST_STEPS:
            episode.seen = self.history.count
        cause = replace(episode.finding, last_step=consequence.step)
        severity = cause.severity
        if consequence.severity == "critical" and f"then {consequence.rule}" not in cause.evidence:
            evidence = {**cause.evidence, f"then {consequence.rule}": f"at step {consequence.step}"}
            cause = replace(cause, evidence=evidence, severity="critical")
        elif consequence.severity == "warning" and episode.is_suspected and is_blamed:
            cause = replace(cause, severity="warning")
        episode.finding = cause
        episode.is_suspected = episode.is_suspected and cause.severity == "info"
        return cause if cause.severity != severity else None

    def _confirm(self, case: Case) -> list[Finding]:
        """The first suspicion that the loss agrees with becomes a warning, the others are its consequences."""
        waiting = [episode for episode in self._lasting if episode.is_suspected]
        for episode in waiting:
            episode.is_suspected = not (self._is_settled(episode) and is_cleared(episode.finding.rule, case))
        agreed = [episode for episode in waiting if episode.is_suspected and self._has_harmed(episode, case)]
        for episode in agreed:
            episode.is_suspected = False
        if not agreed:
            return []
        first = min(agreed, key=_rank)
        message = f"{first.finding.message} The loss agrees: {course_clause(case)} at step {case.now.step}."
        first.finding = replace(first.finding, severity="warning", message=message)
        return [first.finding]

    def _has_harmed(self, episode: Episode, case: Case) -> bool:
        """The loss agrees; what was seen in the first steps only is not blamed for what a later one did."""
        rule = episode.finding.rule
        if not agrees(rule, case) or self._is_accounted_for(rule):
            return False
        return not (self._is_outdated(episode, case) or self._was_followed_by_bad_batch(episode))

    def _is_accounted_for(self, rule: str) -> bool:
        """A cause of it is known to harm; of what may be meant so, anything."""
        grave = [known.finding.rule for known in self._lasting if known.finding.severity != "info"]
        return bool(grave) and (rule in BY_DESIGN or any(cause in grave for cause in CAUSES.get(rule, ())))

    def _is_outdated(self, episode: Episode, case: Case) -> bool:
        """Of the first steps only, and since then the loss fell before it rose, or the rate was raised.

        At once where the loss had fallen when a batch came whose values stand out.
        """
        if episode.finding.rule not in FIRST_STEPS:
            return False
        if self.history.odd_input > episode.seen and had_fallen_before_odd_batch(case):
            return True
        if not self._is_settled(episode):
            return False
        return rises_after_a_fall(case) or case.rate_was_raised or self.history.raised > episode.seen

    def _is_disproved(self, episode: Episode, case: Case) -> bool:
        """A suspicion that what came since has nothing to do with."""
        return episode.is_suspected and self._is_outdated(episode, case)

    def _is_settled(self, episode: Episode) -> bool:
        """Not seen for a while."""
        return self.history.count - episode.seen > SETTLED

    def _rename(self, episode: Episode, finding: Finding, suspected: bool) -> Finding:
        first = episode.finding
        message = f"{finding.message} At step {first.step} it looked like {first.rule}."
        episode.finding = replace(finding, step=first.step, last_step=finding.step, message=message)
        episode.seen, episode.is_suspected = self.history.count, suspected
        return episode.finding

    def _close_old(self) -> None:
        _close(episode for episode in self._lasting if not self._is_open(episode))
        self._lasting = [episode for episode in self._lasting if not episode.finding.over]

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
        _close(self._lasting)
        self._lasting = []
        self._look_round()
        self.history.forget_last(steps)

    def state_dict(self) -> dict[str, Any]:
        """Plain types: Lightning loads checkpoints with ``weights_only=True``."""
        return {"history": self.history.to_dict(), **stored(self._episodes)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken, maybe by another version; says what cannot be used."""
        history = state.get("history")
        self.history, lost = History.restore(history) if isinstance(history, Mapping) else (History(), ["history"])
        self._episodes, damaged = restored(state, self.history.count)
        self._lasting = [episode for episode in self._episodes if not episode.finding.over]
        self._look_round()
        say_left_out("diagnosis", [*lost, *damaged])


def _is_same(known: Episode, finding: Finding, suspected: bool) -> bool:
    """What is a mere fact does not grow into a warning of the same code: that is another sickness."""
    return known.counts or (finding.severity == "info" and not suspected)


def _rank(episode: Episode) -> tuple[int, int, int]:
    """Of suspicions that harm at once: a fact comes before what it may look like, then the first one; last what may be
    meant so."""
    rule = episode.finding.rule
    kind = 0 if rule == "INPUT-CONSTANT" else 2 if rule in BY_DESIGN else 1
    return kind, episode.began, ORDER.get(rule, len(ORDER))


def _close(episodes: Iterable[Episode]) -> None:
    for episode in episodes:
        episode.finding, episode.is_suspected = replace(episode.finding, over=True), False


def _causes_of(finding: Finding, case: Case) -> tuple[str, ...]:
    """What is not finite has a cause only where the run had left its range before, upwards or downwards."""
    return ("WRONG-SIGN",) if finding.rule == "NON-FINITE" and not blew_up(case) else CAUSES.get(finding.rule, ())


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
