"""The fused pass for the GPU as Triton's interpreter runs it on the CPU, and what it is compared with."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from lightning_adam.statistics import TensorReading, triton_kernel
from lightning_adam.statistics.batched import reduce_batched
from lightning_adam.statistics.columns import Columns
from lightning_adam.statistics.raw import RawTable, empty_table

NAME = "lightning_adam.statistics.triton_program"

KERNELS = ("add_units", "add_units_again", "draw", "add_rows")

CPU = torch.device("cpu")


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


class PatchedOnce:
    """The interpreter's replacement of Triton's language, once in a test and not at each call of a function.

    Each call would look through the whole language for what is not yet replaced, which takes longer than what is called.
    """

    def __init__(self, interpreter: Any) -> None:
        self.patch, self.scope = interpreter._patch_lang, interpreter._LangPatchScope
        self.modules = set[str]()

    def __call__(self, function: Callable[..., Any]) -> Any:
        """What is to be set back after the call: nothing, as ``program`` does so in the end."""
        if function.__module__ not in self.modules:
            self.modules.add(function.__module__)
            self.patch(function)
        return self.scope()


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
    interpreter = importlib.import_module("triton.runtime.interpreter")
    module = loaded(interpret=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        interpreted = {name: triton.jit(getattr(triton.language, name).fn) for name in ("sum", "max", "min")}
    language = triton.language
    patched = [language, language.core, language.tensor, language.math, language.dtype, language.condition]
    patched.append(language.core.tensor_descriptor_base)
    before = [dict(vars(of)) for of in patched]
    for name, function in interpreted.items():  # of Triton's own library, which may have been imported without
        setattr(language, name, function)
    monkeypatch.setattr(interpreter, "_patch_lang", PatchedOnce(interpreter))
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


def assert_untouched(table: RawTable) -> None:
    """No row and no count is filled in."""
    assert not table.sums.any()
    assert not table.counts.any()
    assert (table.maxima == -math.inf).all()
