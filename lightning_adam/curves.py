"""The curves that schedules follow after their warmup: pure functions of the run's phases and of the step, from 0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Phases:
    """The run in optimizer steps.

    Attributes:
        warmup: steps of the warmup.
        decay: steps of the decay at the end (all that follows the warmup, except under ``wsd``), or of one cycle.
        total: length of the run; ``inf`` only where nothing decays.
        min_factor: the multiplier that the decay ends at.
        options: of the schedule.
        asked: whether the length is the user's word, and no estimate.
    """

    warmup: int
    decay: int
    total: float
    min_factor: float = 0.0
    options: Mapping[str, float] = field(default_factory=dict)
    asked: bool = True

    def decayed(self, step: int) -> float:
        """How much of the decay is over before this step: 0 at its first step, 1 after the last."""
        start = self.total - self.decay
        return min(1.0, max(0.0, (step - start) / self.decay)) if self.decay else float(step >= self.total)


def constant(phases: Phases, step: int) -> float:
    return 1.0


def linear(phases: Phases, step: int) -> float:
    return 1.0 - phases.decayed(step)


def cosine(phases: Phases, step: int) -> float:
    """Loshchilov & Hutter 2017 (SGDR), arXiv:1608.03983, equation 5, without restarts."""
    return _half_cosine(phases.decayed(step))


def cosine_restarts(phases: Phases, step: int) -> float:
    """The same with restarts: ``decay`` is the length of a cycle, each of the same length."""
    cycle = _cycle(phases)
    return _half_cosine(((step - phases.warmup) % cycle) / cycle) if cycle else 1.0


def _cycle(phases: Phases) -> float:
    """The cycle's length; where whole cycles miss the end by their rounding only, they share the run without a rest.

    A quarter of 97 steps is rounded to 24: a fifth cycle would begin at the full rate with the run's last step.
    """
    run = phases.total - phases.warmup
    cycles = max(1, round(run / phases.decay)) if phases.decay and math.isfinite(run) else 0
    return run / cycles if cycles and abs(run - cycles * phases.decay) < cycles else phases.decay


def root(phases: Phases, step: int) -> float:
    """1-sqrt: Hägele et al. 2024, arXiv:2405.18392, equation 1."""
    return 1.0 - math.sqrt(phases.decayed(step))


def polynomial(phases: Phases, step: int) -> float:
    return float((1.0 - phases.decayed(step)) ** phases.options["power"])


def exponential(phases: Phases, step: int) -> float:
    """A constant factor per step that reaches ``final`` at the end."""
    return float(phases.options["final"] ** phases.decayed(step))


def inverse_sqrt(phases: Phases, step: int) -> float:
    """Vaswani et al. 2017, arXiv:1706.03762, equation 3; without warmup over 10,000 steps, as transformers does."""
    scale = phases.warmup or 10_000
    return math.sqrt(scale / (step + scale - phases.warmup)) if step > phases.warmup else 1.0


def onecycle(phases: Phases, step: int) -> float:
    """Smith & Topin 2017, arXiv:1708.07120, with cosines as torch's OneCycleLR: up from 1/div, down to 1/(div·final_div)."""
    low = 1.0 / phases.options["div_factor"]
    peak = max(0, phases.warmup - 1)
    if step <= peak:
        return 1.0 - (1.0 - low) * _half_cosine(step / peak) if peak else 1.0
    done = min(1.0, (step - peak) / max(1.0, phases.total - 1 - peak))
    end = low / phases.options["final_div_factor"]
    return end + (1.0 - end) * _half_cosine(done)


def _half_cosine(done: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * done))
