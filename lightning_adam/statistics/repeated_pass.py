"""The same pass as the last logged step's: what did not change since then is neither read nor built again.

For torch's Adam and AdamW, which keep m, v and t in the same tensors from step to step: reading 300 tensors one by one in
Python takes longer than the pass over their elements. Whatever has changed (a tensor, a group, which of them have a
gradient) sends the caller back to :func:`~lightning_adam.statistics.read_optimizer`.
"""

from __future__ import annotations

import operator
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from lightning_adam.moments import resting_state
from lightning_adam.statistics.columns import Columns
from lightning_adam.statistics.measure import ENGINES
from lightning_adam.statistics.raw import RawTable, empty_table
from lightning_adam.statistics.reading import TensorReading, read_one_of_each_group
from lightning_adam.statistics.snapshot import NOTHING, ExtraScalars, Snapshot, snapshot_of

Places = NDArray[np.uint64]

WRONG = "wrong steps"
"""A number that travels with the table of a GPU: by how much the expected t is wrong."""


class RepeatedRows(NamedTuple):
    """One pass over all tensors, on the host.

    Attributes:
        columns: of this step.
        raw: what was added up.
        extra_scalars: that were wanted with it.
        gradients: of all tensors, in model order.
    """

    columns: Columns
    raw: RawTable
    extra_scalars: dict[str, float]
    gradients: list[Tensor]


@dataclass
class RepeatedPass:
    """The pass over one optimizer's tensors, kept between two logged steps.

    Attributes:
        optimizer, only: as :func:`~lightning_adam.statistics.read_optimizer` got them.
        placed, idle: all parameters, in the order of the groups, and whether each has no gradient.
        order: which of them have a gradient, in model order.
        state: m, v and t of these.
        dtypes: of θ, gradient, m and v of each.
        places: where their θ, m and v begin, [3, n_tensors].
        examples: one of them for each group, by the group's number.
        groups: for each of them, which example is of its group, [n_tensors].
        columns: of the step that was read.
        steps: t of each of these, in the memory of ``state``, where they are kept on the host; else empty.
        counted: t of each of these at the step that was read, where they are kept on a GPU; else None.
        calls: steps since then, for the optimizer's hook to count.
    """

    optimizer: Optimizer
    only: Container[int] | None
    placed: Sequence[Tensor]
    idle: Sequence[bool]
    order: Sequence[int]
    state: tuple[list[Tensor], ...]
    dtypes: Sequence[tuple[torch.dtype, ...]]
    places: Places
    examples: Mapping[int, Tensor]
    groups: NDArray[np.int64]
    columns: Columns
    steps: Sequence[NDArray[np.float32]]
    counted: Tensor | None
    calls: int = 0

    @classmethod
    def of(
        cls,
        optimizer: Optimizer,
        names: Mapping[int, str],
        readings: Sequence[TensorReading],
        only: Container[int] | None = None,
        is_sampled: bool = True,
    ) -> RepeatedPass | None:
        """To be kept after these readings, or None where the next step's cannot be had like this.

        Args:
            optimizer: right after the step that was read.
            names: as it was read.
            readings: all that was read.
            only: as it was read.
            is_sampled: as in :class:`Columns`.
        """
        members = _parameters_by_group(optimizer, only)
        placed = [p for group in members for p in group]
        order = _model_order(placed, names)
        rows = [placed[index] for index in order]
        state = resting_state(optimizer, rows)
        if state is None or not _can_be_repeated(readings, rows, state):
            return None
        numbers = np.repeat(np.arange(len(members)), list(map(len, members)))[order]
        found, first, groups = np.unique(numbers, return_index=True, return_inverse=True)
        examples = {number: rows[row] for number, row in zip(found.tolist(), first.tolist(), strict=True)}
        idle, places = [p.grad is None for p in placed], _places(rows, *state[:2])
        on_host = _are_on_host(state[2])
        steps, counted = ([t.numpy() for t in state[2]], None) if on_host else ([], torch.stack(state[2]))
        columns = Columns.of(readings, is_sampled)
        dtypes = [(p.dtype, p.dtype, m.dtype, v.dtype) for p, m, v in zip(rows, *state[:2], strict=True)]
        return cls(optimizer, only, placed, idle, order, state, dtypes, places, examples, groups, columns, steps, counted)

    def snapshot(self, step: int, extra_scalars: ExtraScalars = NOTHING) -> Snapshot | None:
        """This step's snapshot, or None where something has changed.

        Args:
            step: on the log's x-axis; the optimizer has just taken it.
            extra_scalars: numbers that are wanted with it.
        """
        found = self.rows(extra_scalars)
        return None if found is None else snapshot_of(step, found.columns, found.raw, found.extra_scalars)

    def rows(self, extra_scalars: ExtraScalars = NOTHING) -> RepeatedRows | None:
        """What :meth:`snapshot` is made of."""
        gradients = self._gradients()
        if gradients is None:
            return None
        parameters, first, second = self.places
        places = np.stack([parameters, np.array(_begins(gradients), dtype=np.uint64), first, second, second])
        columns, device = self._columns_now(), gradients[0].device
        table = empty_table(columns.sampling, device)
        if not ENGINES[device.type].repeat(columns, places, self.dtypes, table):
            return None
        raw, numbers = table.on_host({**extra_scalars, **self._wrong_steps()})
        is_right = numbers.pop(WRONG, 0.0) == 0.0
        return RepeatedRows(columns, raw, numbers, gradients) if is_right else None

    def _gradients(self) -> list[Tensor] | None:
        """In model order, if all tensors are those of the last time, where they were."""
        placed = [p for members in _parameters_by_group(self.optimizer, self.only) for p in members]
        gradients = [p.grad for p in placed]
        if not (_same(placed, self.placed) and [g is None for g in gradients] == self.idle):
            return None
        rows = [placed[index] for index in self.order]
        found = [g for index in self.order if (g := gradients[index]) is not None]
        state = resting_state(self.optimizer, rows)
        if state is None or not all(map(_same, state, self.state)):
            return None
        still = np.array_equal(_places(rows, *state[:2]), self.places)
        return found if still and all(map(_is_like, found, rows)) else None

    def _columns_now(self) -> Columns:
        """With this step's numbers of each group, read from one of its tensors, and each tensor's t."""
        steps = self._steps_now()
        at = {id(self.placed[index]): int(step) for index, step in zip(self.order, steps.tolist(), strict=True)}
        groups = Columns.of(read_one_of_each_group(self.optimizer, self.examples, at))
        names = ("lr", "eps", "decay", "beta1", "beta2", "decoupled")
        numbers = {name: getattr(groups, name)[self.groups] for name in names}
        return replace(self.columns, rates=groups.rates, step=steps, **numbers)

    def _steps_now(self) -> NDArray[np.float64]:
        """t of each tensor; where a GPU keeps it, as it must be if every call of the optimizer has counted it up."""
        if self.counted is None:
            return np.array([step.item() for step in self.steps])
        return self.columns.step + self.calls

    def _wrong_steps(self) -> dict[str, Tensor]:
        if self.counted is None:
            return {}
        return {WRONG: torch.stack(self.state[2]).sub(self.counted).sub(self.calls).abs().max()}


def _parameters_by_group(optimizer: Optimizer, only: Container[int] | None) -> list[list[Tensor]]:
    """The parameters that are looked at, by group."""
    return [[p for p in group["params"] if only is None or id(p) in only] for group in optimizer.param_groups]


def _model_order(placed: Sequence[Tensor], names: Mapping[int, str]) -> list[int]:
    """Of those with a gradient, as :func:`~lightning_adam.statistics.read_optimizer` sorts them."""
    rank = {key: index for index, key in enumerate(names)}
    chosen = [index for index, p in enumerate(placed) if p.grad is not None and p.numel()]
    return sorted(chosen, key=lambda index: rank.get(id(placed[index]), len(rank)))


def _can_be_repeated(readings: Sequence[TensorReading], rows: Sequence[Tensor], state: tuple[list[Tensor], ...]) -> bool:
    """Whether a pass over these can be repeated, and they are of these tensors."""
    device = rows[0].device if rows else torch.device("meta")
    engine = ENGINES.get(device.type)
    if engine is None or engine.load() is None or not all(type(step) is Tensor for step in state[2]):
        return False
    if not all(engine.fits(reading, device) for reading in readings):
        return False
    moments = [m for reading in readings if (m := reading.moments) is not None]
    read = [(r.parameter for r in readings), (m.first for m in moments), (m.second for m in moments)]
    return [_begins([t for t in several if t is not None]) for several in read] == _places(
        rows, *state[:2]
    ).tolist() and all(m.second is m.denominator for m in moments)


def _are_on_host(steps: Sequence[Tensor]) -> bool:
    """Where torch's optimizers keep t, unless they are fused or capturable on a GPU."""
    return all(step.is_cpu for step in steps)


def _is_like(gradient: Tensor, parameter: Tensor) -> bool:
    """Whether its elements lie as the parameter's, one after the other, on the same device."""
    return (
        type(gradient) is Tensor
        and gradient.dtype is parameter.dtype
        and gradient.layout is torch.strided
        and gradient.is_contiguous()
        and gradient.get_device() == parameter.get_device()
    )


def _places(*tensors: Sequence[Tensor]) -> Places:
    return np.array([_begins(several) for several in tensors], dtype=np.uint64)


def _begins(tensors: Sequence[Tensor]) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


def _same(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(some) == len(others) and all(map(operator.is_, some, others))
