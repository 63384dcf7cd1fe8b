"""How a run fares, in a word: what its table of runs begins with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

DIVERGED, SICK, OVER, UNREMARKABLE = "diverged", "sick", "was sick", ""
"""The loss has left its range; a finding above ``info`` lasts; each is over, and the loss has fallen; there is none."""

FAR = 1.5
"""Times its start: there LOSS-DIVERGED says so of any loss. Where the cause is known its own code takes that one's place."""
FALLEN = 0.6
"""Of its start: above it the rules call a loss stuck. A first step that ruined the model is past, and its harm is not."""
FOR_GOOD = "NON-FINITE"
"""It is told once, where it began: that it was not seen since is no recovery."""


def condition(told: Sequence[Mapping[str, Any]], losses: Sequence[float]) -> str:
    """From the run's findings and its training loss as logged.

    Args:
        told: as :meth:`Bulk.findings` gives them.
        losses: in order; none where the run logged no loss, or none is known by its name.
    """
    if losses and not math.isfinite(losses[-1]):
        return DIVERGED
    grave = [finding for finding in told if finding["severity"] != "info"]
    lasting = [finding for finding in grave if not finding["over"] or finding["rule"] == FOR_GOOD]
    rules = {finding["rule"] for finding in lasting}
    if "LOSS-DIVERGED" in rules or (FOR_GOOD in rules and not losses) or (lasting and _is_far(losses)):
        return DIVERGED
    if not grave:
        return UNREMARKABLE
    return OVER if not lasting and _has_fallen(losses) else SICK


def _is_far(losses: Sequence[float]) -> bool:
    """Above its start by half: of a signed loss that says nothing."""
    return bool(losses) and losses[-1] > FAR * losses[0] > 0


def _has_fallen(losses: Sequence[float]) -> bool:
    return bool(losses) and losses[-1] < FALLEN * losses[0]
