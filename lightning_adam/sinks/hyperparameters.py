"""The user's hyper-parameters and ours as one set: nothing that the user has set is written over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OURS = "adam/"
"""Before one of our names that the user has given to another value."""


def merged_hyperparameters(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Theirs, and ours under their plain names; under ``adam/<name>`` where theirs has another value by that name.

    Example:
        >>> merged_hyperparameters({"lr": 0.1, "width": 64}, {"lr": 0.2, "optimizer": "AdamW"})
        {'lr': 0.1, 'width': 64, 'adam/lr': 0.2, 'optimizer': 'AdamW'}
    """
    merged = dict(theirs)
    for name, value in ours.items():
        if name not in merged:
            merged[name] = value
        elif not _are_same(merged[name], value):
            merged.setdefault(OURS + name, value)
    return merged


def new_hyperparameters(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """What of ours is to be logged beside theirs, which are there already."""
    return {name: value for name, value in merged_hyperparameters(theirs, ours).items() if name not in theirs}


def _are_same(theirs: Any, ours: Any) -> bool:
    """Betas may be a tuple, a list or "0.9, 0.999"; an array's comparison is no truth value."""
    try:
        return bool(_as_text(theirs) == _as_text(ours))
    except Exception:
        return False


def _as_text(value: Any) -> Any:
    return ", ".join(f"{one:g}" for one in value) if isinstance(value, (list, tuple)) else value
