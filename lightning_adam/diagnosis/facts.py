"""What was known before the rules saw a step: preflight's findings on how the loss is made, and what they explain."""

from __future__ import annotations

import json
from dataclasses import replace

from lightning_adam.diagnosis.case import Case
from lightning_adam.diagnosis.finding import Finding, readable_findings

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
    "INIT-SCALE",
)
"""Codes of preflight that the monitor tells, too: those that one training step shows."""


def known_facts(case: Case) -> list[Finding]:
    """Those of this run, at the present step; no graver than a warning, for nobody knows yet what they cost."""
    stored = []
    for fact in case.run.facts:
        try:
            stored.append(json.loads(fact))
        except ValueError:
            continue
    found = [finding for finding in readable_findings(stored) if finding is not None and finding.rule in FACTS]
    return [replace(f, step=case.now.step, severity="warning" if f.severity == "critical" else f.severity) for f in found]
