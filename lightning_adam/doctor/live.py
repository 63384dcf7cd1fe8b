"""What DivergenceMonitor found while the run was live: as far as its log tells, in full or as a mere count."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace

from lightning_adam.diagnosis import Finding, StepSignals, replay
from lightning_adam.diagnosis.codec import MOST_STEPS
from lightning_adam.diagnosis.finding import SEVERITIES as FROM_THE_MILDEST
from lightning_adam.diagnosis.finding import as_told
from lightning_adam.doctor.evidence import Record, failed_rules
from lightning_adam.tensorboard.reader import EVENTS, RunLog

SEVERITIES = FROM_THE_MILDEST[::-1]
"""The worst first."""

UNREAD = "FINDINGS-UNREAD"
"""No rule's code: that the monitor found something, and the log does not tell what."""


def is_watched(run: RunLog, prefix: str) -> bool:
    """Whether the log tells what a monitor found, or that it found nothing."""
    return prefix in run.findings or prefix + EVENTS in run.texts or {n for _, n in _totals(run, prefix)} == {0}


def live_findings(run: RunLog, prefix: str) -> list[Finding]:
    """What the live monitor told: its final list, and what events tell of other steps."""
    final = run.findings.get(prefix, [])
    known = {finding.step for finding in final}
    return [*final, *(finding for finding in _from_events(run, prefix) if finding.step not in known)]


def _from_events(run: RunLog, prefix: str) -> list[Finding]:
    """As they were told one by one, a suspicion that was confirmed as it was told last; damaged entries are a note."""
    found: dict[tuple[str, int, bool], Finding] = {}
    for step, text in run.texts.get(prefix + EVENTS, ()):
        try:
            told = [checked(Finding.from_dict(stored)) for stored in json.loads(text)]
            found |= {(finding.rule, finding.step, _is_action(finding)): finding for finding in told}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            run.notes.append(f"the findings of step {step} are damaged ({prefix}{EVENTS})")
    return list(found.values())


def checked(finding: Finding) -> Finding:
    """Types as declared: the reports rely on them, and a log may hold anything.

    Raises:
        ValueError: one is another.
    """
    if not isinstance(finding.evidence, dict):
        raise ValueError(f"its evidence is {finding.evidence!r}")
    words = (finding.rule, finding.message, finding.remedy, finding.optimizer, *finding.parameters, *finding.evidence)
    right = (
        finding.severity in SEVERITIES
        and all(isinstance(word, str) for word in words)
        and all(isinstance(step, int) and abs(step) < MOST_STEPS for step in (finding.step, finding.last_step))
        and all(map(_is_simple, finding.evidence.values()))
        and all(map(_is_simple_or_several, finding.changes.values()))
    )
    if not right:
        raise ValueError(f"this is no finding of ours: {finding.rule[:40]!r} of step {str(finding.step)[:40]}")
    return finding


def _is_simple(value: object) -> bool:
    return isinstance(value, str | float | None) or (isinstance(value, int) and abs(value) < MOST_STEPS)


def _is_simple_or_several(value: object) -> bool:
    return all(map(_is_simple, value)) if isinstance(value, tuple) else _is_simple(value)


def replayed(run: RunLog, prefix: str, records: Sequence[Record], optimizers: int) -> list[Finding]:
    """What the records give, and what they cannot: the monitor's own actions, and what came after the last of them.

    Records are written in stretches: a run that was killed leaves findings without the signals that led to them, and so does
    a damaged file. After an action (a rollback) the live rules started afresh, which is not recorded either.
    """
    diagnosis = replay(records)
    run.notes += failed_rules(diagnosis)
    found = [as_told(finding) for finding in diagnosis.findings]
    if optimizers > 1:
        found = [replace(finding, optimizer=prefix) for finding in found]
    last = max(record.step for record in records if isinstance(record, StepSignals))
    found = _with_final(found, [f for f in run.findings.get(prefix, ()) if not _is_action(f)], last)
    told = live_findings(run, prefix)
    incomplete, known = run.damaged or any(map(_is_action, told)), {finding.step for finding in found}
    return [*found, *(f for f in told if _is_action(f) or (f.step not in known and (incomplete or f.step > last)))]


def _with_final(found: Sequence[Finding], final: Sequence[Finding], last: int) -> list[Finding]:
    """Where the monitor's final list has something graver, or saw it for longer than the records go, its word counts."""
    grave: dict[int, int] = {}
    for finding in found:
        grave[finding.step] = min(grave.get(finding.step, len(SEVERITIES)), _rank(finding))
    better = {f.step for f in final if _rank(f) < grave.get(f.step, len(SEVERITIES)) or f.last_step > last}
    return [*(f for f in found if f.step not in better), *(f for f in final if f.step in better)]


def _rank(finding: Finding) -> int:
    return SEVERITIES.index(finding.severity)


def _is_action(finding: Finding) -> bool:
    return "action" in finding.evidence


def unread(run: RunLog, prefix: str, told: Sequence[Finding], last: int) -> list[Finding]:
    """What the monitor counted and no text tells, as one finding: a sick run must not pass for healthy.

    Its severity is not known: it is given as a warning, which the exit status heeds by default.

    Args:
        run: the log.
        prefix: the optimizer's.
        told: the findings that are known.
        last: the step up to which these are all; -1 where only texts tell of them, or gaps are among them.
    """
    known = sum(not _is_action(finding) for finding in told)
    more = [(step, count) for step, count in _totals(run, prefix) if step > last and count > known]
    if not more:
        return []
    count = max(count for _, count in more) - known
    message = f"DivergenceMonitor counted {plural(count, 'finding')} whose text is not in this log; the severity is unknown."
    return [_unread(count, message, more[0][0])]


def unread_in_file(run: RunLog, told: Sequence[Finding]) -> list[Finding]:
    """The same of a ``findings.json`` that is damaged and had more than is known."""
    count = run.unread_findings - sum(not _is_action(finding) for finding in told)
    if count <= 0:
        return []
    message = f"findings.json is damaged, and {plural(count, 'finding')} in it cannot be read; the severity is unknown."
    return [_unread(count, message, 0)]


def _unread(count: int, message: str, step: int) -> Finding:
    remedy = (
        "The console output and the event files of the run name them. A monitor of this version also leaves findings.json "
        "and adam_signals.jsonl beside each log."
    )
    return Finding(UNREAD, "warning", step, message, {"counted": count}, remedy=remedy)


def _totals(run: RunLog, prefix: str) -> list[tuple[int, int]]:
    """How many findings there were, by step."""
    series = run.scalars.get(f"{prefix}/findings_total")
    if series is None:
        return []
    points = zip(series.steps.tolist(), series.values.tolist(), strict=True)
    return [(step, int(count)) for step, count in points if math.isfinite(count)]


def plural(count: int, noun: str) -> str:
    """1 run, 2 runs."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
