"""Which series is the training loss, which the learning rate, which the gradient norm: by the names that people use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_adam.tensorboard.reader import EVENTS, RECORDS, RunLog, Series
from lightning_adam.tensorboard.tags import HEADLINE


@dataclass(frozen=True)
class Role:
    """How a series is known.

    Attributes:
        names: patterns for a whole tag in lower case, the surest first.
        never: a tag that contains this is another thing.
    """

    names: tuple[str, ...]
    never: str


LONGEST_TAG = 500
"""Characters: the patterns' time grows with their square."""
_HELD_OUT = r"val|test|eval|_epoch$|epoch_loss|best"

ROLES: dict[str, Role] = {
    "loss": Role(
        (
            r"(train(ing)?[_/.])?loss[_/]step",
            r"train(ing)?[_/.]loss",
            r"loss[_/.]train(ing)?",
            r"loss",
            r"(train(ing)?[_/.])?(total|batch|mean|running|ce|nll|lm|mse|recon(struction)?)[_-]?loss",
            r".*train.*loss.*",
            r".*loss.*",
        ),
        _HELD_OUT,
    ),
    "lr": Role(
        (
            r"lr-.+",
            r"(train(ing)?[_/.])?(lr|learning[_-]?rate)([_/-].*)?",
            r".*[_/.-](lr|learning[_-]?rate)([_/-]?[0-9]+)?",
        ),
        r"momentum|weight_decay|betas|effective",
    ),
    "gradient norm": Role(
        (
            r"(.*[_/.])?grad(ient)?s?[_/-]?([0-9.]+_)?(total_|global_)?norm(_total)?([_/-]?(before|pre|unclipped).*)?",
            r"(.*[_/.])?(total|global)_(grad_|gradient_)?norm",
            r"grad_[0-9.]+_norm_total",
        ),
        r"after|clipped_|post|param|weight|layer",
    ),
}


_ROOMS = r"\.(?:dist|groups|clip|amp|tensors)/.+"
_SCALAR = re.compile(rf"(adam(?:-[^/]+?)?)(?:{_ROOMS}|/(?:log10_.+|{'|'.join(HEADLINE)}))")
_MATRIX = re.compile(r"(adam(?:-[^/]+)?)_matrix/.+")
_TEXT = re.compile(rf"(adam(?:-[^/]+)?)(?:{EVENTS}|{RECORDS})")


def prefixes(run: RunLog) -> list[str]:
    """The optimizers that this package's monitors wrote about: ``adam``, or ``adam-AdamW``, ``adam-SGD``, …

    A class may be called anything, ``Adam_matrix`` too: what kind of series has a tag tells where the class's name ends.
    """
    kinds = ((_SCALAR, run.scalars), (_MATRIX, run.tables), (_TEXT, run.texts))
    found = {
        match[1] for pattern, tags in kinds for tag in tags if len(tag) <= LONGEST_TAG and (match := pattern.fullmatch(tag))
    }
    return sorted(found | set(run.findings))


def find(run: RunLog, role: str, prefix: str) -> tuple[str, Series] | None:
    """The series of a role and its tag; None where nothing is named like it.

    Among equally sure names the one with the most points counts. What this package wrote for the optimizer counts first.
    """
    own = _own(run, role, prefix)
    if own is not None:
        return own
    wanted = ROLES[role]
    candidates = {
        tag: series
        for tag, series in run.scalars.items()
        if len(tag) <= LONGEST_TAG
        and not tag.startswith("adam")
        and not re.search(wanted.never, tag.lower())
        and len(series.steps)
    }
    for pattern in wanted.names:
        matching = [tag for tag in candidates if re.fullmatch(pattern, tag.lower())]
        if matching:
            tag = max(matching, key=lambda name: len(candidates[name].steps))
            return tag, _largest([candidates[name] for name in matching]) if role == "lr" else candidates[tag]
    return None


def _largest(groups: list[Series]) -> Series:
    """LearningRateMonitor writes one series per parameter group; the rules read the largest."""
    steps = np.unique(np.concatenate([group.steps for group in groups]))
    rows = np.full((len(groups), len(steps)), -np.inf)
    for row, group in zip(rows, groups, strict=True):
        row[np.searchsorted(steps, group.steps)] = group.values
    return Series(steps, rows.max(axis=0))


OWN_TAGS: Mapping[str, str] = {"lr": "log10_lr", "gradient norm": "log10_gradient_norm"}


def _own(run: RunLog, role: str, prefix: str) -> tuple[str, Series] | None:
    """log10 of what is zero or not finite was written as NaN: unknown, so left out."""
    tag = f"{prefix}/{OWN_TAGS[role]}" if role in OWN_TAGS else ""
    series = run.scalars.get(tag)
    if series is None:
        return None
    known = np.isfinite(series.values)
    return tag, Series(series.steps[known], power_of_ten(series.values[known]))


def power_of_ten(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """What was written as its logarithm; infinite beyond 308."""
    with np.errstate(over="ignore"):
        powers: NDArray[np.float64] = np.power(10.0, values)
    return powers
