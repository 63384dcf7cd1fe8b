"""Whether the target is part of the input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_adam.preflight.batches import leaves, mapped
from lightning_adam.preflight.step import Step, predict
from lightning_adam.preflight.task import Task, kept, mode

FEWEST, WIDEST, MOST_CATEGORIES, MOST_NUMBERS = 64, 4096, 8, 64
"""Samples below which columns may look alike by chance, numbers of a sample above which it is a picture, categories of a
sample above which they are a sequence, whose entry may well be what is to be remembered, but for the last one, and the most
numbers of a target that are looked for one by one."""


def leaks(task: Task, step: Step, inputs: dict[str, list[Tensor]], targets: list[Tensor]) -> dict[str, list[str]]:
    """By path of the input, the places at which it has the target, where the prediction hangs on them."""
    if not step.target or not targets:
        return {}
    if sum(t.numel() for t in targets) != sum(len(t) for t in targets if t.dim()):
        return _several(task, step, inputs, targets)
    target = torch.cat([t.flatten() for t in targets]).double()
    if len(target) < FEWEST or _is_nearly_constant(target) or _are_two_points(target):
        return {}
    if sum(tensors[0][0].numel() for tensors in inputs.values() if tensors[0].dim()) < 2:
        return {}  # all of the input is to be told again
    found = {path: _columns(tensors, target) for path, tensors in inputs.items()}
    seen = {
        path: _names(inputs[path], columns)
        for path, columns in found.items()
        if columns and _matters(task, step, path, columns)
    }
    return seen or _in_layers(step)


def _several(task: Task, step: Step, inputs: dict[str, list[Tensor]], targets: list[Tensor]) -> dict[str, list[str]]:
    """Of several numbers of a sample, such as a window of a series, all are among those of an input that has more."""
    if any(not t.is_floating_point() or t.dim() != 2 or t.shape[1:] != targets[0].shape[1:] for t in targets):
        return {}
    told = torch.cat(targets).double()
    if len(told) < FEWEST or told.shape[1] > MOST_NUMBERS or bool((told.std(0) == 0).any()):
        return {}
    for path, tensors in inputs.items():
        width = tensors[0][0].numel() if tensors[0].dim() else 0
        found = [_columns(tensors, column) for column in told.unbind(1)] if width > told.shape[1] else []
        if found and all(found) and _matters(task, step, path, [column for columns in found for column in columns]):
            return {path: _names(tensors, [columns[0] for columns in found])}
    return {}


def _in_layers(step: Step) -> dict[str, list[str]]:
    """What the first layers get, where the step has put it together: one batch is enough for values that are no classes."""
    target = dict(leaves(step.given)).get(step.target)
    if target is None or not target.is_floating_point() or target.numel() != step.samples or len(torch.unique(target)) < 16:
        return {}
    floats = [e.values for e in step.trace.entries if e.values.dim() == 2 and e.values.is_floating_point()]
    wide = [values for values in floats if values.shape[1] > 1 and len(values) == len(target)]
    found = (_names([values], _columns([values], target.flatten().double())) for values in wide)
    places = next((places for places in found if places), [])
    return {"of the first layer": places} if places else {}


def _is_nearly_constant(target: Tensor) -> bool:
    shares = torch.unique(target, return_counts=True)[1].double() / len(target)
    return float(-(shares * shares.log()).sum()) < 0.1


def _are_two_points(target: Tensor) -> bool:
    """Any two numbers lie on a line, such as what is given at both ends of a range; two classes are whole numbers."""
    return len(torch.unique(target)) < 3 and bool((target != target.round()).any())


def _columns(tensors: list[Tensor], target: Tensor) -> list[int]:
    """Where a sample's numbers are the target's, up to unit and sign, or are 1 where the target is a certain class."""
    if any(t.dim() == 0 or t.shape[1:] != tensors[0].shape[1:] for t in tensors) or sum(map(len, tensors)) != len(target):
        return []
    shape, width = tensors[0].shape[1:], tensors[0][0].numel()
    if not 1 <= width <= WIDEST:
        return []
    columns = torch.cat(tensors).flatten(1).double() if shape else torch.cat(tensors)[:, None].double()
    if not tensors[0].is_floating_point() and width > MOST_CATEGORIES:  # a window that is cut one place too late
        return [width - 1] if bool(_on_a_line(columns[:, -1:], target)) else []
    same: list[int] = _on_a_line(columns, target).nonzero().flatten().tolist()
    return same or _one_hot(columns, target)


def _names(tensors: list[Tensor], columns: list[int]) -> list[str]:
    return [_place(column, tensors[0].shape[1:]) for column in columns]


def _place(index: int, shape: torch.Size) -> str:
    """Where it stands in a sample: ``column 3``, or ``[5, 2]`` of several dimensions."""
    if len(shape) < 2:
        return f"column {index}"
    return str([int(i) for i in torch.unravel_index(torch.tensor(index), shape)])


def _on_a_line(columns: Tensor, target: Tensor) -> Tensor:
    """Which columns are the target times a number, plus a number, up to float32's rounding."""
    away, far = columns - columns.mean(0), target - target.mean()
    likeness: Tensor = (away * far[:, None]).sum(0) / (away.square().sum(0) * far.square().sum()).sqrt()
    return likeness.abs() > 1 - 1e-9


def _one_hot(columns: Tensor, target: Tensor) -> list[int]:
    """A column for each class; empty where any is missing."""
    classes = torch.unique(target)
    if not 2 < len(classes) <= columns.shape[1] or bool((target != target.round()).any()):
        return []
    of_class = F.one_hot(torch.searchsorted(classes, target), len(classes)).double()
    hits = [_on_a_line(columns, one).nonzero().flatten().tolist() for one in of_class.unbind(1)]
    return [hit[0] for hit in hits] if all(hits) else []


def _matters(task: Task, step: Step, path: str, columns: list[int]) -> bool:
    """Whether the prediction changes when these numbers come from another sample: a batch may well have them for a loss."""
    if step.prediction < 0:
        return True
    batch = task.usable()[0]
    chosen = dict(leaves(batch)).get(path)

    def roll(part: Any) -> Any:
        if not isinstance(part, Tensor) or part is not chosen:
            return part
        mixed = part.clone().reshape(len(part), -1)
        mixed[:, columns] = mixed[:, columns].roll(1, 0)
        return mixed.reshape(part.shape)

    with mode(task.module, training=False), kept(task.module):
        before, after = predict(task, batch, step.prediction), predict(task, mapped(batch, roll), step.prediction)
    return before is None or after is None or not torch.equal(before, after)
