"""Which cells of a heatmap lie outside of what the diagnosis allows, and how far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_adam.tensorboard.names import ABSENT, is_vector
from lightning_adam.tensorboard.tab.limits import EARLY_STEPS, Band, planned_share, usual
from lightning_adam.tensorboard.tab.tiles import Matrix

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]
Rates = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Steps and learning rates as logged."""

OVERVIEW = "all_limits"
"""The quantity that shows, of every cell, the judged quantity that lies farthest outside its band."""
GRADIENT, AGREEMENT, RATIO = "gradient_norm", "signal_to_noise", "update_ratio"
EXACT = 1e-5
NOTHING = Matrix.stack([])
"""A quantity that was not logged."""


@dataclass(frozen=True)
class Judge:
    """What it takes to judge one optimizer's matrices.

    Attributes:
        bands: of the judged quantities.
        names: of the tensors.
        rates: steps and learning rates as logged, or None.
        planned: whether the schedule's decay is divided out.
    """

    bands: Mapping[str, Band]
    names: Sequence[str]
    rates: Rates | None = None
    planned: bool = True

    def needed(self, quantity: str) -> list[str]:
        """The quantities that it takes to judge one."""
        judged = [*self.bands] if quantity == OVERVIEW else [quantity]
        return list(dict.fromkeys([*judged, GRADIENT, AGREEMENT]))

    def judge(self, quantity: str, matrices: Mapping[str, Matrix]) -> Matrix:
        """The quantity with its excess; the quantity itself where no rule judges it."""
        if quantity == OVERVIEW:
            return self._overview(matrices)
        matrix = matrices.get(quantity, NOTHING)
        band = self.bands.get(quantity)
        if band is None or not len(matrix.steps):
            return matrix
        gradients = matrices.get(GRADIENT, NOTHING).at(matrix.steps).values
        if quantity == GRADIENT:
            matrix = Matrix(matrix.steps, np.where(gradients == ABSENT, np.float32(np.nan), gradients))
        shown = self._shown(band, matrix)
        excess = self._excess(quantity, band, shown, matrix)
        agrees = matrices.get(AGREEMENT, NOTHING).at(matrix.steps).values
        if agrees.shape == excess.shape:
            excess[(excess < 0) & (agrees < band.agree)] = 0
        excess[not_finite(gradients, excess.shape)] = np.nan
        return Matrix(matrix.steps, shown, excess)

    def ends(self, row: int, step: int, matrices: Mapping[str, Matrix]) -> list[tuple[float, str]]:
        """Of the update ratio, as it is logged, the limits that hold for a tensor at a logged step, with whose they are."""
        band, ratios, at = self.bands[RATIO], matrices.get(RATIO, NOTHING), np.array([step])
        tensors = ratios.values.shape[1]
        if not row < tensors or not self._matrices(tensors)[row] or begins_at_zero(ratios.values)[row]:
            return []
        share = float(self._shares(at)[0])
        if step < EARLY_STEPS:
            return [(band.early * share, band.over[-1])]
        agrees = matrices.get(AGREEMENT, NOTHING).at(at).values[0, row : row + 1]
        low = [] if len(agrees) and agrees[0] < band.agree else [(band.low * share, band.under[0])]
        return [*low, (band.high * share, band.over[0])]

    def judges_matrix(self, row: int) -> bool:
        """Whether a tensor's steps are judged as those of a weight matrix."""
        return row < len(self.names) and bool(self._matrices(len(self.names))[row])

    def _shares(self, steps: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of the planned rate, at these steps; 1 where it is not known or not divided out."""
        if not self.planned or self.rates is None or not len(self.rates[0]):
            return np.ones(len(steps))
        return np.interp(steps, self.rates[0], planned_share(self.rates[1]))

    def _overview(self, matrices: Mapping[str, Matrix]) -> Matrix:
        """Of every cell the quantity that is farthest outside; inside of all of them, the first."""
        judged = [self.judge(name, matrices) for name in self.bands]
        base = judged[0]
        aligned = [matrix.at(base.steps) for matrix in judged]
        key = np.stack([np.nan_to_num(np.abs(m.excess), nan=2.0) for m in aligned if m.excess is not None])
        if not key.size:
            return base
        worst = key.argmax(axis=0)
        values, excess = (
            np.take_along_axis(np.stack(planes), worst[None], axis=0)[0]
            for planes in ([m.values for m in aligned], [m.excess for m in aligned if m.excess is not None])
        )
        return Matrix(base.steps, values, excess, worst.astype(np.float32))

    def _shown(self, band: Band, matrix: Matrix) -> Floats:
        """What is compared with the band: the value, at the planned rate or in multiples of what is usual."""
        with np.errstate(divide="ignore", invalid="ignore"):
            if band.usual:
                return matrix.values / usual(matrix.steps, matrix.values)
            if band.planned:
                return (matrix.values / self._shares(matrix.steps)[:, None]).astype(np.float32)
        return matrix.values

    def _excess(self, quantity: str, band: Band, shown: Floats, matrix: Matrix) -> Floats:
        """0 where nothing is judged."""
        excess = np.nan_to_num(band.excess(matrix.steps, shown), nan=0.0)
        if band.matrices:
            excess[:, ~self._matrices(matrix.values.shape[1])] = 0
        if band.planned:
            excess[:, begins_at_zero(matrix.values)] = 0
        if quantity == GRADIENT:
            excess[(matrix.values == 0) & self._matrices(matrix.values.shape[1])] = -1
        return excess

    def _matrices(self, tensors: int) -> Flags:
        """Which rows are weight matrices, by their names; a tensor without one may be."""
        known = [not is_vector(name) for name in self.names[:tensors]]
        flags = np.array(known + [True] * (tensors - len(known)), dtype=bool)
        return flags if flags.any() else ~flags


def begins_at_zero(ratios: Floats) -> Flags:
    """Tensors whose first step is all that they are: they began at zero on purpose, and their ratio says nothing."""
    first: Flags = np.abs(ratios[0] - 1) < EXACT
    return first


def not_finite(gradients: Floats, shape: tuple[int, ...]) -> Flags:
    """Cells whose gradient is infinite or NaN; a tensor that came in later, as one unfrozen, has NaN before, and one that a
    step has not has ABSENT."""
    if gradients.shape != shape:
        return np.zeros(shape, dtype=bool)
    finite = np.isfinite(gradients)
    there = np.maximum.accumulate(finite, axis=0) | ~finite.any(axis=1, keepdims=True)
    flags: Flags = (np.isinf(gradients) | (~finite & there)) & (gradients != ABSENT)
    return flags
