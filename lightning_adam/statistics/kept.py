"""The same pass as the last logged step's: what did not change since then is neither read nor built again.

For torch's Adam and AdamW, which keep m, v and t in the same tensors from step to step: reading 300 tensors one by one in
Python takes longer than the pass over their elements. Whatever has changed (a tensor, a group, which of them have a
gradient) sends the caller back to :func:`~lightning_adam.statistics.read_optimizer`.
"""

from __future__ import annotations

import operator
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from lightning_adam.moments import resting_state
from lightning_adam.statistics import kernel
from lightning_adam.statistics.columns import Columns
from lightning_adam.statistics.raw import empty_table
from lightning_adam.statistics.reading import TensorReading, read_one_of_each_group
from lightning_adam.statistics.snapshot import NOTHING, Beside, Snapshot, snapshot_of

Places = NDArray[np.uint64]


@dataclass(frozen=True)
class KeptPass:
    """The pass over one optimizer's tensors, kept between two logged steps.

    Attributes:
        optimizer, only: as :func:`~lightning_adam.statistics.read_optimizer` got them.
        placed, idle: all parameters, in the order of the groups, and whether each has no gradient.
        order: which of them have a gradient, in model order.
        state: m, v and t of these.
        steps: t of each of these, [] in the memory of ``state``.
        places: where their θ, m and v begin, [3, n_tensors].
        examples: one of them for each group, by the group's number.
        groups: for each of them, which example is of its group, [n_tensors].
        columns, tasks: of the last step.
    """

    optimizer: Optimizer
    only: Container[int] | None
    placed: Sequence[Tensor]
    idle: Sequence[bool]
    order: Sequence[int]
    state: tuple[list[Tensor], ...]
    steps: Sequence[NDArray[np.float32]]
    places: Places
    examples: Mapping[int, Tensor]
    groups: NDArray[np.int64]
    columns: Columns
    tasks: NDArray[Any]

    @classmethod
    def of(
        cls,
        optimizer: Optimizer,
        names: Mapping[int, str],
        readings: Sequence[TensorReading],
        only: Container[int] | None = None,
    ) -> KeptPass | None:
        """To be kept after these readings, or None where the next step's cannot be had like this.

        Args:
            optimizer: right after the step that was read.
            names: as it was read.
            readings: all that was read.
            only: as it was read.
        """
        members = _placed(optimizer, only)
        placed = [p for group in members for p in group]
        order = _model_order(placed, names)
        rows = [placed[index] for index in order]
        state = resting_state(optimizer, rows)
        if state is None or not _are_of(readings, rows, state):
            return None
        numbers = np.repeat(np.arange(len(members)), list(map(len, members)))[order]
        found, first, groups = np.unique(numbers, return_index=True, return_inverse=True)
        examples = {number: rows[row] for number, row in zip(found.tolist(), first.tolist(), strict=True)}
        columns, steps = Columns.of(readings), [step.numpy() for step in state[2]]
        tasks = kernel.tasks_of(columns, np.arange(len(rows)))
        places = _places(rows, *state[:2])
        idle = [p.grad is None for p in placed]
        return cls(optimizer, only, placed, idle, order, state, steps, places, examples, groups, columns, tasks)

    def snapshot(self, step: int, beside: Beside = NOTHING) -> Snapshot | None:
        """This step's snapshot, or None where something has changed.

        Args:
            step: on the log's x-axis; the optimizer has just taken it.
            beside: numbers that are wanted with it.
        """
        gradients = self._gradients()
        if gradients is None:
            return None
        columns = self._columns_now()
        tasks = self._tasks_now(columns, gradients)
        table = empty_table(columns.sampling, torch.device("cpu"))
        done = kernel.run(tasks, np.arange(len(tasks)), table)
        return snapshot_of(step, columns, table, beside) if done else None

    def _gradients(self) -> list[Tensor] | None:
        """In model order, if all tensors are those of the last time, where they were."""
        placed = [p for members in _placed(self.optimizer, self.only) for p in members]
        gradients = [p.grad for p in placed]
        if not (_same(placed, self.placed) and [g is None for g in gradients] == self.idle):
            return None
        rows = [placed[index] for index in self.order]
        found = [g for index in self.order if (g := gradients[index]) is not None]
        state = resting_state(self.optimizer, rows)
        if state is None or not all(map(_same, state, self.state)):
            return None
        still = np.array_equal(_places(rows, *state[:2]), self.places)
        return found if still and all(map(kernel.is_plain, found, self.columns.numel.tolist())) else None

    def _columns_now(self) -> Columns:
        """With this step's numbers of each group, read from one of its tensors, and each tensor's t."""
        groups = Columns.of(read_one_of_each_group(self.optimizer, self.examples))
        names = ("lr", "eps", "decay", "beta1", "beta2", "decoupled")
        numbers = {name: getattr(groups, name)[self.groups] for name in names}
        steps = np.array([step.item() for step in self.steps])
        return replace(self.columns, rates=groups.rates, step=steps, **numbers)

    def _tasks_now(self, columns: Columns, gradients: Sequence[Tensor]) -> NDArray[Any]:
        tasks = self.tasks.copy()
        parameters, first, second = self.places
        tasks["places"] = np.stack([parameters, _begins(gradients), first, second, second], axis=1)
        for name in ("lr", "eps", "first_scale", "second_scale"):
            tasks[name] = getattr(columns, name)
        return tasks


def _placed(optimizer: Optimizer, only: Container[int] | None) -> list[list[Tensor]]:
    """The parameters that are looked at, by group."""
    return [[p for p in group["params"] if only is None or id(p) in only] for group in optimizer.param_groups]


def _model_order(placed: Sequence[Tensor], names: Mapping[int, str]) -> list[int]:
    """Of those with a gradient, as :func:`~lightning_adam.statistics.read_optimizer` sorts them."""
    rank = {key: index for index, key in enumerate(names)}
    chosen = [index for index, p in enumerate(placed) if p.grad is not None and p.numel()]
    return sorted(chosen, key=lambda index: rank.get(id(placed[index]), len(rank)))


def _are_of(readings: Sequence[TensorReading], rows: Sequence[Tensor], state: tuple[list[Tensor], ...]) -> bool:
    """Whether the kernel can read these, and they are of these tensors."""
    if kernel.load() is None or not all(step.is_cpu and type(step) is Tensor for step in state[2]):
        return False
    read = [(at[0], at[2], at[3], at[4]) for at in map(kernel.places, readings) if at is not None]
    own = [(p, m, v, v) for p, m, v in zip(*_places(rows, *state[:2]).tolist(), strict=True)]
    return len(read) == len(readings) and read == own


def _places(*tensors: Sequence[Tensor]) -> Places:
    return np.array([_begins(several) for several in tensors], dtype=np.uint64)


def _begins(tensors: Sequence[Tensor]) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


def _same(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(some) == len(others) and all(map(operator.is_, some, others))
