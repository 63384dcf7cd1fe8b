"""The gradients of the first batches, and what is left of their zeros after a few steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from lightning_adam.preflight.recorder import Recorder
from lightning_adam.preflight.step import EMBEDDINGS
from lightning_adam.preflight.task import Task, gradients, kept, own_hook

BATCHES = 4
ACCUMULATED = 8
"""Batches within which one who accumulates by hand steps and clears."""
SECOND_LOOK = 5
"""Adam steps after which a zero-initialised branch lets gradients through."""


@dataclass
class Gradients:
    """Of the trainable tensors, by name.

    Attributes:
        norms: the largest norm over the batches; 0 where every gradient was exactly zero, also after the second look.
        first: the same before the second look.
        rms: of one element, in the last batch.
        absent: those that never got one.
        totals: norm of all together, per batch.
        symmetric: matrices of which all rows and all rows' gradients are equal.
        twins: matrices that have the values and the gradient of another one.
        dead: per ReLU its place, and the share of its units that gave only zeros.
        piled_up: whether gradients were still there after the module's own way of clearing them.
    """

    norms: dict[str, float] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    rms: dict[str, float] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    totals: list[float] = field(default_factory=list)
    symmetric: list[str] = field(default_factory=list)
    twins: list[str] = field(default_factory=list)
    dead: list[tuple[str, float, int]] = field(default_factory=list)
    piled_up: bool = False

    @property
    def total(self) -> float:
        """Norm of a usual batch."""
        return median(self.totals) if self.totals else math.nan


def measure(task: Task) -> Gradients:
    """Four batches; five steps of Adam and four more where some gradients are zero."""
    names = list(task.trainable())
    found = Gradients(absent=set(names))
    masks = _look(task, names, found)
    found.first = dict(found.norms)
    if any(found.norms.get(name) == 0 for name in names) or any(float(m.double().mean()) > 0.8 for _, m in masks):
        with kept(task.module):
            walk(task, names)
            masks = _overlap(masks, _look(task, names, found))
    found.dead = [(where, float(mask.double().mean()), mask.numel()) for where, mask in masks]
    found.piled_up = _piled_up(task)
    return found


def _look(task: Task, names: list[str], found: Gradients) -> list[tuple[str, Tensor]]:
    masks: list[tuple[str, Tensor]] | None = None
    batches = task.usable()[:BATCHES]
    for index in range(ACCUMULATED if task.manual else len(batches)):
        if index >= BATCHES and not found.absent:
            break  # by hand a generator may be trained at every fifth batch only
        with Recorder() as recorder:
            loss = task.loss(batches[index % len(batches)], index)
        if not loss.requires_grad or not bool(torch.isfinite(loss)):
            continue
        got = gradients(task, loss, names)
        _note(task, found, got)
        masks = recorder.record.dead if masks is None else _overlap(masks, recorder.record.dead)
    return masks or []


def _note(task: Task, found: Gradients, got: dict[str, Tensor | None]) -> None:
    present = {name: g.detach() for name, g in got.items() if g is not None}
    norms = {name: float(g.norm()) for name, g in present.items()}
    found.absent -= present.keys()
    for name, norm in norms.items():
        found.norms[name] = max(found.norms.get(name, 0.0), norm)
    found.rms |= {name: norm / math.sqrt(max(1, present[name].numel())) for name, norm in norms.items()}
    found.totals.append(math.sqrt(sum(norm * norm for norm in norms.values())))
    if not found.twins and not found.totals[1:]:
        found.twins = _twins(task.trainable(), present)
    if not found.symmetric:
        parameters = task.trainable()
        found.symmetric = [name for name, g in present.items() if _is_symmetric(parameters[name], g)]


def _twins(parameters: dict[str, nn.Parameter], gradients: dict[str, Tensor]) -> list[str]:
    """Matrices, not zero and not constant, of which another one has the values and the gradient."""
    alike: dict[tuple[Any, ...], list[str]] = {}
    for name, gradient in gradients.items():
        weight = parameters[name].detach()
        if weight.dim() > 1 and not gradient.is_sparse and bool(gradient.any()) and float(weight.float().std()) > 0:
            likeness = (tuple(weight.shape), float(weight.float().sum()), float(weight.float().norm()))
            alike.setdefault(likeness, []).append(name)
    first = {name: names[0] for names in alike.values() for name in names[1:]}
    same = {one: other for one, other in first.items() if _are_same(parameters, gradients, one, other)}
    return sorted({*same, *same.values()})


def _are_same(parameters: dict[str, nn.Parameter], gradients: dict[str, Tensor], one: str, other: str) -> bool:
    is_copy = torch.equal(parameters[one], parameters[other])
    return is_copy and torch.allclose(gradients[one], gradients[other], rtol=1e-4, atol=1e-7)


def _is_symmetric(weight: Tensor, gradient: Tensor) -> bool:
    """All units alike, in value and in gradient: no step can tell them apart. An LSTM has each unit four times, a GRU and
    attention three times, one block below the other. Queries, or slots, stand behind a dimension of one: all of them may be
    zero, if only their gradient is not, or any other constant."""
    if weight.dim() > 2 and weight.shape[0] == 1:
        return bool(gradient.any()) and _is_symmetric(weight[0], gradient[0])
    if weight.dim() < 2 or weight.shape[0] < 2 or weight.numel() <= 16 or gradient.is_sparse:
        return False
    if not _rows_equal(weight.detach()):
        return False
    blocks = [n for n in (1, 3, 4) if weight.shape[0] % n == 0 and weight.shape[0] > n]
    return any(all(_rows_equal(block) for block in gradient.chunk(n)) for n in blocks)


def _rows_equal(tensor: Tensor) -> bool:
    rows = tensor.flatten(1).float()
    return bool((rows - rows[:1]).abs().max() <= 1e-6 * rows.abs().max())


def _overlap(one: list[tuple[str, Tensor]], other: list[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    """Dead in both; where other calls were made, the first ones count."""
    if len(one) != len(other) or any(a.shape != b.shape for (_, a), (_, b) in zip(one, other, strict=True)):
        return one
    return [(where, a & b) for (where, a), (_, b) in zip(one, other, strict=True)]


def walk(task: Task, names: list[str]) -> None:
    """A few steps of Adam on these parameters, so that what begins at zero on purpose has left it."""
    parameters = [task.trainable()[name] for name in names]
    optimizer = Adam(parameters, lr=1e-3)
    batches = task.usable()[:BATCHES]
    for index in range(SECOND_LOOK):
        got = gradients(task, task.loss(batches[index % len(batches)], index), names)
        for parameter, gradient in zip(parameters, got.values(), strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad()


def _piled_up(task: Task) -> bool:
    held = [p for o in task.optimizers for group in o.param_groups for p in group["params"] if p.requires_grad]
    before = [(p, p.grad) for p in held]
    try:
        return _manual_pile(task) if task.manual else _automatic_pile(task, held)
    finally:
        for parameter, gradient in before:
            parameter.grad = gradient


def _automatic_pile(task: Task, held: list[Tensor]) -> bool:
    """Who accumulates by hand clears on one of some batches."""
    clear = getattr(task.module, "optimizer_zero_grad", None)
    if clear is None or len(task.optimizers) != 1:
        return False
    steps_always = task.trainer.accumulate_grad_batches == 1 and own_hook(task.module, "optimizer_step") is None
    left = []
    for index in range(ACCUMULATED):
        if index == 0 or steps_always:
            for parameter in held:
                parameter.grad = torch.ones_like(parameter)
        clear(0, index, task.optimizers[0])
        left.append(any(p.grad is not None and bool(p.grad.any()) for p in held))
    return any(left) if steps_always else left[-1]


def _manual_pile(task: Task) -> bool:
    """From one step to the next: gradients of twice the size, though the first step was taken between."""
    parameters = list(task.trainable().values())
    for parameter in parameters:
        parameter.grad = None
    indices = iter(range(2 * ACCUMULATED))
    stepped = _backward_until_step(task, indices)
    once = {p: p.grad.clone() for p in parameters if p.grad is not None and bool(p.grad.any())}
    again = _backward_until_step(task, indices)
    growths = [_growth(optimizer, once) for optimizer in again if optimizer in stepped]
    for parameter in parameters:
        parameter.grad = None
    return any(growth > 1.9 for growth in growths)


def _growth(optimizer: Optimizer, once: dict[nn.Parameter, Tensor]) -> float:
    """How many times as large the gradients are that this optimizer steps on; 0 where it has none."""
    mine = [p for group in optimizer.param_groups for p in group["params"] if p in once and p.grad is not None]
    return median(float(p.grad.norm() / once[p].norm()) for p in mine) if mine else 0.0


def _backward_until_step(task: Task, indices: Iterator[int]) -> list[Optimizer]:
    """Who steps first, on the same batch under the next indices: the module may accumulate by hand."""
    batch = task.usable()[0]
    task.events.clear()
    for index in islice(indices, ACCUMULATED):
        task.loss(batch, index, backward=True)
        if stepped := [optimizer for _, optimizer in task.events if optimizer is not None]:
            return stepped
    return []


def matrices(task: Task) -> dict[str, nn.Parameter]:
    """Trainable tensors of two or more dimensions that are no embedding."""
    tables = {id(p) for m in task.module.modules() if isinstance(m, EMBEDDINGS) for p in m.parameters()}
    return {name: p for name, p in task.trainable().items() if p.dim() > 1 and id(p) not in tables}
