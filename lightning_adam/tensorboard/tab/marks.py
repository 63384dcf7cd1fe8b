"""Which cells of a heatmap the findings concern; ``static/marks.js`` says the same to the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_adam.diagnosis import Finding

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Mark:
    """A finding above ``info``: such a finding says that something does harm.

    Attributes:
        first, last: the steps from which and to which it was seen.
        parameters: the tensors that it concerns; where the heatmap has none of them, it concerns all.
    """

    first: int
    last: int
    parameters: Sequence[str]


def marks_of(findings: Iterable[Finding]) -> list[Mark]:
    """Of all that are above ``info``."""
    return [Mark(f.step, f.last_step, f.parameters) for f in findings if f.severity != "info"]


def marked(marks: Iterable[Mark], steps: NDArray[np.int64], names: Sequence[str]) -> Flags:
    """[n_steps, n_tensors]; a step's column reaches half-way to its neighbours."""
    flags = np.zeros((len(steps), len(names)), dtype=bool)
    middles = (steps[1:] + steps[:-1]) / 2
    begins, ends = np.append(-np.inf, middles)[: len(steps)], np.append(middles, np.inf)[: len(steps)]
    for mark in marks:
        concerned = np.isin(names, mark.parameters)
        flags[np.ix_((begins <= mark.last) & (ends > mark.first), concerned if concerned.any() else ~concerned)] = True
    return flags
