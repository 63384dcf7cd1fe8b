"""All findings of a run: a sink is told of one optimizer at a time, and shows them together."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_adam.diagnosis import Finding
from lightning_adam.diagnosis.archive import findings_document
from lightning_adam.diagnosis.finding import SEVERITIES


class KnownFindings:
    """Findings by the optimizers' prefixes, as each was told last."""

    def __init__(self) -> None:
        self._by_prefix: dict[str, list[Finding]] = {}

    def update(self, prefix: str, known: Sequence[Finding]) -> None:
        """What is known of one optimizer now."""
        self._by_prefix[prefix] = list(known)

    def document(self) -> str:
        """The content of ``findings.json``."""
        return findings_document(self._by_prefix)

    def worst(self) -> str:
        """Severity and code of the gravest, the earliest of several: ``critical LR-HIGH``; ``none`` of a healthy run."""
        found = [finding for known in self._by_prefix.values() for finding in known]
        ranked = sorted(found, key=lambda finding: (-SEVERITIES.index(finding.severity), finding.step))
        return f"{ranked[0].severity} {ranked[0].rule}" if ranked else "none"
