"""What to write instead: in terms of what is configured, never absurd, and never what is already so."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lightning_adam.diagnosis.bearable import bearable_rate
from lightning_adam.diagnosis.case import Case
from lightning_adam.diagnosis.wording import number, rounded

DECADES = 1e-3
"""A rate is lowered by three decades at most: what is further off is not a matter of the rate."""
LARGEST_RATE = {"sgd": 30.0}
"""No rate over this (1 for others than SGD) is advised unless one was configured: nobody trains with it; language models
have been with SGD at 30 (Merity et al. 2017, arXiv:1708.02182)."""
PROVEN = 0.75
"""Of its start: a loss that has fallen so far says that its rate was right."""
MOST_MOMENTUM, USUAL_MOMENTUM = 0.99, 0.9
"""More of it nobody uses; 0.99 some do, with full batches."""
CLEARLY = 1 / 3
"""A rate that did harm is lowered to this share of it at least."""


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


def lower_rate(case: Case, factor: float = CLEARLY, addition: str = "") -> Advice:
    """The rate that the model can bear, at most a third of what did harm; where a schedule raised that, the rate to hold.

    Args:
        case: what is known.
        factor: what the rate is multiplied by at most.
        addition: what may be done besides, as the rest of the sentence.
    """
    if case.run.steps_like == "adapted":
        return Advice("The optimizer finds its own rate: let it grow slowly (growth_rate=1.02) or give it a warmup.")
    if case.run.momentum > MOST_MOMENTUM:
        return _less_momentum(case, addition)
    configured = configured_rate(case)
    if not 0 < configured < math.inf:
        return Advice(f"Lower the learning rate{addition}.")
    if 1.05 * configured < case.now.lr < math.inf:
        held = rounded(max(case.now.lr * _reduction(case, case.now.lr, factor), _proven_rate(case, configured)))
        raised = f"the schedule has raised it to {number(case.now.lr)}, {number(configured)} is configured"
        return Advice(f"Keep the learning rate under {held:g} ({raised}){addition}.", {"lr": held})
    lower = rounded(configured * _reduction(case, configured, factor))
    return Advice(f"Try lr={lower:g} instead of {number(configured)}{addition}.", {"lr": lower})


def _less_momentum(case: Case, addition: str) -> Advice:
    """Steps of SGD that add up to more than any rate makes good."""
    momentum, usual = case.run.momentum, replace(case, run=replace(case.run, momentum=USUAL_MOMENTUM))
    bearable, configured = bearable_rate(usual), configured_rate(case)
    steps = number(1 / max(1 - momentum, 1e-9))
    adds_up = f"Use momentum={USUAL_MOMENTUM:g} instead of {momentum:g}, which adds up {steps} steps"
    if not 0 < bearable < 0.5 * configured < math.inf:
        return Advice(f"{adds_up}{addition}.", {"momentum": USUAL_MOMENTUM})
    lower = rounded(max(bearable, DECADES * configured))
    rate = f", and lr={lower:g} instead of {number(configured)}"
    return Advice(f"{adds_up}{rate}{addition}.", {"momentum": USUAL_MOMENTUM, "lr": lower})


def _proven_rate(case: Case, configured: float) -> float:
    """The configured one where the loss fell under it, and only a schedule's higher one did harm."""
    curve = case.curve
    fell = curve.progress > (4 * curve.noise if curve.signed else (1 - PROVEN) * curve.start)
    return configured if fell and configured < CLEARLY * case.now.lr else 0.0


def _reduction(case: Case, rate: float, factor: float) -> float:
    """What this rate is multiplied by."""
    bearable = bearable_rate(case)
    known = math.inf if math.isnan(bearable) else bearable / rate
    return max(DECADES, min(factor, known, CLEARLY))


def higher_rate(case: Case, factor: float) -> Advice:
    """The configured rate times ``factor``, as far as somebody would try it."""
    configured = configured_rate(case)
    if not 0 < configured < math.inf:
        return Advice()
    higher = rounded(min(configured * factor, max(LARGEST_RATE.get(case.run.steps_like, 1.0), configured)))
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
