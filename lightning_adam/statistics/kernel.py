"""The compiled pass over all tensors of a step: ``kernel.cpp``, built on its first use and called through ctypes.

Building takes about four seconds, once per machine: the library is kept under ``$XDG_CACHE_HOME/lightning_adam`` (else
``~/.cache``). Where there is no compiler (``$CXX``, c++, g++, clang++), and while a slow one works, everything is computed
in plain torch, about twenty times slower and otherwise alike. ``LIGHTNING_ADAM_KERNEL=eager`` asks for that.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_adam.moments.packed import Blockwise
from lightning_adam.statistics.columns import Columns
from lightning_adam.statistics.cpp_macros import macros
from lightning_adam.statistics.elements import Reduction
from lightning_adam.statistics.library import Loading, Recipe, obtain
from lightning_adam.statistics.quantities import LOG10_EDGES, MAXIMA, SUMS
from lightning_adam.statistics.raw import RawTable
from lightning_adam.statistics.reading import TensorReading

LOG = logging.getLogger("lightning_adam")

SOURCE = Path(__file__).with_name("kernel.cpp")
OPTIONS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", "-pthread")
FLAGS = (*OPTIONS, *macros(SUMS, MAXIMA))

SYMBOLS = ("lightning_adam_reduce", "lightning_adam_quantiles")
TRIAL = """
import sys
from ctypes import CDLL, c_double, c_float, c_int, c_int64
library, out = CDLL(sys.argv[1]), (c_double * 1)()
sample, begins, level = (c_float * 3)(3.0, 1.0, 2.0), (c_int64 * 2)(0, 3), (c_double * 1)(0.5)
failed = library.lightning_adam_quantiles(sample, begins, c_int64(1), level, c_int(1), c_int(1), out)
sys.exit(failed or out[0] != 2.0)
"""
"""That a median is right."""

CPU = torch.device("cpu")

PARTS = ("p", "g", "m", "v", "d", "before")
"""``enum Part`` in kernel.cpp; as in elements.py."""
KINDS = {torch.float32: 1, torch.bfloat16: 2}
CODES = 3
"""``enum Kind`` in kernel.cpp; 0 is what a tensor does not have."""
PACKING = np.dtype([("scales", np.uint64), ("table", np.uint64), ("block", np.int64)])
TASK = np.dtype(
    [("places", np.uint64, len(PARTS)), ("kinds", np.int64, len(PARTS)), ("packings", PACKING, len(PARTS))]
    + [(name, np.int64) for name in ("numel", "offset", "slot", "stride", "slots")]
    + [(name, np.float64) for name in ("first_scale", "second_scale", "eps", "lr", "share", "stretch")]
)
"""``struct Tensor`` in kernel.cpp."""


class Places(NamedTuple):
    """Where a tensor's PARTS lie, of which KINDS they are, and what they are unpacked with, each as a PACKING."""

    places: tuple[int, ...]
    kinds: tuple[int, ...]
    packings: tuple[_Packing, ...]


_Packing = tuple[int, int, int]
_Place = tuple[int, int, _Packing]
"""Of one part."""
NO_PACKING = (0, 0, 0)
ABSENT = (0, 0, NO_PACKING)


def fits(reading: TensorReading, device: torch.device = CPU) -> bool:
    """Whether the kernel alone can read this tensor from now on: Adam's formula on plain, contiguous float32 on the CPU."""
    found = _places(reading) if device.type == "cpu" else None
    return found is not None and found.kinds == FORMULA


def reduce(readings: Sequence[TensorReading], columns: Columns, table: RawTable) -> frozenset[int]:
    """Fills in what the kernel can compute, and returns the rows; none where there is no kernel.

    Args:
        readings: of all tensors.
        columns: of all tensors.
        table: of all tensors, from :func:`~lightning_adam.statistics.raw.empty_table`.
    """
    found = [] if load() is None else list(map(_places, readings))
    rows = np.array([row for row, at in enumerate(found) if at is not None], dtype=np.int64)
    if len(rows) == 0:
        return frozenset()
    places, kinds, packings = zip(*[at for at in found if at is not None], strict=True)
    tasks = _tasks(columns, rows, np.array(places, dtype=np.uint64), np.array(kinds, dtype=np.int64))
    tasks["packings"] = np.array(packings, dtype=np.uint64).view(PACKING)[..., 0]
    return frozenset(rows.tolist()) if _run(tasks, rows, table) else frozenset()


def repeat(columns: Columns, places: NDArray[np.uint64], dtypes: Sequence[tuple[torch.dtype, ...]], table: RawTable) -> bool:
    """As :func:`reduce`, of tensors that all fit, when only their elements and numbers have changed; whether it was done.

    Args:
        columns: of all tensors.
        places: where their parameters, gradients, m, v and denominators begin, [5, n_tensors].
        dtypes: of parameter, gradient, m and v: float32.
        table: of all tensors.
    """
    if load() is None:
        return False
    rows = np.arange(len(dtypes))
    whole = np.vstack([places, np.zeros((1, len(rows)), dtype=np.uint64)]).T
    return _run(_tasks(columns, rows, whole, np.tile(np.array(FORMULA), (len(rows), 1))), rows, table)


FORMULA = (1, 1, 1, 1, 1, 0)
"""Of 32-bit tensors whose step the state tells."""


def _run(tasks: NDArray[Any], rows: NDArray[np.int64], table: RawTable) -> bool:
    library = load()
    assert library is not None
    sums, maxima = np.zeros((len(rows), len(SUMS))), np.full((len(rows), len(MAXIMA)), -np.inf)
    counts = np.zeros((len(rows), *table.counts.shape[1:]), dtype=np.int32)
    outputs = (sums, maxima, counts, table.sample.numpy())
    failed = library.lightning_adam_reduce(
        _pointer(tasks), len(tasks), _pointer(LOG10_EDGES), torch.get_num_threads(), *map(_pointer, outputs)
    )
    if not failed:
        _put(table, tasks, rows, sums, maxima)
        table.counts.numpy()[rows] = counts
    return not failed


def _places(reading: TensorReading) -> Places | None:
    """Where its parts lie, or None if the kernel cannot read one of them."""
    moments = reading.moments if reading.moments is not None and reading.moments.step > 0 else None
    stored = () if moments is None else (moments.stored_first, moments.stored_second, moments.stored_denominator)
    first, second, denominator = stored or (None, None, None)
    if reading.gradient is None or (denominator is None) != (second is None):
        return None
    size = reading.parameter.numel()
    parts = (reading.parameter, reading.gradient, first, second, denominator, reading.before)
    found = [_place(part, size) for part in parts]
    return None if None in found else Places(*zip(*found, strict=True))  # type: ignore[arg-type]


def _place(part: Tensor | Blockwise | None, size: int) -> _Place | None:
    """Of a part of so many elements; None for what the kernel cannot read."""
    if part is None:
        return ABSENT
    if isinstance(part, Blockwise):
        return _blockwise_place(part, size)
    kind = KINDS.get(part.dtype) if _is_plain(part, size) else None
    return None if kind is None else (part.data_ptr(), kind, NO_PACKING)


def _blockwise_place(part: Blockwise, size: int) -> _Place | None:
    """None where a table or the scales are too short for the codes."""
    tensors, sizes = (part.codes, part.scales, part.table), (size, -(-size // part.block), 256)
    right = all(_is_plain(tensor, length) for tensor, length in zip(tensors, sizes, strict=True))
    if not right or [tensor.dtype for tensor in tensors] != [torch.uint8, torch.float32, torch.float32]:
        return None
    return part.codes.data_ptr(), CODES, (part.scales.data_ptr(), part.table.data_ptr(), part.block)


def _is_plain(tensor: Tensor, size: int) -> bool:
    return (
        type(tensor) is Tensor
        and tensor.is_cpu
        and tensor.layout is torch.strided
        and tensor.is_contiguous()
        and tensor.numel() == size
    )


def _tasks(columns: Columns, rows: NDArray[np.int64], places: NDArray[np.uint64], kinds: NDArray[np.int64]) -> NDArray[Any]:
    """One TASK per row."""
    tasks, sampling = np.zeros(len(rows), dtype=TASK), columns.sampling
    tasks["places"], tasks["kinds"] = places, kinds
    for name in ("numel", "offset", "first_scale", "second_scale", "eps", "lr", "share", "stretch"):
        tasks[name] = getattr(columns, name)[rows]
    for name, values in (("slot", sampling.begins), ("stride", sampling.strides), ("slots", sampling.sizes)):
        tasks[name] = values[rows]
    for scale, part in (("first_scale", "m"), ("second_scale", "v")):
        tasks[scale][kinds[:, PARTS.index(part)] == 0] = 1.0
    return tasks


def _put(table: RawTable, tasks: NDArray[Any], rows: NDArray[np.int64], sums: NDArray[Any], maxima: NDArray[Any]) -> None:
    """Into the table; what takes a part that a tensor does not have is not to be had."""
    lacking = tasks["kinds"] == 0
    sums[lacking @ _TAKEN_BY_SUMS] = np.nan
    maxima[lacking @ _TAKEN_BY_MAXIMA] = -np.inf
    table.sums.numpy()[rows], table.maxima.numpy()[rows] = sums, maxima


def _taken_by(reductions: Sequence[Reduction]) -> NDArray[np.bool_]:
    """Which of PARTS each of them takes, [n_parts, n_reductions]."""
    return np.array([[part in reduction.parts for reduction in reductions] for part in PARTS])


_TAKEN_BY_SUMS, _TAKEN_BY_MAXIMA = _taken_by(SUMS), _taken_by(MAXIMA)


def quantiles(sample: NDArray[np.float32], begins: NDArray[np.int64], at: Sequence[float]) -> NDArray[np.float64] | None:
    """float64 [n_tensors, n_quantiles], or None where there is no kernel."""
    library = load()
    if library is None:
        return None
    levels, out = np.array(at), np.empty((len(begins) - 1, len(at)))
    failed = library.lightning_adam_quantiles(
        *(_pointer(np.ascontiguousarray(sample)), _pointer(begins), len(out), _pointer(levels), len(levels)),
        *(torch.get_num_threads(), _pointer(out)),
    )
    return None if failed else out


def _pointer(array: NDArray[Any]) -> int:
    """Where its data begins; ``array.ctypes.data`` takes longer."""
    return int(array.__array_interface__["data"][0])


def load() -> ctypes.CDLL | None:
    """The compiled kernel, or None: no compiler, not built yet, or ``LIGHTNING_ADAM_KERNEL=eager``."""
    return None if os.environ.get("LIGHTNING_ADAM_KERNEL") == "eager" else _loading(_compiler()).value()


@functools.cache
def _loading(compiler: str | None) -> Loading:
    return Loading(functools.partial(_load_or_build, compiler))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_loading.cache_clear)  # the thread that builds it is not in the child


def _load_or_build(compiler: str | None) -> ctypes.CDLL | None:
    if compiler is None:
        LOG.info("No C++ compiler ($CXX, c++, g++, clang++) was found: statistics are computed in plain torch, slower.")
        return None
    library = obtain(Recipe(SOURCE, compiler, FLAGS, _processor(), SYMBOLS, TRIAL))
    if library is not None:
        numbers, pointer = (ctypes.c_int64, ctypes.c_int), ctypes.c_void_p
        library.lightning_adam_reduce.argtypes = [pointer, numbers[0], pointer, numbers[1], *[pointer] * 4]
        library.lightning_adam_quantiles.argtypes = [pointer, pointer, numbers[0], pointer, numbers[1], numbers[1], pointer]
    return library


@functools.cache
def _compiler() -> str | None:
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def _processor() -> str:
    """What ``-march=native`` depends on: a home may be shared by machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
