"""The compiled pass over all tensors of a step: ``kernel.cpp``, built on its first use and called through ctypes.

Building takes about two seconds, once per machine: the library is kept under ``$XDG_CACHE_HOME/lightning_adam`` (else
``~/.cache``). Where there is no compiler (``$CXX``, c++, g++, clang++), everything is computed in eager torch, several times
slower and otherwise alike. ``LIGHTNING_ADAM_KERNEL=eager`` asks for that.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_adam.statistics.quantities import BINS, LOG10_EDGES
from lightning_adam.statistics.raw import KERNEL_MAXIMA, KERNEL_SUMS, Sampling, bias_scale
from lightning_adam.statistics.reading import TensorReading

LOG = logging.getLogger("lightning_adam")

SOURCE = Path(__file__).with_name("kernel.cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", "-pthread")

TASK = np.dtype(
    [(name, np.uint64) for name in ("parameter", "gradient", "first", "second", "denominator")]
    + [(name, np.int64) for name in ("numel", "offset", "slot", "stride", "slots")]
    + [(name, np.float32) for name in ("first_scale", "second_scale", "eps", "lr")]
)
"""``struct Tensor`` in kernel.cpp."""


def fits(reading: TensorReading) -> bool:
    """Whether the kernel can read this tensor: Adam's formula on plain, contiguous float32 on the CPU."""
    moments, parameter = reading.moments, reading.parameter
    if moments is None or moments.step < 1 or reading.gradient is None or reading.measured_step is not None:
        return False
    shape = parameter.shape
    return (
        reading.lost is None
        and _is_plain(parameter, shape)
        and _is_plain(reading.gradient, shape)
        and _is_plain(moments.first, shape)
        and _is_plain(moments.second, shape)
        and (moments.denominator is moments.second or _is_plain(moments.denominator, shape))
    )


def _is_plain(tensor: Tensor | None, shape: torch.Size) -> bool:
    return (
        type(tensor) is Tensor
        and tensor.dtype is torch.float32
        and tensor.is_cpu
        and tensor.layout is torch.strided
        and tensor.is_contiguous()
        and tensor.shape == shape
    )


def reduce(
    readings: Sequence[TensorReading], rows: Sequence[int], sampling: Sampling, sample: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Sums (KERNEL_SUMS and both histograms) and KERNEL_MAXIMA of tensors that fit; None where there is no kernel.

    Args:
        readings: of all tensors.
        rows: which of them to measure; each of them :func:`fits`.
        sampling: of all tensors.
        sample: of all tensors, float32; those parts are filled in.
    """
    library = load()
    if library is None:
        return None
    tasks = np.array([_task(readings[row]) for row in rows], dtype=TASK)
    for name, values in (("slot", sampling.begins), ("stride", sampling.strides), ("slots", sampling.sizes)):
        tasks[name] = values[rows]
    sums = np.zeros((len(tasks), len(KERNEL_SUMS) + 2 * BINS))
    maxima = np.full((len(tasks), len(KERNEL_MAXIMA)), -np.inf)
    failed = library.lightning_adam_reduce(
        _pointer(tasks), len(tasks), _pointer(LOG10_EDGES), torch.get_num_threads(), *map(_pointer, (sums, maxima, sample))
    )
    sums[:, len(KERNEL_SUMS) :] *= sampling.weights()[rows, None]
    return None if failed else (sums, maxima)


def _task(reading: TensorReading) -> tuple[float, ...]:
    moments = reading.moments
    assert moments is not None and reading.gradient is not None
    assert moments.first is not None and moments.second is not None and moments.denominator is not None
    second = moments.second.data_ptr()
    denominator = second if moments.denominator is moments.second else moments.denominator.data_ptr()
    return (
        *(reading.parameter.data_ptr(), reading.gradient.data_ptr(), moments.first.data_ptr(), second, denominator),
        *(reading.parameter.numel(), reading.offset, 0, 1, 0),
        *(bias_scale(moments.beta1, moments.step), bias_scale(moments.beta2, moments.step), reading.eps, reading.lr),
    )


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


def _pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def load() -> ctypes.CDLL | None:
    """The compiled kernel, or None: no compiler, or ``LIGHTNING_ADAM_KERNEL=eager``."""
    return None if os.environ.get("LIGHTNING_ADAM_KERNEL") == "eager" else _built(_compiler())


@functools.cache
def _built(compiler: str | None) -> ctypes.CDLL | None:
    if compiler is None:
        return None
    try:
        library = ctypes.CDLL(str(_library(compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        LOG.debug("No compiled statistics: %s", error)
        return None
    numbers, pointer = (ctypes.c_int64, ctypes.c_int), ctypes.c_void_p
    library.lightning_adam_reduce.argtypes = [pointer, numbers[0], pointer, numbers[1], pointer, pointer, pointer]
    library.lightning_adam_quantiles.argtypes = [pointer, pointer, numbers[0], pointer, numbers[1], numbers[1], pointer]
    return library


@functools.cache
def _compiler() -> str | None:
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def _library(compiler: str) -> Path:
    """The library for this source, compiler and processor, built unless it is there."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=20).stdout
    parts = (SOURCE.read_bytes(), version, " ".join(FLAGS).encode(), _processor().encode())
    name = f"kernel-{hashlib.sha256(b'|'.join(parts)).hexdigest()[:20]}.so"
    folder = _cache_folder()
    if not (folder / name).exists():
        _build(compiler, folder / name)
    return folder / name


def _build(compiler: str, target: Path) -> None:
    """Under a name of its own first: several ranks may build at once, and one may be killed halfway."""
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch) / target.name
        command = [compiler, *FLAGS, "-fPIC", "-shared", str(SOURCE), "-o", str(made)]
        subprocess.run(command, capture_output=True, check=True, timeout=120)
        os.replace(made, target)


def _cache_folder() -> Path:
    """The user's own; where the home cannot be written to, a new one that nobody else can."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lightning_adam"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="lightning_adam-"))


def _processor() -> str:
    """What ``-march=native`` depends on: a home may be shared by machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
