"""Whether a sequence's earlier outputs hang on its later entries, and whether its targets are its inputs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from lightning_adam.preflight.batches import same_values
from lightning_adam.preflight.recorder import CLASS_LOSSES
from lightning_adam.preflight.step import EMBEDDINGS, LAYERS, Entry, Step, predict
from lightning_adam.preflight.task import Task


def order(task: Task, step: Step, few: Any) -> tuple[float, bool]:
    """The change of earlier outputs with later inputs, and whether the targets are the inputs."""
    main = step.main
    if main is None or main.target is None:
        return math.nan, False
    calls: Counter[int] = Counter()
    for entry in (*step.trace.entries, *_nets(step)):
        calls[id(entry.layer)] += 1
        which = calls[id(entry.layer)] - 1
        for axis in (1, 2)[: entry.values.dim() - 1]:
            relation = _relation(entry.values.transpose(1, axis), main.target, main.name in CLASS_LOSSES)
            if relation == "next":
                return _leak(task, step, few, entry.layer, which, axis), False
            if relation == "same" and isinstance(entry.layer, EMBEDDINGS):
                return math.nan, _follows_own_place(task, step, few, entry.layer, which)
    return math.nan, _is_told_what_it_says(task, step, few)


def _is_told_what_it_says(task: Task, step: Step, few: Any) -> bool:
    """Of a net that gets its target, and reads numbers one after another: whether it reads the one that it is to say.

    Who reads them in order does so to say the next one (van den Oord et al. 2016, section 3.4); an autoencoder does not.
    """
    target, asked = step.main.target if step.main is not None else None, step.trace.asked[step.prediction]
    if target is None or asked is None or not asked.is_floating_point() or asked.numel() != target.numel():
        return False
    length = asked.numel() // max(1, len(asked))
    if max(asked.shape[1:], default=0) < 3 or not same_values(asked, target) or not _are_single_numbers(asked):
        return False
    before = predict(task, few, step.prediction)
    with _change_one_place(step.trace.outer[step.prediction][0], length // 2):
        after = predict(task, few, step.prediction)
    if before is None or after is None or before.shape != after.shape or before.numel() != len(before) * length:
        return False
    changes, middle, least = (after - before).abs().flatten(1).amax(0), length // 2, 1e-5 * float(before.std())
    return bool(changes[:middle].max() <= least < changes[middle]) and bool(changes[middle + 1 :].max() > least)


def _are_single_numbers(asked: Tensor) -> bool:
    """One at each place: of the dimensions at most two are longer than 1, the batch's aside."""
    return sum(size > 1 for size in asked.shape[1:]) <= 2


@contextmanager
def _change_one_place(net: nn.Module, place: int) -> Iterator[None]:
    """Each sample's number at a place is another one in all calls of a net."""

    def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not args or not isinstance(args[0], Tensor):
            return None
        rows = args[0].detach().clone().flatten(1)
        rows[:, place] += float(rows.std()) + 1e-3
        return (rows.view_as(args[0]), *args[1:])

    handle = net.register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


def _nets(step: Step) -> Iterator[Entry]:
    """What whole nets get, before they pad or reshape it; layers that are called by themselves are entries already."""
    for (net, _), given in zip(step.trace.outer, step.trace.asked, strict=True):
        if given is not None and not isinstance(net, LAYERS + EMBEDDINGS):
            yield Entry(net, given)


def _relation(given: Tensor, target: Tensor, is_tokens: bool) -> str:
    """Whether a sequence's target is its ``next`` entry, the ``same`` one, or neither (empty)."""
    if given.dim() < 2 or given.shape[1] < 3 or is_tokens == given.is_floating_point() or not given.numel():
        return ""
    n, length = given.shape[0], given.shape[1]
    rest = given.shape[2:]
    size_of_one = n * rest.numel()
    if target.numel() == size_of_one * length:
        aligned = target.reshape(n, length, *rest)
        if _alike(given[:, 1:], aligned[:, :-1]):
            return "next"
        return "same" if _alike(given, aligned) else ""
    if target.numel() == size_of_one * (length - 1):
        return "next" if _alike(given[:, 1:], target.reshape(n, length - 1, *rest)) else ""
    return ""


def _alike(given: Tensor, target: Tensor) -> bool:
    valid = target >= 0 if not target.is_floating_point() else torch.ones_like(target, dtype=torch.bool)
    if int(valid.sum()) < 16 or len(torch.unique(target[valid])) < 3:
        return False
    return float((given == target)[valid].double().mean()) > 0.98


def _leak(task: Task, step: Step, few: Any, layer: nn.Module, which: int, axis: int) -> float:
    before = predict(task, few, step.prediction)
    with _swap_tails(layer, which, width=None, axis=axis) as cut:
        changes = _changes(before, predict(task, few, step.prediction), cut)
    if before is None or changes is None:
        return math.nan
    return float(changes[: cut[0][0]].max()) / (float(before.float().std()) + 1e-12)


def _follows_own_place(task: Task, step: Step, few: Any, layer: nn.Module, which: int) -> bool:
    """Whether an output looks at its own place most: a summary of the whole, as an autoencoder has it, does not."""
    before = predict(task, few, step.prediction)
    with _swap_tails(layer, which, width=1) as cut:
        changes = _changes(before, predict(task, few, step.prediction), cut)
    if changes is None:
        return False
    place = cut[0][0]
    others = torch.cat([changes[:place], changes[place + 1 :]])
    return bool(changes[place] > 3 * others.median())


def _changes(before: Tensor | None, after: Tensor | None, cut: list[tuple[int, int]]) -> Tensor | None:
    """The largest change at each place of the sequence; None where the output has none."""
    if before is None or after is None or not cut or after.shape != before.shape:
        return None
    length = cut[0][1]
    axis = next((a for a in (1, 2)[: before.dim() - 1] if before.shape[a] in (length, length - 1)), None)
    return None if axis is None else (after - before).abs().transpose(0, axis).flatten(1).amax(1)


def _others(values: Tensor, axis: int) -> Tensor:
    """Another sample's; of a single one, as long packed sequences are, its own from elsewhere."""
    return values.roll(1, 0) if values.shape[0] > 1 else values.flip(axis)


@contextmanager
def _swap_tails(layer: nn.Module, which: int, width: int | None, axis: int = 1) -> Iterator[list[tuple[int, int]]]:
    """From its middle on, what a layer gets in one call is another sample's; yields where it is cut, and the length."""
    cut: list[tuple[int, int]] = []
    calls = count()

    def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if next(calls) != which or not args or not isinstance(args[0], Tensor) or args[0].dim() <= axis:
            return None
        length = args[0].shape[axis]
        middle = length // 2
        cut.append((middle, length))
        values = args[0].clone()
        places = torch.arange(middle, length if width is None else middle + width, device=values.device)
        values.index_copy_(axis, places, _others(args[0], axis).index_select(axis, places))
        return (values, *args[1:])

    handle = layer.register_forward_pre_hook(before)
    try:
        yield cut
    finally:
        handle.remove()
