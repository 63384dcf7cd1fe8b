"""Phrases and numbers that several rules print."""

from __future__ import annotations

import math

from lightning_adam.diagnosis.history import Case, median


def rounded(value: float) -> float:
    """One significant digit: a value that a person would try."""
    return float(f"{value:.1g}") if math.isfinite(value) else value


def loss_clause(case: Case) -> str:
    """How the loss went over the last 20 steps; empty where it is not known."""
    if not math.isfinite(case.now.loss) or not case.past.losses:
        return ""
    return f", loss {median(case.past.losses[-20:]):.4g} → {case.now.loss:.4g} in {min(20, len(case.past.losses))} steps"


def percent(share: float) -> str:
    """A share as a person reads it.

    Example:
        >>> percent(0.0021), percent(0.996), percent(4.1)
        ('0.21 %', '100 %', '410 %')
    """
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"


def place(name: str) -> str:
    """``; largest in NAME``, or nothing."""
    return f"; largest in {name}" if name else ""
