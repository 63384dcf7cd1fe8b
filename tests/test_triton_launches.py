"""How the fused pass is launched: what fails is eager torch's, what is new is tried beside it, and all of it compiles."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_adam.statistics import TensorReading, repeated_pass, triton_kernel
from lightning_adam.statistics.batched import reduce_batched
from lightning_adam.statistics.columns import Columns
from lightning_adam.statistics.raw import empty_table
from tests import interpreted_triton
from tests.interpreted_triton import CPU, KERNELS, NAME, assert_same, assert_untouched, eager, fused
from tests.statistics_cases import Launches, mapped, of_moments
from tests.statistics_reference import reading
from tests.test_repeated_pass import Stepped, are_equal

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
fresh, program = interpreted_triton.fresh, interpreted_triton.program


@pytest.mark.slow
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


@pytest.mark.slow
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
