"""From what a run left behind to what is wrong with it, and what could not be told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lightning_adam.diagnosis import RULES, Finding, RunSignals, StepSignals
from lightning_adam.doctor.curves import Curve, curves
from lightning_adam.doctor.evidence import Evidence, Record, gather, recorded
from lightning_adam.doctor.live import SEVERITIES, is_watched, live_findings, plural, replayed, unread, unread_in_file
from lightning_adam.doctor.roles import prefixes
from lightning_adam.doctor.settings import settings
from lightning_adam.tensorboard.reader import RunLog


@dataclass(frozen=True)
class Gap:
    """Rules that could not be judged.

    Attributes:
        missing: what the log does not hold.
        rules: their codes.
        remedy: what to turn on.
    """

    missing: str
    rules: tuple[str, ...]
    remedy: str


@dataclass(frozen=True)
class RunReport:
    """One run, judged.

    Attributes:
        name: the run.
        path: its folder or file.
        findings: by step.
        gaps: what could not be judged.
        notes: what could not be read.
        basis: what the judgement rests on, in words.
        curves: what can be drawn.
        settings: what the optimizers were configured with, as far as the log tells.
    """

    name: str
    path: Path
    findings: tuple[Finding, ...]
    gaps: tuple[Gap, ...]
    notes: tuple[str, ...]
    basis: str
    curves: tuple[Curve, ...]
    settings: Mapping[str, str] = field(default_factory=dict)

    def count(self, severity: str) -> int:
        """How many findings of this severity."""
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def trouble(self) -> tuple[int, ...]:
        """Orders runs by trouble: critical findings, then warnings, then advice."""
        return tuple(self.count(severity) for severity in SEVERITIES)

    @property
    def worst(self) -> str | None:
        """The worst severity, or None for a run without findings."""
        return next((severity for severity in SEVERITIES if self.count(severity)), None)

    @property
    def healthy(self) -> bool:
        """Nothing was found but advice: the exit status is 0, unless ``--fail-on info`` asks for more."""
        return self.worst in (None, "info")

    @property
    def steps(self) -> tuple[int, int]:
        """First and last step of anything that was logged."""
        every = [step for curve in self.curves for step in (int(curve.steps[0]), int(curve.steps[-1]))]
        every += [step for finding in self.findings for step in (finding.step, finding.last_step)]
        return min(every, default=0), max(every, default=0)


NEEDS: dict[str, tuple[str, ...]] = {
    "NON-FINITE": ("loss",),
    "LOSS-SPIKE": ("loss",),
    "LOSS-DIVERGED": ("loss",),
    "NO-LEARNING": ("loss",),
    "WRONG-SIGN": ("loss",),
    "PLATEAU": ("loss", "lr"),
    "BAD-BATCH": ("gradient norm", "loss"),
    "GRAD-EXPLODING": ("gradient norm", "loss"),
    "SCHEDULE-COLLAPSED": ("lr", "loss"),
    "LR-HIGH": ("update ratios", "lr"),
    "LR-LOW": ("update ratios", "lr", "loss"),
    "NO-WARMUP": ("update ratios", "early update ratios", "lr"),
    "BETA2-STALE": ("update ratios", "surprise", "configuration"),
    "EPS-HIGH": ("update ratios", "eps share", "configuration"),
    "BETA2-LOW": ("update ratios", "configuration"),
}
"""What a rule needs at least to be judged from a log without records, OptimizerMonitor's series ("update ratios") before
what is only in them; a rule that is not named here needs records."""

TURN_ON: dict[str, tuple[str, str]] = {
    "loss": ("training loss", 'self.log("train_loss", loss) in training_step, or DivergenceMonitor()'),
    "gradient norm": ("gradient norm", "DivergenceMonitor(), or log the total norm in on_before_optimizer_step"),
    "lr": ("learning rate", "DivergenceMonitor(), or Lightning's LearningRateMonitor()"),
    "update ratios": ("update ratios", "DivergenceMonitor() or OptimizerMonitor()"),
    "early update ratios": ("update ratios of the first ten steps", "DivergenceMonitor()"),
    "surprise": ("gradient surprise", "DivergenceMonitor() or OptimizerMonitor()"),
    "eps share": ("share of eps in the denominator", "DivergenceMonitor() or OptimizerMonitor()"),
    "configuration": ("configuration of the optimizer", "DivergenceMonitor() or OptimizerMonitor()"),
    "records": ("signals of every step", "DivergenceMonitor()"),
}
"""What is missing in words, and what to turn on."""


MOST_NOTES, LONGEST_NOTE = 12, 400
MOST_OPTIMIZERS = 64


def judge(run: RunLog) -> RunReport:
    """Judge one run by the same rules as the live monitor, from the best evidence that its log holds.

    What cannot be judged, whatever it raises, is that run's: a note, and no rule that was asked.
    """
    try:
        return _judged(run)
    except Exception as error:  # a log may hold anything
        run.notes.append(f"it could not be judged: {type(error).__name__}: {error}")
        gap = Gap("numbers that can be judged", tuple(RULES), "DivergenceMonitor()")
        return RunReport(run.name, run.path, (), (gap,), bounded(run.notes), "nothing that a rule reads", ())


def bounded(notes: Sequence[str]) -> tuple[str, ...]:
    """Each once, and the first few: a damaged log may have one for each of its records."""
    different = [note if len(note) <= LONGEST_NOTE else f"{note[:LONGEST_NOTE]} …" for note in dict.fromkeys(notes)]
    more = [f"and {len(different) - MOST_NOTES} more of this kind"] if len(different) > MOST_NOTES else []
    return (*different[:MOST_NOTES], *more)


def _judged(run: RunLog) -> RunReport:
    names = prefixes(run) or [""]
    if len(names) > MOST_OPTIMIZERS:
        run.notes.append(f"it names {len(names)} optimizers: only the first {MOST_OPTIMIZERS} were judged")
    records = {prefix: recorded(run, prefix) for prefix in names[:MOST_OPTIMIZERS]}
    names = sorted(records, key=lambda prefix: (_position(run, prefix, records[prefix]), prefix))
    judged = [_judge_optimizer(run, prefix, records[prefix], len(names)) for prefix in names]
    findings = [finding for optimizer in judged for finding in optimizer.findings]
    findings += unread_in_file(run, [f for optimizer in judged if not optimizer.gaps for f in optimizer.findings])
    findings.sort(key=lambda finding: finding.step)
    gaps = dict.fromkeys(gap for optimizer in judged for gap in optimizer.gaps)
    basis = "; ".join(dict.fromkeys(optimizer.basis for optimizer in judged))
    drawn = tuple(curves(run, records))
    notes = bounded(run.notes)
    return RunReport(run.name, run.path, tuple(findings), tuple(gaps), notes, basis, drawn, settings(run, records))


def _position(run: RunLog, prefix: str, records: list[Record]) -> int:
    """Which of the trainer's optimizers this is: their findings of one step come in this order."""
    listed = [*run.findings].index(prefix) if prefix in run.findings else 0
    return next((record.position for record in records if isinstance(record, RunSignals)), listed)


class Judgement(NamedTuple):
    """Of one optimizer.

    Attributes:
        findings: by step.
        gaps: what could not be judged; none where a monitor's records or findings tell all.
        basis: what it rests on, in words.
    """

    findings: list[Finding]
    gaps: list[Gap]
    basis: str


def _judge_optimizer(run: RunLog, prefix: str, records: list[Record], optimizers: int) -> Judgement:
    """By the records; without them, by what was found live; without that, by what else there is."""
    steps = [record.step for record in records if isinstance(record, StepSignals)]
    beginning_is_lost = not isinstance(next(iter(records), None), RunSignals)
    if steps and not (beginning_is_lost and prefix in run.findings):
        found = replayed(run, prefix, records, optimizers)
        basis = f"the recorded signals of {plural(len(steps), 'step')}"
        return Judgement([*found, *unread(run, prefix, found, -1 if run.damaged else max(steps))], [], basis)
    found = live_findings(run, prefix)
    missing = unread(run, prefix, found, -1)
    if is_watched(run, prefix):
        return Judgement([*found, *missing], [], "what DivergenceMonitor found live")
    evidence = gather(run, prefix, optimizers)
    return Judgement([*evidence.judged(run.notes), *missing], _gaps(evidence), _basis(evidence))


def _basis(evidence: Evidence) -> str:
    steps = [signals.step for signals in evidence.steps]
    every = max(1, (steps[-1] - steps[0]) // (len(steps) - 1)) if len(steps) > 1 else 1
    apart = f", {every} steps apart: what happened between them is unseen" if every > 1 else ""
    return f"{len(steps)} logged steps of {', '.join(evidence.tags)}{apart}" if steps else "nothing that a rule reads"


def _gaps(evidence: Evidence) -> list[Gap]:
    """Rules by the first thing that they lack."""
    lacking: dict[str, list[str]] = {}
    for rule in RULES:
        missing = next((need for need in NEEDS.get(rule, ("records",)) if need not in evidence.present), None)
        if missing is not None:
            lacking.setdefault(missing, []).append(rule)
    return [Gap(TURN_ON[missing][0], tuple(rules), TURN_ON[missing][1]) for missing, rules in lacking.items()]


def ranked(reports: Iterable[RunReport]) -> list[RunReport]:
    """The most troubled run first."""
    return sorted(reports, key=lambda report: (tuple(-n for n in report.trouble), report.name))
