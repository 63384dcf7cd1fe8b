"""Readings of every kind, and what all ways of measuring them must agree on."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_adam.moments import Decay, Moments
from lightning_adam.statistics import COLUMNS, Snapshot, TensorReading
from tests.statistics_reference import expected, reading

EXACT = 4096

FITTING = {
    "ordinary": lambda: reading(),
    "amsgrad": lambda: reading(amsgrad=True),
    "one element": lambda: reading(1, seed=3),
    "scalar": lambda: shaped(reading(1, seed=3), ()),
    "matrix": lambda: shaped(reading(3000), (50, 60)),
    "largest exact": lambda: reading(EXACT),
    "huge": lambda: reading(scale=1e17, parameter=torch.randn(1000) * 1e25),
    "tiny": lambda: reading(scale=1e-20, eps=1e-30),
    "no eps": lambda: alive(reading(eps=0.0)),
    "large eps": lambda: reading(eps=1e-1),
    "coupled decay": lambda: reading(decoupled=False),
    "zero parameter": lambda: reading(parameter=torch.zeros(1000)),
    "zero gradient": lambda: reading(gradient=torch.zeros(1000)),
}
"""What the kernel reads, and eager torch too."""

ODD = {
    "measured": lambda: reading(step=torch.randn(1000) * 1e-3),
    "no gradient": lambda: reading(gradient=None),
    "no moments": lambda: reading(moments=None, step=torch.randn(1000)),
    "nothing known": lambda: reading(moments=None),
    "bf16 parameter": lambda: reading(parameter=torch.randn(1000).bfloat16(), step=torch.randn(1000).bfloat16() * 1e-2),
    "fp16 moments": lambda: converted(reading(scale=1.0), torch.float16),
    "complex moments": lambda: complex_moments(reading(1000)),
    "transposed": lambda: transposed(reading(1000)),
    "lost": lambda: lossy(reading()),
    "shrunk before": lambda: reading(step=torch.randn(1000) * 1e-3, shrunk=Decay(1e-3, after=False, decoupled=True)),
    "shrunk after": lambda: reading(step=torch.randn(1000) * 1e-3, shrunk=Decay(1e-3, after=True, decoupled=True)),
    "no first moment": lambda: lacking(reading(step=torch.randn(1000) * 1e-3), stored_first=None),
    "no second moment": lambda: lacking(reading(step=torch.randn(1000) * 1e-3), stored_second=None, stored_denominator=None),
}


def lossy(of: TensorReading) -> TensorReading:
    """bf16 weights of which every third did not move, as steps under half of their spacing leave them."""
    weights = of.parameter.bfloat16()
    moved = weights * (1 + 2e-2 * (torch.arange(len(weights)) % 3 > 0))
    return dataclasses.replace(of, parameter=weights, before=moved)


def lacking(of: TensorReading, **parts: None) -> TensorReading:
    """Without some of the moments, as Lion and RMSprop keep them."""
    assert of.moments is not None
    return dataclasses.replace(of, moments=dataclasses.replace(of.moments, **parts))


def shaped(of: TensorReading, shape: tuple[int, ...]) -> TensorReading:
    """The same elements in another shape."""
    return mapped(of, lambda tensor: tensor.reshape(shape))


def transposed(of: TensorReading) -> TensorReading:
    """Stored column by column."""
    return mapped(of, lambda tensor: tensor.reshape(20, -1).t())


def converted(of: TensorReading, dtype: torch.dtype) -> TensorReading:
    """With 16-bit moments."""
    assert of.moments is not None
    return dataclasses.replace(of, moments=of_moments(of.moments, lambda tensor: tensor.to(dtype)))


def complex_moments(of: TensorReading) -> TensorReading:
    """Moments as torch keeps them for complex parameters, which are read as pairs of real ones."""
    assert of.moments is not None
    moments = of_moments(of.moments, lambda tensor: torch.view_as_complex(tensor.reshape(-1, 2)))
    pairs = mapped(of, lambda tensor: tensor.reshape(-1, 2))
    return dataclasses.replace(pairs, moments=moments)


def of_moments(moments: Moments, change: Callable[[torch.Tensor], torch.Tensor]) -> Moments:
    """Both moments changed; the denominator stays the second where it was."""
    second = change(moments.second)
    denominator = second if moments.denominator is moments.second else change(moments.denominator)
    return dataclasses.replace(
        moments, stored_first=change(moments.first), stored_second=second, stored_denominator=denominator
    )


def mapped(of: TensorReading, change: Callable[[torch.Tensor], torch.Tensor]) -> TensorReading:
    """All tensors changed."""
    assert of.moments is not None and of.gradient is not None
    return dataclasses.replace(
        of, parameter=change(of.parameter), gradient=change(of.gradient), moments=of_moments(of.moments, change)
    )


def alive(of: TensorReading) -> TensorReading:
    """Without dead elements: with ε = 0 they divide zero by zero."""
    assert of.moments is not None
    return dataclasses.replace(of, moments=of_moments(of.moments, lambda t: torch.where(t == 0, 1e-3, t)))


def assert_agrees(snapshot: Snapshot, readings: Sequence[TensorReading], rel: float = 1e-5) -> None:
    """Every column of every row."""
    for row, of in enumerate(readings):
        want = expected(of)
        for column, name in enumerate(COLUMNS):
            value = want.get(name, math.nan)
            assert float(snapshot.table[row, column]) == pytest.approx(value, rel=rel, nan_ok=True), (of.name, name)


class Launches(TorchDispatchMode):
    """Counts operations that compute or copy, and reads that would make the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = self.reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        self.reads += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def shards(of: TensorReading, cuts: Sequence[int]) -> list[TensorReading]:
    """Pieces of a flat tensor, as ranks hold them."""
    bounds = [0, *cuts, of.parameter.numel()]
    return [
        dataclasses.replace(mapped(of, lambda t, a=a, b=b: t[a:b]), offset=a, whole=of.parameter.numel())  # type: ignore[misc]
        for a, b in itertools.pairwise(bounds)
    ]
