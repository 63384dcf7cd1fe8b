"""What a diagnosis reads of all tensors of a step: no sample of their elements, so neither quantiles nor histograms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from lightning_adam.statistics.columns import Columns
from lightning_adam.statistics.finalise import read_by_rules
from lightning_adam.statistics.measure import measure
from lightning_adam.statistics.quantities import READ_BY_RULES
from lightning_adam.statistics.raw import RawTable
from lightning_adam.statistics.reading import Before, TensorReading, read_optimizer
from lightning_adam.statistics.repeated_pass import RepeatedPass

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RulesTable:
    """All tensors after one step, [n_tensors] each, in model order.

    Attributes:
        columns: what is known of them beside their elements.
        values: READ_BY_RULES by name, rounded to float32.
        parameters, gradients, firsts: the tensors; no gradient or first moment where there is none to be read.
        beta1, beta2, step: of the moments; NaN where there are none.
    """

    columns: Columns
    values: dict[str, Floats]
    parameters: Sequence[Tensor]
    gradients: Sequence[Tensor | None]
    firsts: Sequence[Tensor | None]
    beta1: Floats
    beta2: Floats
    step: Floats

    @classmethod
    def of(cls, readings: Sequence[TensorReading]) -> RulesTable:
        """Measured now."""
        columns = Columns.of(readings, is_sampled=_is_sampled(readings[0].parameter))
        values = _values(columns, measure(readings, columns).on_host({})[0])
        moments = [r.moments for r in readings]
        averages = [(math.nan,) * 3 if m is None else (m.beta1, m.beta2, m.step) for m in moments]
        firsts = [None if m is None else m.first for m in moments]
        tensors = [r.parameter for r in readings], [r.gradient for r in readings], firsts
        return cls(columns, values, *tensors, *np.array(averages, dtype=np.float64).T)


def _is_sampled(parameter: Tensor) -> bool:
    """On a GPU the sample is a part of launches that there are anyway."""
    return not parameter.is_cpu


def _values(columns: Columns, raw: RawTable) -> dict[str, Floats]:
    """By name."""
    return dict(zip(READ_BY_RULES, read_by_rules(columns, raw).astype(np.float64).T, strict=True))


class RulesPass:
    """The pass of one optimizer's diagnosis; what has not changed since the last one is not read again.

    Args:
        optimizer: itself, without wrappers.
        names: from :func:`tensor_names`.
    """

    def __init__(self, optimizer: Optimizer, names: Mapping[int, str]) -> None:
        self._optimizer, self._names = optimizer, names
        self._repeated: RepeatedPass | None = None

    def after_step(self) -> None:
        """The optimizer has taken a step."""
        if self._repeated is not None:
            self._repeated.calls += 1

    def forget(self) -> None:
        """Hold no tensor any more."""
        self._repeated = None

    def table(self, before: Before | None) -> RulesTable | None:
        """Of the step just taken; None where no tensor has moved.

        Args:
            before: copies, where the step is to be measured.
        """
        repeated, self._repeated = self._repeated, None
        again = _again(repeated) if repeated is not None and before is None else None
        if again is None:
            return self._anew(before)
        self._repeated = repeated
        return again

    def _anew(self, before: Before | None) -> RulesTable | None:
        readings = read_optimizer(self._optimizer, self._names, before)
        if not readings:
            return None
        is_sampled = _is_sampled(readings[0].parameter)
        self._repeated = RepeatedPass.of(self._optimizer, self._names, readings, is_sampled=is_sampled)
        return RulesTable.of(readings)


def _again(repeated: RepeatedPass) -> RulesTable | None:
    """None where something has changed."""
    found = repeated.rows()
    if found is None:
        return None
    columns, values = found.columns, _values(found.columns, found.raw)
    parameters = [repeated.placed[index] for index in repeated.order]
    averages = columns.beta1, columns.beta2, columns.step
    return RulesTable(columns, values, parameters, found.gradients, repeated.state[0], *averages)
