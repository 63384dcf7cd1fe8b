"""How long gradients are, each and all together: to the last bit as ``torch.nn.utils.clip_grad_norm_`` measures them.

Many small tensors cost torch a call each, which takes longer than their elements. On a CPU those of one shape are put into
one matrix instead, and their norms are those of its rows: the same kernel adds the same numbers in the same order.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

SMALL = 1 << 13
"""Elements of a gradient up to which a copy costs less than a call of its own."""
FEWEST, MANY = 8, 32
"""Gradients of one shape that are worth a matrix of their own, and of any shape that are worth being sorted."""
BUNCH = 1 << 18
"""Elements of a matrix: a megabyte, which stays in a core's cache."""


class GradientNorms(NamedTuple):
    """What was measured of some gradients, on their device.

    Attributes:
        total: ‖g‖ over all of them.
        each: of each of them, [n]; None where they were not measured one by one.
    """

    total: Tensor
    each: Tensor | None


def measured(gradients: Sequence[Tensor]) -> GradientNorms:
    """Over all (over all shards of DTensors), and of each where they are plain and alike."""
    alike = measured_one_by_one(gradients)
    return GradientNorms(whole(torch.nn.utils.get_total_norm(gradients)), None) if alike is None else alike


def measured_one_by_one(gradients: Sequence[Tensor]) -> GradientNorms | None:
    """Of plain and strided gradients, of one dtype and device; None of others."""
    norms = each_of(gradients)
    return None if norms is None else GradientNorms(torch.linalg.vector_norm(norms), norms)


def each_of(gradients: Sequence[Tensor]) -> Tensor | None:
    """As ``torch._foreach_norm``, [n], of plain and strided tensors, of one dtype and device; None of others."""
    if set(map(type, gradients)) != {Tensor} or {g.layout for g in gradients} != {torch.strided}:
        return None
    if len({g.dtype for g in gradients}) > 1 or len(set(map(Tensor.get_device, gradients))) > 1:
        return None
    return _each(gradients)


def whole(value: Tensor) -> Tensor:
    """A DTensor (FSDP2) as the plain tensor that all its shards make."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _each(gradients: Sequence[Tensor]) -> Tensor:
    """As ``torch._foreach_norm``, [n]."""
    order = _order(tuple([g.shape for g in gradients])) if _may_be_rows(gradients) else NO_ORDER
    if not order.matrices:
        return torch.stack(torch._foreach_norm(list(gradients)))
    rows = [torch.stack([gradients[i] for i in several]).flatten(1) for several in order.matrices]
    norms = [torch.linalg.vector_norm(matrix, dim=1) for matrix in rows]
    norms += torch._foreach_norm([gradients[i] for i in order.others]) if order.others else ()
    return torch.cat([n.reshape(-1) for n in norms])[order.back]


def _may_be_rows(gradients: Sequence[Tensor]) -> bool:
    """Elements that lie otherwise than one after the other, torch adds in the order of their places."""
    first = gradients[0]
    are_many = len(gradients) >= MANY and first.is_cpu and first.dtype in (torch.float32, torch.float64)
    return are_many and all(map(Tensor.is_contiguous, gradients))


class _Order(NamedTuple):
    """Which gradients are measured together.

    Attributes:
        matrices: those that are the rows of one matrix, by their places.
        others: those that are measured one by one.
        back: where each gradient's norm stands among those of the matrices and the others, [n].
    """

    matrices: list[list[int]]
    others: list[int]
    back: Tensor


NO_ORDER = _Order([], [], torch.empty(0, dtype=torch.int64, device="cpu"))


@functools.lru_cache(maxsize=16)
def _order(shapes: tuple[torch.Size, ...]) -> _Order:
    """A model's gradients keep their shapes from step to step."""
    alike: dict[torch.Size, list[int]] = {}
    for place, shape in enumerate(shapes):
        alike.setdefault(shape, []).append(place)
    matrices = [bunch for shape, places in alike.items() for bunch in _bunches(shape, places)]
    taken = {place for matrix in matrices for place in matrix}
    others = [place for place in range(len(shapes)) if place not in taken]
    placed = [place for matrix in matrices for place in matrix] + others
    return _Order(matrices, others, torch.argsort(torch.tensor(placed, device="cpu")))


def _bunches(shape: torch.Size, places: list[int]) -> list[list[int]]:
    """Of gradients of one shape, in parts of at most a megabyte; none where they are few, empty, single numbers or large."""
    size = shape.numel()
    if not shape or not 0 < size <= SMALL or len(places) < FEWEST:
        return []
    most = BUNCH // size
    return [places[begin : begin + most] for begin in range(0, len(places), most)]
