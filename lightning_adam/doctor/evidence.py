"""Builds the signals that the rules read from what a log happens to hold."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from lightning_adam.diagnosis import NonFinite, StepSignals
from lightning_adam.doctor.roles import find
from lightning_adam.tensorboard.reader import RunLog, Series, Table


@dataclass(frozen=True)
class Evidence:
    """What a log without records shows of one optimizer.

    Attributes:
        signals: one per logged step, ascending.
        present: which signals there are: a subset of "loss", "gradient norm", "lr", "update ratios".
        tags: where they were read.
    """

    signals: list[StepSignals]
    present: frozenset[str]
    tags: tuple[str, ...]


def gather(run: RunLog, prefix: str) -> Evidence:
    """The signals of every logged step; what was not logged is None or NaN there."""
    found = {role: find(run, role, prefix) for role in ("loss", "lr", "gradient norm")}
    loss, lr, norm = (_by_step(pair[1]) if pair else {} for pair in found.values())
    table = run.tables.get(f"{prefix}_matrix/update_ratio")
    ratios = _ratios(table) if table is not None else {}
    present = {role for role, pair in found.items() if pair} | ({"update ratios"} if ratios else set())
    tags = [pair[0] for pair in found.values() if pair] + ([f"{prefix}_matrix/update_ratio"] if ratios else [])
    rate, signals = math.nan, []
    for step in sorted({*loss, *norm, *ratios}):
        rate = lr.get(step, rate)
        signals.append(_signals(step, loss.get(step), norm.get(step, math.nan), rate, ratios.get(step), step in norm))
    return Evidence(signals, frozenset(present), tuple(tags))


def _signals(
    step: int, loss: float | None, norm: float, lr: float, ratios: dict[str, float] | None, norm_logged: bool
) -> StepSignals:
    bad = None
    if loss is not None and not math.isfinite(loss):
        bad = NonFinite("loss")
    elif norm_logged and not math.isfinite(norm):
        bad = NonFinite("gradient")
    return StepSignals(step=step, loss=loss, gradient_norm=norm, lr=lr, non_finite=bad, update_ratios=ratios or None)


def _by_step(series: Series) -> dict[int, float]:
    return dict(zip(series.steps.tolist(), series.values.tolist(), strict=True))


def _ratios(table: Table) -> dict[int, dict[str, float]]:
    """Per step, the ratios of the weight matrices, as the live monitor takes them."""
    matrices = [i for i, name in enumerate(table.rows) if not is_vector(name)]
    by_step = {}
    for step, row in zip(table.steps.tolist(), table.values, strict=True):
        by_step[step] = {table.rows[i]: float(row[i]) for i in matrices if np.isfinite(row[i])}
    return by_step


_VECTOR = re.compile(r"(.*[._])?(\w*bias|b|beta|gamma|(\w*norm|ln|bn)\w*\.(weight|scale))", re.IGNORECASE)


def is_vector(name: str) -> bool:
    """Whether a tensor is a bias or a norm's scale, by its name: a log without records does not tell the shapes.

    Vectors start at 0 or 1: a bias moves by any multiple of its norm.

    Example:
        >>> [is_vector(name) for name in ("mlp.2.bias", "attn.in_proj_bias", "norm1.weight", "ln_f.weight", "mlp.2.weight")]
        [True, True, True, True, False]
    """
    return _VECTOR.fullmatch(name) is not None
