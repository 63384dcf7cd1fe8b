"""What to write instead: in terms of what is configured, never absurd, and never what is already so."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning_adam.diagnosis.case import Case
from lightning_adam.diagnosis.wording import number, rounded

DECADES = 1e-3
"""A rate is lowered by three decades at most: what is further off is not a matter of the rate."""
LARGEST_RATE = 1.0
"""No rate over this is advised unless one was configured: nobody trains with it."""


@dataclass(frozen=True)
class Advice:
    """A sentence, and the same for a machine; both empty where there is nothing to say.

    Attributes:
        text: what to change.
        changes: arguments of ``la.configure_optimizers``.
    """

    text: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)


def configured_rate(case: Case) -> float:
    """What the user wrote: the base of the schedule; else the highest rate so far."""
    written = case.run.lr
    if math.isfinite(written) and written > 0:
        return written
    return max(case.past.peak_lr, case.now.lr if math.isfinite(case.now.lr) else 0.0)


def lower_rate(case: Case, factor: float, addition: str = "") -> Advice:
    """The configured rate times ``factor``; where the schedule has raised it beyond that, the rate to hold.

    Args:
        case: what is known.
        factor: under 1.
        addition: what may be done besides, as the rest of the sentence.
    """
    if case.run.steps_like == "adapted":
        return Advice("The optimizer finds its own rate: let it grow slowly (growth_rate=1.02) or give it a warmup.")
    configured, factor = configured_rate(case), max(DECADES, min(factor, 0.5))
    if not 0 < configured < math.inf:
        return Advice(f"Lower the learning rate{addition}.")
    if 1.05 * configured < case.now.lr < math.inf:
        held = rounded(case.now.lr * factor)
        raised = f"the schedule has raised it to {number(case.now.lr)}, {number(configured)} is configured"
        return Advice(f"Keep the learning rate under {held:g} ({raised}){addition}.", {"lr": held})
    lower = rounded(configured * factor)
    return Advice(f"Try lr={lower:g} instead of {number(configured)}{addition}.", {"lr": lower})


def higher_rate(case: Case, factor: float) -> Advice:
    """The configured rate times ``factor``, as far as somebody would try it."""
    configured = configured_rate(case)
    if not 0 < configured < math.inf:
        return Advice()
    higher = rounded(min(configured * factor, max(LARGEST_RATE, configured)))
    if not higher > 1.5 * configured or case.run.steps_like == "adapted":
        return Advice()
    return Advice(f"Try lr={higher:g} instead of {number(configured)}.", {"lr": higher})


def clip_to(case: Case, norm: float) -> Advice:
    """Clip gradients to this norm; nothing where they already are, or to less."""
    limit = rounded(norm)
    if not limit > 0 or not math.isfinite(limit) or case.run.clip <= 1.05 * limit:
        return Advice()
    return Advice(f"clip={limit:g}", {"clip": limit})


def warmup_steps(case: Case, untuned: int) -> int | float:
    """2/(1-β₂) steps, at most a tenth of the run; where its length is not known, a twentieth as a share."""
    total = case.run.total_steps
    if not math.isfinite(total):
        return 0.05
    return max(1, min(untuned, round(total / 10)))
