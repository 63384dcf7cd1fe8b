"""torch-audit (MIT): a linter that runs along with training; here with the first ten steps."""

from __future__ import annotations

from itertools import islice
from typing import Any

from tests.benchmarks.preflight.peers.case import Case

REQUIREMENTS = ("torch-audit==0.3.0",)
STEPS = 10

TASTE = {"TA200", "TA201", "TA203", "TA400", "TA401", "TA402", "TA403", "TA404"}
"""Hints at speed and style, true of nearly every healthy model (sizes that 8 does not divide, decay of biases): a user
who wants to know what is broken switches them off."""

NAMES = {
    "TA100": ("DATA-NONFINITE",),
    "TA102": ("GRAD-EXPLODING", "INIT-SCALE"),
    "TA104": ("NO-GRADIENT", "FROZEN"),
    "TA105": ("DEAD-UNITS",),
    "TA301": ("INPUT-SCALE",),
    "TA302": ("INPUT-CONSTANT",),
    "TA304": ("BATCHNORM-BATCH",),
    "TA305": ("LABEL-RANGE", "INPUT-CONSTANT"),
    "TA405": ("SYMMETRIC-INIT", "DEAD-UNITS"),
    "TA500": ("NO-GRADIENT",),
}
"""What each rule says, generously, in the codes of the cases."""


def _train(auditor: Any, case: Case, optimizer: Any) -> None:
    for index, batch in enumerate(islice(case.loader, STEPS)):
        optimizer.zero_grad()
        if not case.has_forward:  # else the patched forward shows it the inputs
            auditor.audit_data(batch)
        made = case.module.training_step(batch, index)
        auditor.backward(made["loss"] if isinstance(made, dict) else made)
        auditor.optimizer_step()


def alarms(case: Case) -> list[str]:
    """Rules that warn or more."""
    from torch_audit import Auditor, Severity

    optimizer = case.automatic().optimizer()
    auditor = Auditor(case.module, optimizer=optimizer, every_n_steps=1, ignore_rules=TASTE, suppress_internal_errors=True)
    auditor.autopatch(patch_model=case.has_forward, patch_optimizer=False)
    _train(auditor, case, optimizer)
    found = auditor.finish(report=False).findings
    return [finding.rule_id for finding in found if finding.severity > Severity.INFO]
