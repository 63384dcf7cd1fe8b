"""The statistics pass: every path gives the float64 reference's numbers, whole or in shards."""

from __future__ import annotations

import dataclasses
import itertools
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_adam.statistics import COLUMNS, TensorReading, kernel, take_snapshot
from lightning_adam.statistics.columns import Columns
from lightning_adam.statistics.finalise import sample_quantiles
from lightning_adam.statistics.measure import measure
from lightning_adam.statistics.quantities import LOG10_EDGES
from lightning_adam.statistics.raw import RawTable, Sampling, read_at_once
from lightning_adam.statistics.snapshot import snapshot_of
from tests.statistics_cases import FITTING, ODD, Launches, assert_agrees, shards
from tests.statistics_reference import expected, f64, reading, step_of


@pytest.fixture(params=["compiled", "eager"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both implementations; the compiled one is there wherever the tests run."""
    if request.param == "eager":
        monkeypatch.setenv("LIGHTNING_ADAM_KERNEL", "eager")
    assert (kernel.load() is None) == (request.param == "eager")
    return str(request.param)


@pytest.mark.parametrize("case", FITTING)
def test_all_columns_agree_with_float64(case: str, path: str) -> None:
    """Each quantity and diagnostic is that of the float64 reference, to 1e-5; both implementations."""
    of = FITTING[case]()

    assert kernel.fits(of)
    assert_agrees(take_snapshot(3, [of]), [of])


@pytest.mark.parametrize("case", ODD)
def test_what_is_not_plain_adam_in_32_bits_agrees_too(case: str, path: str) -> None:
    """Measured steps, missing parts, other dtypes and layouts; no pass over these can be repeated."""
    of = ODD[case]()

    assert not kernel.fits(of)
    assert_agrees(take_snapshot(3, [of]), [of])


def test_mixed_tensors_keep_their_rows(path: str) -> None:
    """One call measures tensors of all kinds, each in its own row."""
    readings = [make() for make in itertools.chain(FITTING.values(), ODD.values())]

    assert_agrees(take_snapshot(0, readings), readings)


def test_large_tensors_agree(path: str) -> None:
    """Blocks, chunks and threads add up; the quantiles lie where the docstring says for a sample of their size."""
    readings = [reading(100_003, seed=1), reading(1_500_000, seed=2)]
    snapshot, sampling = take_snapshot(0, readings), Columns.of(readings).sampling

    for row, of in enumerate(readings):
        want = expected(of)
        for column, name in enumerate(COLUMNS):
            if not name.startswith("effective_lr"):
                assert float(snapshot.table[row, column]) == pytest.approx(
                    want.get(name, math.nan), rel=1e-5, nan_ok=True
                ), name
        rates = effective_rates(of)
        for name, level in (("p01", 0.01), ("p50", 0.5), ("p99", 0.99)):
            margin = 4 * math.sqrt(level * (1 - level) / sampling.sizes[row])
            low, high = np.quantile(rates, [max(0, level - margin), min(1, level + margin)])
            assert low * (1 - 1e-6) <= snapshot.column(f"effective_lr_{name}")[row] <= high * (1 + 1e-6)


def effective_rates(of: TensorReading) -> np.ndarray[Any, np.dtype[np.float64]]:
    """α/(√v̂+ε) of all elements."""
    assert of.moments is not None
    root = np.sqrt(f64(of.moments.denominator) / (1 - of.moments.beta2**of.moments.step))
    return np.asarray(of.lr / (root + of.eps))


def test_paths_agree_on_everything() -> None:
    """The compiled pass gives the eager one's raw rows: sums and maxima to 1e-5, the same sample, the same histograms."""
    readings = [reading(70_001, seed=1), reading(900, seed=2, amsgrad=True), reading(5000, seed=3, scale=1e18)]
    with pytest.MonkeyPatch.context() as patch:
        fast = measure(readings, Columns.of(readings))
        patch.setenv("LIGHTNING_ADAM_KERNEL", "eager")
        slow = measure(readings, Columns.of(readings))

    close = {"rtol": 1e-5, "atol": 0.0, "equal_nan": True}
    torch.testing.assert_close(fast.maxima, slow.maxima, **close)  # type: ignore[arg-type]
    torch.testing.assert_close(fast.sample, slow.sample, **close)  # type: ignore[arg-type]
    torch.testing.assert_close(fast.sums, slow.sums, **close)  # type: ignore[arg-type]
    moved = (fast.counts - slow.counts).abs().sum() / slow.counts.sum()
    assert moved < 1e-3, "only values on an edge may change their bin"


def test_without_the_kernel_launches_do_not_grow_with_the_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tensors and two hundred that share a piece take the same operations, and none reads a number back."""
    monkeypatch.setenv("LIGHTNING_ADAM_KERNEL", "eager")
    counted = []
    for count in (2, 200):
        readings = [reading(100, seed=seed) for seed in range(count)]
        with Launches() as launches:
            measure(readings, Columns.of(readings))
        counted.append((launches.count, launches.reads))

    assert counted[0] == counted[1]
    assert counted[0][0] < 100
    assert counted[0][1] == 0


def test_shards_combined_are_the_whole(path: str) -> None:
    """SUM over sums and sample, MAX over maxima, gives the unsharded table to 1e-5; an empty shard does no harm."""
    readings = [reading(70_001, seed=1), reading(900, seed=2, amsgrad=True), reading(2, seed=5)]
    cuts = ((20_001, 33_333), (0, 450), (1, 1))
    ranks = [list(rank) for rank in zip(*map(shards, readings, cuts), strict=True)]
    raws = [measure(rank, Columns.of(rank)) for rank in ranks]
    combined = RawTable(
        torch.stack([raw.sums for raw in raws]).sum(0),
        torch.stack([raw.maxima for raw in raws]).amax(0),
        torch.stack([raw.counts for raw in raws]).sum(0),
        torch.stack([raw.sample for raw in raws]).sum(0),
    )
    whole, sharded = take_snapshot(0, readings), snapshot_of(0, Columns.of(ranks[0]), combined)

    np.testing.assert_allclose(sharded.table, whole.table, rtol=1e-5)
    np.testing.assert_array_equal(sharded.hist_step_size, whole.hist_step_size)
    np.testing.assert_array_equal(sharded.hist_effective_lr, whole.hist_effective_lr)
    assert sharded.sizes == whole.sizes


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["parameter", "gradient", "first", "second"])
def test_non_finite_values_are_not_lost(where: str, bad: float, path: str) -> None:
    """One NaN or Inf among thousands shows in every column that it belongs to, and in no other."""
    clean, spoiled = reading(3000), reading(3000)
    assert spoiled.moments is not None and spoiled.gradient is not None
    tensors = {"parameter": spoiled.parameter, "gradient": spoiled.gradient}
    (tensors | {"first": spoiled.moments.first, "second": spoiled.moments.second})[where][1234] = bad
    table = dict(zip(COLUMNS, take_snapshot(0, [spoiled]).table[0], strict=True))
    good = dict(zip(COLUMNS, take_snapshot(0, [clean]).table[0], strict=True))

    with np.errstate(invalid="ignore"):
        want = expected(spoiled)
    for name in COLUMNS:
        if math.isfinite(want.get(name, math.nan)):
            assert table[name] == pytest.approx(want[name], rel=1e-5), name
            assert math.isfinite(good[name])
        elif name in want:
            assert str(table[name]) == str(np.float32(want[name])), name


def test_histograms_hold_every_element(path: str) -> None:
    """Of small tensors all elements are counted, in quarter decades; zero steps in the first bin."""
    readings = [reading(3000, seed=1), reading(500, seed=2)]
    snapshot = take_snapshot(0, readings)

    steps = np.concatenate([step for of in readings if (step := step_of(of)) is not None])
    edges = np.concatenate([[0.0], 10.0 ** np.linspace(-12, 8, 81)[1:-1], [np.inf]])
    wanted = np.histogram(steps, edges)[0]
    assert snapshot.hist_step_size.sum() == snapshot.hist_effective_lr.sum() == 3500
    assert np.abs(snapshot.hist_step_size - wanted).sum() <= 4, "float32 may round a value over an edge"


def test_each_tensor_has_its_own_histograms(path: str) -> None:
    """Of its sampled elements: the step sizes and the effective rates that float64 gives for these places."""
    readings = [reading(3000, seed=1), reading(90_000, seed=2)]
    sampling = Columns.of(readings).sampling
    edges = np.concatenate([[0.0], 10.0 ** LOG10_EDGES[1:-1], [np.inf]])
    counts = take_snapshot(0, readings).histograms

    assert counts.shape == (2, 2, len(LOG10_EDGES) - 1) and counts.sum(axis=-1).tolist() == [[3000] * 2, [2812] * 2]
    for row, of in enumerate(readings):
        for found, values in zip(counts[row], (step_of(of), effective_rates(of)), strict=True):
            assert values is not None
            wanted = np.histogram(values[sampling.positions(row)], edges)[0]
            assert np.abs(found - wanted).sum() <= 4, "float32 may round a value over an edge"


def test_histograms_of_a_sample_stand_for_all_elements(path: str) -> None:
    """A large tensor's counts add up to its size."""
    snapshot = take_snapshot(0, [reading(300_000)])

    assert snapshot.hist_step_size.sum() == pytest.approx(300_000, abs=28)


def test_sample_meets_all_columns_of_a_matrix() -> None:
    """No column of a matrix is preferred, whatever its width: a fixed stride would see a few of them only."""
    of = dataclasses.replace(reading(1), whole=1024 * 4096)
    columns = np.bincount(Columns.of([of]).sampling.positions(0) % 1024 // 64, minlength=16)

    assert columns.min() > 0.9 * columns.mean()
    assert columns.max() < 1.1 * columns.mean()


def test_many_tensors_share_the_sample() -> None:
    """A thousand tensors cost no more than 2¹⁸ values and 512 each."""
    sizes = Sampling.of_sizes([10_000] * 1000).sizes

    assert sizes.min() > 256
    assert sizes.max() <= 512


def test_quantiles_of_the_sample_are_numpys(path: str) -> None:
    """Equal values, two values, infinities, a wide range, and NaN: as numpy.quantile."""
    rng = np.random.default_rng(0)
    parts = [np.full(4096, 0.5), np.array([1.0, 2.0]), np.array([3.0]), 10 ** rng.uniform(-30, 30, 4095)]
    parts += [np.append(rng.random(99), np.nan), np.repeat([1e-3, 1e3], 500)]
    parts = [part.astype(np.float32) for part in parts]
    begins = np.cumsum([0, *map(len, parts)])

    found = sample_quantiles(np.concatenate(parts), begins)
    with np.errstate(invalid="ignore"):
        wanted = [np.quantile(part.astype(np.float64), (0.01, 0.5, 0.99)) for part in parts]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_quantile_between_infinities_is_infinite(path: str) -> None:
    """With ε = 0 dead elements have an infinite rate: not NaN, as numpy.quantile would have it."""
    found = sample_quantiles(np.array([1, 2, *[np.inf] * 50], dtype=np.float32), np.array([0, 52]))

    assert found.tolist() == [[pytest.approx(1.51), math.inf, math.inf]]


def test_parts_of_all_dtypes_are_read_in_one_copy() -> None:
    """Each comes back as it was, NaN, infinity and nothing at all included."""
    parts = [torch.tensor([[1.5, math.nan, -math.inf]], dtype=torch.float64), torch.arange(5, dtype=torch.float32)]
    parts += [torch.empty(0), torch.tensor([[-7], [2**40]])]

    with Launches() as launches:
        read = read_at_once(parts)
    assert launches.reads == 0
    for found, wanted in zip(read, parts, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0.0, atol=0.0, equal_nan=True)


def test_numbers_travel_with_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a table that is elsewhere: those of its device in its copy, the rest as they are, each under its name."""
    readings = [reading(50)]
    columns = Columns.of(readings)
    table = measure(readings, columns)
    monkeypatch.setattr("lightning_adam.statistics.raw.HOST", "elsewhere")
    extra_scalars = {"norm": torch.tensor(0.5), "lr": 0.25, "clipped": torch.tensor(3), "flag": torch.tensor(True)}

    found, numbers = table.on_host(extra_scalars)
    assert numbers == {"norm": 0.5, "lr": 0.25, "clipped": 3.0, "flag": 1.0}
    torch.testing.assert_close(found.sums, table.sums, rtol=0.0, atol=0.0, equal_nan=True)
    assert torch.equal(found.sample, table.sample)


def test_nothing_to_measure_gives_an_empty_table(path: str) -> None:
    """No readings, no rows."""
    assert take_snapshot(0, []).table.shape == (0, len(COLUMNS))


def test_thread_count_changes_nothing() -> None:
    """The sums are added in the same order on one thread and on several: bit for bit the same table."""
    readings, threads = [reading(200_000, seed=1), reading(50_000, seed=2)], torch.get_num_threads()
    try:
        tables = []
        for count in (1, 3):
            torch.set_num_threads(count)
            tables.append(take_snapshot(0, readings).table)
    finally:
        torch.set_num_threads(threads)

    np.testing.assert_array_equal(*tables)


def test_inputs_are_left_alone(path: str) -> None:
    """Measuring writes to no tensor of the optimizer's."""
    of, untouched = reading(5000), reading(5000)
    take_snapshot(0, [of])

    assert torch.equal(of.parameter, untouched.parameter)
    assert of.moments is not None and untouched.moments is not None and of.gradient is not None
    for name in ("first", "second"):
        assert torch.equal(getattr(of.moments, name), getattr(untouched.moments, name))
    assert torch.equal(of.gradient, untouched.gradient)  # type: ignore[arg-type]


@pytest.mark.parametrize("compiler", [None, "/bin/false"])
def test_no_compiler_or_a_broken_one_falls_back(
    compiler: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without a compiler that works there is no kernel, no error, and the same numbers."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kernel, "_compiler", lambda: compiler)
    kernel._loading.cache_clear()
    of = reading()

    assert kernel.load() is None
    assert_agrees(take_snapshot(0, [of]), [of])
    kernel._loading.cache_clear()


def test_denormal_numbers_survive_loading_the_kernel() -> None:
    """The library does not switch the process to flush denormals to zero, as one linked with -ffast-math would."""
    code = "import numpy as np; from lightning_adam.statistics import kernel; kernel.load(); "
    code += "print(np.float32(1e-40) * np.float32(0.5))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)

    assert float(done.stdout) == pytest.approx(5e-41, rel=1e-3)
