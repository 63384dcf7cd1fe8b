"""Moments that the compiled pass reads as the optimizer packs them: the same numbers, to the bit, as unpacked ones."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from lightning_adam.moments import Moments
from lightning_adam.moments.packed import Blockwise
from lightning_adam.statistics import TensorReading, kernel
from lightning_adam.statistics.columns import Columns
from lightning_adam.statistics.raw import RawTable, empty_table
from tests.statistics_reference import reading
from tests.steps_of import Stepper

SIZES = (5, 256, 4096, 5001, 131_072, 262_921)
"""One element to several of the kernel's chunks, ends that are no whole block among them."""


def blockwise(size: int, block: int, seed: int, signed: bool) -> Blockwise:
    """Any codes, with a table and scales as bitsandbytes makes them; a block of zeros is among them."""
    rng = torch.Generator().manual_seed(seed)
    table = torch.linspace(-1 if signed else 0, 1, 256).pow(3).contiguous()
    scales = torch.rand(-(-size // block), generator=rng).mul(1e-2)
    scales[len(scales) // 2] = 0
    return Blockwise(torch.randint(0, 256, (size,), generator=rng, dtype=torch.uint8), table, scales, block)


def table_of(of: TensorReading) -> RawTable:
    """By the compiled pass, which must have read it."""
    columns = Columns.of([of])
    table = empty_table(columns.sampling, torch.device("cpu"))

    assert kernel.load() is not None
    assert kernel.reduce([of], columns, table) == {0}
    return table


def with_moments(of: TensorReading, first: Blockwise | None, second: Blockwise | None) -> TensorReading:
    """The same tensor with these moments."""
    assert of.moments is not None
    changed = dataclasses.replace(of.moments, stored_first=first, stored_second=second, stored_denominator=second)
    return dataclasses.replace(of, moments=changed)


def unpacked(of: TensorReading) -> TensorReading:
    """The same with tensors."""
    m = of.moments
    assert m is not None
    return dataclasses.replace(of, moments=Moments(m.first, m.second, m.denominator, m.step, m.beta1, m.beta2))


def assert_is_the_same(packed: TensorReading) -> None:
    """Every sum, maximum, count and sampled element."""
    found, wanted = table_of(packed), table_of(unpacked(packed))
    for part in ("sums", "maxima", "counts", "sample"):
        np.testing.assert_array_equal(getattr(found, part).numpy(), getattr(wanted, part).numpy(), err_msg=part)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("block", [64, 256, 2048])
def test_blockwise_numbers_are_what_bitsandbytes_makes_of_them(size: int, block: int) -> None:
    """Its own function unpacks them for the other side."""
    step = torch.randn(size) * 1e-3
    of = reading(size, step=step)

    assert_is_the_same(with_moments(of, blockwise(size, block, 1, signed=True), blockwise(size, block, 2, signed=False)))
    assert_is_the_same(with_moments(of, blockwise(size, block, 3, signed=True), None))


@pytest.mark.parametrize(
    "second",
    [
        blockwise(15, 8, 0, signed=False),
        dataclasses.replace(blockwise(30, 8, 0, signed=False), scales=torch.rand(4).double()),
        dataclasses.replace(blockwise(30, 8, 0, signed=False), scales=torch.rand(3)),
        dataclasses.replace(blockwise(30, 8, 0, signed=False), table=torch.rand(16)),
    ],
    ids=["another size", "64 bits", "too few scales", "4 bits"],
)
def test_what_the_pass_cannot_unpack_is_left_to_torch(second: Blockwise) -> None:
    """Reading behind the end of a table would be worse than being slow."""
    assert kernel._places(with_moments(reading(30), None, second)) is None


@pytest.mark.parametrize("name", ["adamw8bit", "lion8bit"])
def test_optimizers_hand_over_what_they_keep(name: str) -> None:
    """Of each matrix that is packed, nothing is unpacked for the pass: else all of this would be right, and slow."""
    stepper = Stepper(name)
    for _ in range(2):
        seen = stepper.step()
    packed = [r for r in seen.readings if any(isinstance(part, Blockwise) for part in vars(r.moments).values())]

    assert packed
    for of in packed:
        table_of(of)
        assert not {"first", "second", "denominator"} & vars(of.moments).keys()
        assert_is_the_same(of)
