"""The fused pass for the GPU, run by Triton's interpreter on the CPU, and compiled for GPUs that are not here."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from lightning_adam.statistics import COLUMNS, triton_kernel
from lightning_adam.statistics.columns import Columns
from lightning_adam.statistics.elements import Reduction
from lightning_adam.statistics.quantities import MAXIMA
from lightning_adam.statistics.raw import RawTable, empty_table
from lightning_adam.statistics.snapshot import snapshot_of
from tests import interpreted_triton
from tests.interpreted_triton import CPU, assert_same, assert_untouched, eager, fused
from tests.statistics_cases import FITTING, ODD, assert_agrees, mapped, of_moments, shards
from tests.statistics_reference import expected, reading

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
fresh, program = interpreted_triton.fresh, interpreted_triton.program


@pytest.mark.parametrize("case", FITTING)
def test_all_columns_agree_with_float64(case: str, program: Any) -> None:
    """Each quantity and diagnostic is that of the float64 reference, to 1e-5."""
    readings = [FITTING[case]()]
    raw = fused(readings)

    assert triton_kernel.fits(readings[0], CPU)
    assert_agrees(snapshot_of(0, Columns.of(readings), raw), readings)


@pytest.mark.parametrize("case", sorted(ODD.keys() - {"fp16 moments"}))
def test_what_does_not_fit_is_left_alone(case: str, program: Any) -> None:
    """Measured steps, missing parts, complex numbers and layouts: no row, no count, no launch."""
    of = ODD[case]()
    columns = Columns.of([of])
    table = empty_table(columns.sampling, CPU)

    assert not triton_kernel.fits(of, CPU)
    assert triton_kernel.reduce([of], columns, table) == frozenset()
    assert_untouched(table)


def test_mixed_tensors_keep_their_rows(program: Any) -> None:
    """Kinds are launched together, whatever their order, and each tensor gets its own row."""
    readings = [make() for pair in itertools.zip_longest(FITTING.values(), ODD.values()) for make in pair if make]

    assert_agrees(snapshot_of(0, Columns.of(readings), fused(readings, len(FITTING) + 1)), readings)


@pytest.mark.parametrize("numel", [1023, 1024, 1025, 8192, 8193])
def test_blocks_and_units_add_up(numel: int, program: Any) -> None:
    """Tensors that end before, at and after the end of a block or a unit, beside others."""
    readings = [reading(numel, seed=1), reading(700, seed=2), reading(numel, seed=3, amsgrad=True)]

    assert_same(fused(readings), eager(readings))


@pytest.mark.slow
def test_large_tensors_agree(program: Any) -> None:
    """Many units, of which the kernel that adds them up takes several turns; the sample is one in many."""
    program.DEPTH = type(program.DEPTH)(4)  # the real depth needs half a million elements, ten seconds
    readings = [reading(74_003, seed=1), reading(20_003, seed=2)]
    raw = fused(readings)
    columns = [column for column, name in enumerate(COLUMNS) if not name.startswith("effective_lr")]

    assert_same(raw, eager(readings))
    table = snapshot_of(0, Columns.of(readings), raw).table
    for row, of in enumerate(readings):
        wanted = [expected(of).get(COLUMNS[column], math.nan) for column in columns]
        np.testing.assert_allclose(table[row, columns], wanted, rtol=1e-5)


def test_only_what_float32_does_not_hold_is_summed_again(program: Any) -> None:
    """The second pass is for units that over- or underflow, or hold NaN; dead units and zero gradients are none of these."""
    dead = mapped(reading(1500), torch.zeros_like)
    dead = dataclasses.replace(dead, parameter=torch.ones(1500))
    spoiled = reading(9000)
    assert spoiled.gradient is not None
    spoiled.gradient[8500] = math.nan
    cases = {"good": reading(9000), "dead": dead, "still": reading(1500, gradient=torch.zeros(1500))}
    cases |= {"huge": reading(1500, parameter=torch.full((1500,), 1e25)), "spoiled": spoiled}
    cases |= {"tiny": reading(1500, scale=1e-20), "small eps": reading(1500, eps=1e-20)}
    fused(list(cases.values()))
    (launch,) = program.add_units.launches

    held = torch.split(launch[0][3], [2, 1, 1, 1, 2, 1, 1])
    wanted = [[1, 1], [1], [1], [0], [1, 0], [0], [0]]
    assert [units.tolist() for units in held] == wanted


def test_a_few_large_values_among_many_small_ones_are_held(program: Any) -> None:
    """Sums that overflow in one unit only, and sums of tiny squares, are float64's."""
    of = reading(20_000)
    assert of.gradient is not None
    of.gradient[:8192] *= 1e-25
    of.gradient[19_000] = 1e22

    assert_same(fused([of]), eager([of]))


def test_shards_combined_are_the_whole(program: Any) -> None:
    """SUM over sums, counts and sample, MAX over maxima gives the whole tensors' rows; an empty shard is left alone."""
    readings = [reading(11_001, seed=1), reading(900, seed=2, amsgrad=True), reading(2, seed=5)]
    cuts = ((9_001, 9_333), (0, 450), (1, 1))
    ranks = [list(rank) for rank in zip(*map(shards, readings, cuts), strict=True)]
    raws = [fused(rank, sum(of.parameter.numel() > 0 for of in rank)) for rank in ranks]
    combined = RawTable(
        torch.stack([raw.sums for raw in raws]).sum(0),
        torch.stack([raw.maxima for raw in raws]).amax(0),
        torch.stack([raw.counts for raw in raws]).sum(0),
        torch.stack([raw.sample for raw in raws]).sum(0),
    )
    whole = fused(readings)

    assert_same(combined, whole)
    assert torch.equal(combined.sample, whole.sample)
    assert torch.equal(combined.counts, whole.counts)


def test_each_sampled_element_lies_in_one_shard() -> None:
    """The first sampled element at or after any place, for strides of 1 and more, and past the end."""
    readings = [dataclasses.replace(reading(1), whole=whole) for whole in (5, 900, 70_001, 5_000_000)]
    sampling = Columns.of(readings).sampling
    for row, of in enumerate(readings):
        begins = np.unique(np.append(np.random.default_rng(row).integers(0, of.total, 2000), [0, of.total]))
        found = sampling.first_cells(np.full(len(begins), row), begins)
        np.testing.assert_array_equal(found, np.searchsorted(sampling.positions(row), begins))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["parameter", "gradient", "first", "second"])
@pytest.mark.parametrize("at", [100, pytest.param(2900, marks=pytest.mark.slow)])
def test_non_finite_values_are_not_lost(where: str, bad: float, at: int, program: Any) -> None:
    """One NaN or Inf among thousands, in a whole or in a masked block, shows as in the reference and nowhere else."""
    of = reading(3000)
    assert of.moments is not None and of.gradient is not None
    tensors: dict[str, Any] = {"parameter": of.parameter, "gradient": of.gradient}
    (tensors | {"first": of.moments.first, "second": of.moments.second})[where][at] = bad
    raw = fused([of])
    table = dict(zip(COLUMNS, snapshot_of(0, Columns.of([of]), raw).table[0], strict=True))

    want = expected(of)
    for name in want:
        if math.isfinite(want[name]):
            assert table[name] == pytest.approx(want[name], rel=1e-5), name
        else:
            assert str(table[name]) == str(np.float32(want[name])), name
    assert torch.equal(raw.counts.sum(-1), eager([of]).counts.sum(-1))


def test_a_negative_second_moment_shows(program: Any) -> None:
    """What corrupted states hold: the smallest and largest v are those of the tensor, not of the masked elements."""
    of = reading(1500)
    assert of.moments is not None and isinstance(of.moments.second, torch.Tensor)
    of.moments.second.fill_(-1.0)
    raw = fused([of])

    assert raw.maxima[0, MAXIMA.index(Reduction("largest", "v"))] == -1.0
    assert raw.maxima[0, MAXIMA.index(Reduction("largest", "-v"))] == 1.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_16_bit_moments_and_gradients_fit(dtype: torch.dtype, amsgrad: bool, program: Any) -> None:
    """Each array in its own dtype; what has no float32 equal is left to eager torch."""
    of = reading(2500, scale=1.0, amsgrad=amsgrad)
    assert of.moments is not None and of.gradient is not None
    halved = dataclasses.replace(of, moments=of_moments(of.moments, lambda t: t.to(dtype)))
    mixed = dataclasses.replace(of, gradient=of.gradient.to(dtype))
    wide = dataclasses.replace(of, moments=of_moments(of.moments, torch.Tensor.double))
    readings = [of, halved, mixed, wide]

    assert_agrees(snapshot_of(0, Columns.of(readings), fused(readings, 3)), readings)
    assert len(program.add_units.launches) == 3


def test_tensors_need_not_begin_at_16_bytes(program: Any) -> None:
    """Views into flat buffers (DDP's buckets, say) are read by narrow loads."""
    of = mapped(reading(5000), lambda tensor: torch.cat([torch.zeros(1), tensor])[1:])
    readings = [of, reading(5000)]

    assert_same(fused(readings), eager(readings))
    assert sorted(options["ALIGNED"] for _, options in program.add_units.launches) == [False, True]
