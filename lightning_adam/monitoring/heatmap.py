"""What the heatmap is drawn from: one quantity of all tensors over the whole run, thinned out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_adam.diagnosis import Finding
from lightning_adam.diagnosis.stored import is_list_of
from lightning_adam.errors import say_left_out
from lightning_adam.statistics import Snapshot

HEATMAP_COLUMNS = 512
Column = np.ndarray[Any, np.dtype[Any]]
"""A number of each tensor at one step."""


class Heatmap:
    """The update ratios of all tensors over the whole run, thinned out to at most 512 steps.

    Attributes:
        steps: the logged steps, ascending.
        names: the tensors, in model order.
        rates: the largest learning rate at each of the steps; NaN of those that an older checkpoint brought.
        beta1: of the optimizer; NaN where it has none.
        findings: on the optimizer so far; None where nobody watches it.
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.names: list[str] = []
        self.rates: list[float] = []
        self.beta1 = math.nan
        self.findings: list[Finding] | None = None
        self._columns: list[Column] = []
        self._agreement: list[Column] = []
        self._stride, self._seen, self._due = 1, 0, 8

    def add(self, snapshot: Snapshot) -> None:
        """One more column; tensors that are new (unfrozen in mid-run) start the picture anew."""
        if snapshot.names != self.names:
            self.steps, self.rates, self._columns, self._agreement = [], [], [], []
            self.names = list(snapshot.names)
        if self._seen % self._stride == 0:
            self.steps.append(snapshot.step)
            self.rates.append(max(snapshot.lr.values(), default=math.nan))
            self._columns.append(snapshot.column("update_ratio").copy())
            self._agreement.append(snapshot.column("signal_to_noise").astype(np.float16))
        self._seen += 1
        if len(self.steps) > HEATMAP_COLUMNS:
            self._thin()

    def _thin(self) -> None:
        self.steps, self.rates, self._stride = self.steps[::2], self.rates[::2], self._stride * 2
        self._columns, self._agreement = self._columns[::2], self._agreement[::2]

    def is_due(self) -> bool:
        """True at 8 logged steps, and each time that they have grown by a quarter: about 20 pictures in a run."""
        due = self._seen >= self._due
        if due:
            self._due = self._seen + max(1, self._seen // 4)
        return due

    def matrix(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """float32 [n_tensors, n_steps] of ‖Δθ‖/‖θ‖."""
        return np.stack(self._columns, axis=1)

    def agreement(self) -> np.ndarray[Any, np.dtype[np.float16]]:
        """float16 [n_tensors, n_steps] of the signal to noise: whether steps agree."""
        return np.stack(self._agreement, axis=1)

    def state_dict(self) -> dict[str, Any]:
        """Plain types and one tensor."""
        columns, agreement = (
            torch.from_numpy(np.stack(kept, axis=1)) if kept else torch.zeros(0, 0)
            for kept in (self._columns, self._agreement)
        )
        counters = [self._stride, self._seen, self._due]
        return {
            "steps": list(self.steps),
            "names": list(self.names),
            "columns": columns,
            "counters": counters,
            "rates": list(self.rates),
            "agreement": agreement,
        }

    @classmethod
    def restore(cls, stored: Mapping[str, Any]) -> Heatmap:
        """The inverse of :meth:`state_dict`; an empty one, and a line, where it is none."""
        heatmap = cls()
        if not _is_heatmap(stored):
            say_left_out("heatmap", ["all of it"])
            return heatmap
        heatmap.steps, heatmap.names = list(stored["steps"]), list(stored["names"])
        heatmap._columns = _columns_of(stored["columns"]) if heatmap.steps else []
        heatmap.rates, heatmap._agreement = _judged_by(stored, len(heatmap.steps))
        heatmap._stride, heatmap._seen, heatmap._due = stored["counters"]
        return heatmap


def _columns_of(matrix: Tensor) -> list[Column]:
    return list(matrix.numpy().T.copy())


def _judged_by(stored: Mapping[str, Any], count: int) -> tuple[list[float], list[Column]]:
    """Rates and agreement; not known in a checkpoint of a version that did not keep them."""
    rates, agreement = stored.get("rates"), stored.get("agreement")
    if isinstance(rates, list) and isinstance(agreement, Tensor) and is_list_of(float, rates):
        fits = len(rates) == count and agreement.shape == stored["columns"].shape
        return (list(rates), _columns_of(agreement) if count else []) if fits else _unknown(stored, count)
    return _unknown(stored, count)


def _unknown(stored: Mapping[str, Any], count: int) -> tuple[list[float], list[Column]]:
    unknown = np.full(len(stored["names"]), np.nan, dtype=np.float16)
    return [math.nan] * count, [unknown] * count


def _is_heatmap(stored: Any) -> bool:
    if not isinstance(stored, Mapping) or not {"steps", "names", "columns", "counters"} <= stored.keys():
        return False
    steps, names, columns, counters = (stored[name] for name in ("steps", "names", "columns", "counters"))
    typed = is_list_of(int, steps) and is_list_of(str, names) and isinstance(columns, Tensor)
    counted = is_list_of(int, counters) and len(counters) == 3 and min(counters) >= 0 < counters[0]
    return typed and counted and (columns.shape == (len(names), len(steps)) or not steps)
