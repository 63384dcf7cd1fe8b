"""Phrases and numbers that several rules print; none prints what is not a number."""

from __future__ import annotations

import math

from lightning_adam.diagnosis.case import Case
from lightning_adam.diagnosis.course import STUCK
from lightning_adam.diagnosis.history import median
from lightning_adam.diagnosis.signals import UNKNOWN_BATCH


def rounded(value: float) -> float:
    """One significant digit: a value that a person would try."""
    return float(f"{value:.1g}") if math.isfinite(value) else value


def number(value: float, digits: int = 3) -> str:
    """As a person writes it.

    Example:
        >>> number(0.01234), number(98765.4), number(5e-07), number(float("nan")), number(float("inf"))
        ('0.0123', '98800', '5e-07', 'an unknown amount', 'more than any number')
    """
    if not math.isfinite(value):
        return "an unknown amount" if math.isnan(value) else "more than any number"
    short = float(f"{value:.{digits}g}")
    return f"{short:.0f}" if 1000 <= abs(short) < 1e6 else f"{short:.{digits}g}"


def loss_clause(case: Case) -> str:
    """How the loss went over the last 20 steps; empty where it is not known."""
    if not math.isfinite(case.now.loss) or not case.past.losses:
        return ""
    before = number(median(case.past.losses[-20:]), 4)
    steps = min(20, len(case.past.losses))
    return f", loss {before} → {number(case.now.loss, 4)} in {plural(steps, _known_step(case))}"


def batch_name(case: Case) -> str:
    """Which batch this step was given, for somebody who looks for it."""
    return f"batch {case.now.batch}" if case.now.batch != UNKNOWN_BATCH else f"the batch of step {case.now.step}"


def _known_step(case: Case) -> str:
    """What is counted: a log that knows no batches has the steps that were logged, and they may lie far apart."""
    return "step" if case.now.batch != UNKNOWN_BATCH else "logged step"


def course_clause(case: Case) -> str:
    """Where the loss is, against where it was at its best and where it began."""
    curve = case.curve
    if case.course == "rising":
        level = max(curve.now, median(case.past.losses[-5:]))  # a rise is seen in the last five before the median follows
        return f"it is at {number(level, 4)}, and was at {number(curve.best, 4)}"
    still = "still " if curve.now > STUCK * curve.start else ""
    return f"it began at {number(curve.start, 4)}, and is {still}at {number(curve.now, 4)}"


def plural(count: int, noun: str) -> str:
    """``1 step``, ``2 steps``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def percent(share: float) -> str:
    """A share as a person reads it.

    Example:
        >>> percent(0.0021), percent(0.996), percent(4.1), percent(float("nan"))
        ('0.21 %', '100 %', '410 %', 'an unknown share')
    """
    if not math.isfinite(share):
        return "an unknown share"
    if abs(share) >= 1e4:
        return "over a million %" if share > 0 else "under minus a million %"
    return f"{number(100 * share, 2)} %" if abs(share) < 0.995 else f"{number(float(round(100 * share)))} %"


def of_its_norm(ratio: float, whose: str = "its") -> str:
    """How far a tensor moved: ``by 53 % of its norm``, ``by 948 times its norm``.

    Example:
        >>> of_its_norm(0.53), of_its_norm(948.3)
        ('by 53 % of its norm', 'by 948 times its norm')
    """
    return f"by {percent(ratio)} of {whose} norm" if not ratio > 10 else f"by {number(ratio)} times {whose} norm"


def place(name: str) -> str:
    """``; largest in NAME``, or nothing."""
    return f"; largest in {name}" if name else ""


def named(name: str) -> tuple[str, ...]:
    """A finding's parameters: one, or none."""
    return (name,) if name else ()
