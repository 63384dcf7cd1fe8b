"""The fused pass for the GPU, run by Triton's interpreter on the CPU, and compiled for GPUs that are not here."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lightning_adam.statistics import COLUMNS, TensorReading, repeated_pass, triton_kernel
from lightning_adam.statistics.batched import reduce_batched
from lightning_adam.statistics.columns import Columns
from lightning_adam.statistics.elements import Reduction
from lightning_adam.statistics.quantities import MAXIMA
from lightning_adam.statistics.raw import RawTable, empty_table
from lightning_adam.statistics.snapshot import snapshot_of
from tests.statistics_reference import expected, reading
from tests.test_repeated_pass import Stepped, are_equal
from tests.test_statistics import FITTING, ODD, Launches, assert_agrees, mapped, of_moments, shards

NAME = "lightning_adam.statistics.triton_program"
KERNELS = ("add_units", "add_units_again", "draw", "add_rows")
CPU = torch.device("cpu")

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def loaded(interpret: bool) -> ModuleType:
    """The kernels afresh: Triton looks at TRITON_INTERPRET when a function is decorated, and at no other time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", str(int(interpret)))
        spec = importlib.util.spec_from_file_location(NAME, Path(triton_kernel.__file__).with_name("triton_program.py"))
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


class Recorded:
    """A kernel that keeps how it was launched, and may fail instead."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.launches, self.fails = kernel, list[tuple[tuple[Any, ...], dict[str, Any]]](), False

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*args: Any, **options: Any) -> None:
            if self.fails:
                raise RuntimeError("it does not compile")
            self.launches.append((args, options))
            self.kernel[grid](*args, **options)

        return launch


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has failed yet, and nothing has been said."""
    monkeypatch.setattr(triton_kernel, "_failures", [])
    monkeypatch.setattr(triton_kernel, "_trusted", EveryKind())
    triton_kernel._say.cache_clear()


class EveryKind(set[Any]):
    """As if all kinds had been tested beside eager torch."""

    def __rsub__(self, kinds: Any) -> set[Any]:
        return set()

    def __contains__(self, kind: object) -> bool:
        return True


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, fresh: None) -> Iterator[Any]:
    """The kernels as the interpreter runs them, on CPU tensors, each recorded."""
    triton = pytest.importorskip("triton")
    module = loaded(interpret=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        interpreted = {name: triton.jit(getattr(triton.language, name).fn) for name in ("sum", "max", "min")}
    language = triton.language
    patched = [language, language.core, language.tensor, language.math, language.dtype, language.condition]
    before = [dict(vars(of)) for of in patched]
    for name, function in interpreted.items():  # of Triton's own library, which may have been imported without
        setattr(language, name, function)
    for name in KERNELS:
        setattr(module, name, Recorded(getattr(module, name)))
    monkeypatch.setitem(sys.modules, NAME, module)
    yield module
    for of, original in zip(patched, before, strict=True):  # the interpreter leaves most of it patched
        for name, value in list(vars(of).items()):
            if value is not original.get(name):
                setattr(of, name, original[name]) if name in original else delattr(of, name)


def fused(readings: Sequence[TensorReading], fitting: int | None = None) -> RawTable:
    """As measure() on a GPU: what fits by the kernels, the rest in eager torch."""
    columns = Columns.of(readings)
    table = empty_table(columns.sampling, CPU)
    rows = triton_kernel.reduce(readings, columns, table)
    assert triton_kernel._failures == []
    assert len(rows) == (len(readings) if fitting is None else fitting)
    rest = [row for row in range(len(readings)) if row not in rows]
    if rest:
        reduce_batched(readings, rest, columns, table)
    return table


def eager(readings: Sequence[TensorReading]) -> RawTable:
    """All in plain torch."""
    columns = Columns.of(readings)
    table = empty_table(columns.sampling, CPU)
    reduce_batched(readings, range(len(readings)), columns, table)
    return table


def assert_same(found: RawTable, wanted: RawTable) -> None:
    """The raw rows to 1e-5, the sample to float32's rounding, and the histograms but for values on an edge."""
    close: dict[str, Any] = {"rtol": 1e-5, "atol": 0.0, "equal_nan": True}
    torch.testing.assert_close(found.sums, wanted.sums, **close)
    torch.testing.assert_close(found.maxima, wanted.maxima, **close)
    torch.testing.assert_close(found.sample, wanted.sample, rtol=5e-7, atol=0.0, equal_nan=True)
    assert (found.counts - wanted.counts).abs().sum() <= 1e-3 * wanted.counts.sum()
    assert torch.equal(found.counts.sum(-1), wanted.counts.sum(-1))


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


def assert_untouched(table: RawTable) -> None:
    """No row and no count is filled in."""
    assert not table.sums.any()
    assert not table.counts.any()
    assert (table.maxima == -math.inf).all()


def test_mixed_tensors_keep_their_rows(program: Any) -> None:
    """Kinds are launched together, whatever their order, and each tensor gets its own row."""
    readings = [make() for pair in itertools.zip_longest(FITTING.values(), ODD.values()) for make in pair if make]

    assert_agrees(snapshot_of(0, Columns.of(readings), fused(readings, len(FITTING) + 1)), readings)


@pytest.mark.parametrize("numel", [1023, 1024, 1025, 8191, 8192, 8193, 9216, 30_000])
def test_blocks_and_units_add_up(numel: int, program: Any) -> None:
    """Tensors that end before, at and after the end of a block or a unit, beside others."""
    readings = [reading(numel, seed=1), reading(700, seed=2), reading(numel, seed=3, amsgrad=True)]

    assert_same(fused(readings), eager(readings))


def test_large_tensors_agree(program: Any) -> None:
    """Many units, of which the kernel that adds them up takes several turns; the sample is one in many."""
    program.DEPTH = type(program.DEPTH)(4)  # the real depth needs half a million elements, ten seconds
    readings = [reading(120_003, seed=1), reading(70_003, seed=2)]
    raw = fused(readings)
    columns = [column for column, name in enumerate(COLUMNS) if not name.startswith("effective_lr")]

    assert_same(raw, eager(readings))
    table = snapshot_of(0, Columns.of(readings), raw).table
    for row, of in enumerate(readings):
        wanted = [expected(of).get(COLUMNS[column], math.nan) for column in columns]
        np.testing.assert_allclose(table[row, columns], wanted, rtol=1e-5)


def test_only_what_float32_does_not_hold_is_summed_again(program: Any) -> None:
    """The second pass is for units that over- or underflow, or hold NaN; dead units and zero gradients are none of these."""
    dead = mapped(reading(9000), torch.zeros_like)
    dead = dataclasses.replace(dead, parameter=torch.ones(9000))
    spoiled = reading(20_000)
    assert spoiled.gradient is not None
    spoiled.gradient[9000] = math.nan
    cases = {"good": reading(9000), "dead": dead, "still": reading(9000, gradient=torch.zeros(9000))}
    cases |= {"huge": reading(9000, parameter=torch.full((9000,), 1e25)), "spoiled": spoiled}
    cases |= {"tiny": reading(9000, scale=1e-20), "small eps": reading(9000, eps=1e-20)}
    fused(list(cases.values()))
    (launch,) = program.add_units.launches

    good = [1, 1]
    held = torch.split(launch[0][3], [2, 2, 2, 2, 3, 2, 2])
    wanted = [good, good, good, [0, 0], [1, 0, 1], [0, 0], [0, 0]]
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
    readings = [reading(70_001, seed=1), reading(900, seed=2, amsgrad=True), reading(2, seed=5)]
    cuts = ((20_001, 33_333), (0, 450), (1, 1))
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
@pytest.mark.parametrize("at", [100, 2900])
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


def test_launches_do_not_grow_with_the_tensors(program: Any) -> None:
    """Two tensors and forty, of two kinds in turn, take the same launches and torch operations, and no host read."""
    counted = []
    for count in (2, 40):
        readings = [reading(100, seed=seed, amsgrad=seed % 2 == 1) for seed in range(count)]
        columns = Columns.of(readings)
        table = empty_table(columns.sampling, CPU)
        before = sum(len(getattr(program, name).launches) for name in KERNELS)
        with Launches() as torch_operations:
            triton_kernel.reduce(readings, columns, table)
        launches = sum(len(getattr(program, name).launches) for name in KERNELS) - before
        counted.append((launches, torch_operations.count, torch_operations.reads))

    assert counted[0] == counted[1]
    assert counted[0][0] == 2 * 3 + 1
    assert counted[0][2] == 0


def test_inputs_are_left_alone(program: Any) -> None:
    """Measuring writes to no tensor of the optimizer's."""
    of, untouched = reading(2000), reading(2000)
    fused([of])

    pairs = zip(tensors_of(of), tensors_of(untouched), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def tensors_of(of: TensorReading) -> list[torch.Tensor]:
    """θ, g, m, v."""
    assert of.moments is not None and of.gradient is not None
    assert of.moments.first is not None and of.moments.second is not None
    return [of.parameter, of.gradient, of.moments.first, of.moments.second]


def test_nothing_to_measure(program: Any) -> None:
    """No readings, or only empty shards: no launch."""
    empty = mapped(reading(4), lambda tensor: tensor[:0])
    for readings in ([], [dataclasses.replace(empty, whole=4, offset=4)]):
        columns = Columns.of(readings)
        assert triton_kernel.reduce(readings, columns, empty_table(columns.sampling, CPU)) == frozenset()
    assert program.add_units.launches == []


@pytest.mark.parametrize("failing", KERNELS)
def test_a_kernel_that_fails_leaves_everything_to_eager_torch(
    failing: str, program: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """No row is half filled in, it is said once, at debug level, and not tried again."""
    caplog.set_level(logging.DEBUG, logger="lightning_adam")
    readings = [reading(5000, seed=1), reading(300, seed=2, amsgrad=True)]
    columns = Columns.of(readings)
    getattr(program, failing).fails = True
    for _ in range(2):
        table = empty_table(columns.sampling, CPU)
        assert triton_kernel.reduce(readings, columns, table) == frozenset()
        assert_untouched(table)
        reduce_batched(readings, range(2), columns, table)
        assert_same(table, eager(readings))

    messages = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert messages == [(logging.DEBUG, "No fused statistics on the GPU: RuntimeError: it does not compile")]


@pytest.mark.parametrize("why", ["no Triton", "eager"])
def test_without_triton_nothing_is_filled_in(
    why: str, fresh: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where Triton is missing or not wanted: no rows, and one line at debug level."""
    caplog.set_level(logging.DEBUG, logger="lightning_adam")
    if why == "eager":
        monkeypatch.setenv("LIGHTNING_ADAM_KERNEL", "eager")
    monkeypatch.setitem(sys.modules, NAME, None)
    readings = [reading()]
    columns = Columns.of(readings)
    for _ in range(2):
        table = empty_table(columns.sampling, CPU)
        assert triton_kernel.reduce(readings, columns, table) == frozenset()
        assert_untouched(table)

    (record,) = caplog.records
    assert (record.levelno, "eager" in record.getMessage()) == (logging.DEBUG, why == "eager")


def test_a_kind_is_first_tried_beside_eager_torch(program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once in a process, on the largest tensor of the kind up to 2¹⁸ elements."""
    monkeypatch.setattr(triton_kernel, "_trusted", set())
    readings = [reading(900, seed=1), reading(2000, seed=2), reading(50, seed=3, amsgrad=True)]

    assert_same(fused(readings), eager(readings))
    assert len(triton_kernel._trusted) == 2
    launched = len(program.add_units.launches)
    assert_same(fused(readings), eager(readings))
    assert launched == 2 + 2
    assert len(program.add_units.launches) == launched + 2


def test_numbers_that_are_not_eager_torchs_are_not_used(program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that a driver, a compiler or a GPU gets wrong is given up, and the table is left to eager torch."""
    monkeypatch.setattr(triton_kernel, "_trusted", set())
    add = program.add_rows

    class Wrong:
        def __getitem__(self, grid: Any) -> Any:
            def run(packed: Any, partial: Any, sums: Any, *rest: Any, **options: Any) -> None:
                add[grid](packed, partial, sums, *rest, **options)
                sums[:, 0] *= 1.01

            return run

    monkeypatch.setattr(program, "add_rows", Wrong())
    readings = [reading(900, seed=1)]
    columns = Columns.of(readings)
    table = empty_table(columns.sampling, torch.device("cpu"))

    assert triton_kernel.reduce(readings, columns, table) == frozenset()
    assert "differ" in triton_kernel._failures[0]
    assert not table.sums.any()
    assert triton_kernel.load() is None


@pytest.mark.parametrize("on_host", [True, False], ids=["t on the host", "t on the GPU"])
def test_a_pass_is_repeated(on_host: bool, program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept between two logged steps gives what reading everything anew gives, bit for bit."""
    monkeypatch.setitem(repeated_pass.ENGINES, "cpu", triton_kernel)
    monkeypatch.setattr(repeated_pass, "_are_on_host", lambda steps: on_host)
    of = Stepped()
    again = of.keep()
    assert again is not None
    for _ in range(3):
        of.step()
        again.calls += 1

    found = again.snapshot(7, {"norm": torch.tensor(0.5)})
    assert found is not None
    assert are_equal(found, of.anew())
    assert found.extra_scalars == {"norm": 0.5}


def test_wrong_steps_are_noticed(program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scaler that skipped a fused step: t is not what the calls say, and everything is read anew."""
    monkeypatch.setitem(repeated_pass.ENGINES, "cpu", triton_kernel)
    monkeypatch.setattr(repeated_pass, "_are_on_host", lambda steps: False)
    of = Stepped()
    again = of.keep()
    assert again is not None
    of.step()
    again.calls += 2

    assert again.snapshot(7) is None


def test_the_interpreter_is_given_no_addresses_of_a_gpu(program: Any) -> None:
    """Somebody who debugs kernels of their own with TRITON_INTERPRET=1 on a GPU gets eager statistics, and no crash."""
    there: Any = SimpleNamespace(sums=SimpleNamespace(is_cuda=True, device=torch.device("cpu")))
    readings = [reading()]

    assert program.INTERPRETED
    assert triton_kernel.reduce(readings, Columns.of(readings), there) == frozenset()
    assert triton_kernel._failures == program.add_units.launches == []


def test_memory_that_runs_out_is_no_fault_of_tritons(program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is raised, for the callback to report, and the kernel is tried again next time."""
    readings = [reading()]
    columns = Columns.of(readings)
    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(triton_kernel, "sent", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError()))
        triton_kernel.reduce(readings, columns, empty_table(columns.sampling, CPU))

    fused(readings)


def variants() -> list[TensorReading]:
    """Of all kinds: as usual, AMSGrad, 16-bit moments, and views that begin anywhere."""
    plain = reading(100, scale=1.0)
    assert plain.moments is not None
    halved = dataclasses.replace(plain, moments=of_moments(plain.moments, torch.Tensor.bfloat16))
    shifted = mapped(plain, lambda tensor: torch.cat([torch.zeros(1), tensor])[1:])
    return [plain, reading(100, amsgrad=True), halved, shifted]


@pytest.mark.parametrize("capability", [80, 90])
def test_everything_that_is_launched_compiles(capability: int, program: Any, tmp_path: Path) -> None:
    """Down to machine code for an A100 and an H100, with the launches' own types of arguments. The pass that all data go
    through loads 16 bytes at a time, and spills no registers."""
    pytest.importorskip("triton", minversion="3.3")
    fused(variants())
    launches = [described(name, *launch) for name in KERNELS for launch in getattr(program, name).launches]
    wanted = [launch for index, launch in enumerate(launches) if launch not in launches[:index]]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("compile_triton.py")), str(capability)],
        env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"},
        input=json.dumps(wanted),
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    found = json.loads(done.stdout)
    assert len(found) == len(wanted) == 4 + 3 + 2 + 1
    for launch, made in zip(wanted, found, strict=True):
        constants = launch["constants"]
        if launch["kernel"] == "add_units" and constants["ALIGNED"] and constants["V"] == "fp32":
            assert made["wide"] >= 8
            assert made["registers"] <= 128
            assert made["stack"] <= 16


def described(kernel: str, args: tuple[Any, ...], options: dict[str, Any]) -> dict[str, Any]:
    """A launch as JSON: types of arguments, constants, and options of the compiler."""
    types = {torch.int64: "*i64", torch.float64: "*fp64", torch.float32: "*fp32", torch.int32: "*i32"}
    constants = {key: getattr(value, "name", value) for key, value in options.items() if key.isupper()}
    return {
        "kernel": kernel,
        "types": [types[arg.dtype] if isinstance(arg, torch.Tensor) else "i32" for arg in args],
        "constants": constants,
        "options": {key: value for key, value in options.items() if not key.isupper()},
    }
