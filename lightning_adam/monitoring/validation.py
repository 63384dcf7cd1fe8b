"""Which of the numbers that were logged is validation's loss: by the names that people use."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

_STAGE = r"(val(id(ation)?)?|eval(uation)?|dev)"
_LOSS = r"(avg|mean|total)?[_-]?loss"
_KIND = r"(avg|mean)?[_-]?(ce|nll|bce|mse|mae|l1|huber|xent|cross[_-]?entropy)([_-]?loss)?"
_END = r"([_/.-]epoch)?([_/.-]?dataloader_idx_\d+)?"
NAMES = tuple(
    prefix + name
    for prefix in ("", r".+[_/. -]")
    for name in (
        rf"{_STAGE}[_/. -]?(epoch[_/.-])?{_LOSS}{_END}",
        rf"{_LOSS}[_/. -]{_STAGE}{_END}",
        rf"{_STAGE}[_/. -]{_KIND}{_END}",
    )
)
"""Patterns for a whole name in lower case, the surest first."""
NEVER = re.compile(r"best|lowest|min_|ema|step|train|test|acc")
"""A name that contains this is another thing: a batch's loss, the best one so far."""
LONGEST = 200
"""Characters: the patterns' time grows with their square."""


def loss_among(metrics: Mapping[str, Any]) -> float:
    """Validation's loss, of several loaders the lowest; NaN where nothing is named like it.

    Args:
        metrics: numbers or tensors of one element by name, such as Lightning's ``trainer.callback_metrics``.
    """
    names = {str(name).lower(): name for name in metrics if len(str(name)) <= LONGEST}
    known = {low: name for low, name in names.items() if not NEVER.search(low)}
    for pattern in NAMES:
        losses = [float(metrics[name]) for low, name in known.items() if re.fullmatch(pattern, low)]
        if losses:
            return min(losses)
    return math.nan
