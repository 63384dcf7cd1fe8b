"""lightning-adam itself, by the same rules as the others."""

from __future__ import annotations

import lightning_adam as la
from tests.benchmarks.preflight.peers.case import Case

REQUIREMENTS: tuple[str, ...] = ()
NAMES: dict[str, tuple[str, ...]] = {}
"""Its checks are called by the codes that the cases use."""


def alarms(case: Case) -> list[str]:
    """Codes of all findings that are more than information."""
    module, data, *options = case.built
    report = la.preflight(module, data, **(options[0] if options else {}))
    return [finding.rule for finding in report.findings if finding.severity != "info"]
