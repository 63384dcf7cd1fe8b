"""What was known before the rules saw a step: preflight's findings on how the loss is made, and what they explain."""

from __future__ import annotations

import json
from dataclasses import replace

from lightning_adam.diagnosis.case import Case
from lightning_adam.diagnosis.finding import Finding, Severity, readable_findings

FACTS = (
    "BROADCAST",
    "LABEL-RANGE",
    "ONE-CLASS",
    "DOUBLE-SOFTMAX",
    "DOUBLE-SIGMOID",
    "NLL-NEEDS-LOG",
    "LOG-OF-PROBABILITY",
    "SOFTMAX-DIM",
    "RELU-LOGITS",
    "FROZEN",
    "SYMMETRIC-INIT",
    "WRONG-SIGN",
    "INIT-SCALE",
)
"""Codes of preflight that the monitor tells, too: those that one training step shows."""


SUSPICIONS = frozenset({"INIT-SCALE", "FROZEN"})
"""Of these: many such models learn all the same, so that the loss has to agree."""
BY_DESIGN = frozenset({"FROZEN", "OPTIMIZER-MISSES", "EVAL-MODE"})
"""What some do on purpose: not blamed for a loss that another finding above information accounts for."""


def known_facts(case: Case) -> list[Finding]:
    """Those of this run, at the present step; no graver than a warning, for nobody knows yet what they cost."""
    stored = []
    for fact in case.run.facts:
        try:
            stored.append(json.loads(fact))
        except ValueError:
            continue
    found = [finding for finding in readable_findings(stored) if finding is not None and finding.rule in FACTS]
    return [replace(f, step=case.now.step, severity=_severity(f)) for f in found]


def _severity(fact: Finding) -> Severity:
    return "warning" if fact.severity == "critical" or fact.rule in SUSPICIONS else fact.severity
