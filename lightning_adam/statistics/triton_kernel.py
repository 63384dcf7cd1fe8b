"""The fused pass over all tensors of a step on the GPU: ``triton_program.py``, launched over a table of addresses.

θ, g, m and v are read once, by a number of launches that does not grow with the number of tensors, and nothing is read back
to the host. Triton, which torch's CUDA wheels bring along, compiles each kind of launch on its first use (about three
seconds, with a C compiler for its launcher) and keeps it under ``~/.triton/cache``. Where it is missing or fails,
everything is computed in plain torch, otherwise alike. ``LIGHTNING_ADAM_KERNEL=eager`` asks for that.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_adam.statistics.batched import reduce_batched
from lightning_adam.statistics.columns import Columns
from lightning_adam.statistics.quantities import BINS, LOG10_EDGES
from lightning_adam.statistics.raw import RawTable, empty_table
from lightning_adam.statistics.reading import TensorReading
from lightning_adam.statistics.transfer import sent

LOG = logging.getLogger("lightning_adam")

DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
"""What the kernel reads, each array in its own; Triton's names for them."""

FUSED: dict[str, Any] = {"num_warps": 4, "enable_fp_fusion": True}
"""How the kernels are compiled. Multiplying and adding in one is the default up to Triton 3.9, which warns about it."""


class Kind(NamedTuple):
    """What tensors that one launch reads have in common: the dtypes of θ, g, m and v, whether the denominator is another
    than v, and whether all begin at multiples of 16 bytes."""

    parameter: str
    gradient: str
    first: str
    second: str
    amsgrad: bool
    aligned: bool


@functools.cache
def _kind(dtypes: tuple[torch.dtype, ...], amsgrad: bool, aligned: bool) -> Kind | None:
    """None where the kernel cannot read one of the dtypes."""
    known = [DTYPES[dtype] for dtype in dtypes if dtype in DTYPES]
    return Kind(*known, amsgrad, aligned) if len(known) == 4 else None  # type: ignore[arg-type, call-arg]


class Fitting(NamedTuple):
    """A tensor that the kernel reads: its row, its kind, and where its parameter, gradient, m, v and denominator lie."""

    row: int
    kind: Kind
    places: tuple[int, ...]


def fits(reading: TensorReading, device: torch.device) -> bool:
    """Whether the kernel can read this tensor: Adam's formula on plain, contiguous tensors of DTYPES on this device."""
    return _fitting(0, reading, _index(device)) is not None


def _index(device: torch.device) -> int:
    """As ``Tensor.get_device()``."""
    return -1 if device.index is None else device.index


def _fitting(row: int, reading: TensorReading, index: int) -> Fitting | None:
    moments, p, g = reading.moments, reading.parameter, reading.gradient
    if moments is None or moments.step < 1 or reading.before is not None:
        return None
    m, v, denominator = moments.first, moments.second, moments.denominator
    if g is None or m is None or v is None or denominator is None or denominator.dtype != v.dtype:
        return None
    size, amsgrad = p.numel(), denominator is not v
    if not (_is_plain(p, size, index) and _is_plain(g, size, index) and _is_plain(m, size, index)) or size == 0:
        return None
    if not (_is_plain(v, size, index) and _is_plain(denominator, size, index)):
        return None
    a, b, c, d, e = p.data_ptr(), g.data_ptr(), m.data_ptr(), v.data_ptr(), denominator.data_ptr()
    kind = _kind((p.dtype, g.dtype, m.dtype, v.dtype), amsgrad, (a | b | c | d | e) % 16 == 0)
    return None if kind is None else Fitting(row, kind, (a, b, c, d, e))


def _is_plain(tensor: Tensor, size: int, index: int) -> bool:
    return (
        (type(tensor) is Tensor or type(tensor) is torch.nn.Parameter)
        and tensor.get_device() == index
        and tensor.layout is torch.strided
        and tensor.is_contiguous()
        and tensor.numel() == size
    )


def reduce(readings: Sequence[TensorReading], columns: Columns, table: RawTable) -> frozenset[int]:
    """Fills in what the kernel can compute, and returns the rows; none where there is no kernel, or if it fails.

    Args:
        readings: of all tensors.
        columns: of all tensors.
        table: of all tensors, from :func:`~lightning_adam.statistics.raw.empty_table`, on the tensors' device.
    """
    index = _index(table.sums.device)
    found = [fitting for row, of in enumerate(readings) if (fitting := _fitting(row, of, index)) is not None]
    new = {fitting.kind for fitting in found} - _trusted
    done = _reduce_and_check(found, columns, table, [(readings[f.row], f) for f in found if f.kind in new])
    return frozenset(fitting.row for fitting in found) if done else frozenset()


def repeat(columns: Columns, places: NDArray[np.uint64], dtypes: Sequence[tuple[torch.dtype, ...]], table: RawTable) -> bool:
    """As :func:`reduce`, of tensors that all fit, when only their elements and numbers have changed; whether it was done.

    Args:
        columns: of all tensors.
        places: where their parameters, gradients, m, v and denominators begin, [5, n_tensors].
        dtypes: of parameter, gradient, m and v.
        table: of all tensors.
    """
    aligned = (np.bitwise_or.reduce(places, axis=0) % 16 == 0).tolist()
    kinds = [_kind(of, False, even) for of, even in zip(dtypes, aligned, strict=True)]
    at = zip(kinds, places.T.tolist(), strict=True)
    found = [Fitting(row, kind, tuple(begins)) for row, (kind, begins) in enumerate(at) if kind in _trusted and kind]
    return len(found) == len(kinds) and _reduce_and_check(found, columns, table, [])


def _reduce_and_check(
    found: list[Fitting], columns: Columns, table: RawTable, new: Sequence[tuple[TensorReading, Fitting]]
) -> bool:
    """Whether the table holds the rows of these now; tensors of ``new`` kinds are looked at first, beside eager torch."""
    program = load()
    if not found or program is None or (program.INTERPRETED and table.sums.is_cuda):
        return False
    try:
        with torch.cuda.device(table.sums.get_device()):
            for kind in {fitting.kind for _, fitting in new}:
                _test(program, kind, [reading for reading, fitting in new if fitting.kind == kind])
            _run(program, _planned(program, found, columns), table)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever Triton's compiler, driver and launcher raise
        _give_up(error)
        return False
    return True


_trusted: set[Kind] = set()
"""Kinds whose numbers have been found to be eager torch's."""

TESTED = 1 << 18
"""Elements of the largest tensor that a kind is tested with, if there is one."""


def _test(program: Any, kind: Kind, readings: Sequence[TensorReading]) -> None:
    """A kind's first use in this process: one of its tensors is read by eager torch, too, and the rows are compared."""
    small = [reading for reading in readings if reading.parameter.numel() <= TESTED]
    by_size = sorted(small or readings, key=lambda reading: reading.parameter.numel())
    one = [by_size[-1 if small else 0]]
    columns, device = Columns.of(one), one[0].parameter.device
    ours, theirs = (empty_table(columns.sampling, device) for _ in range(2))
    found = _fitting(0, one[0], _index(device))
    assert found is not None
    _run(program, _planned(program, [found], columns), ours)
    reduce_batched(one, [0], columns, theirs)
    for name in ("sums", "maxima", "sample"):
        if not torch.allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-3, atol=0.0, equal_nan=True):
            raise ArithmeticError(f"{name} of {kind} differ from eager torch's")
    _trusted.add(kind)


_failures: list[str] = []
"""Why there is no kernel, if one was tried in vain."""


def _give_up(error: Exception) -> None:
    _failures.append(f"{type(error).__name__}: {error}")
    _say(_failures[-1])


@functools.cache
def _say(reason: str) -> None:
    """Once."""
    LOG.debug("No fused statistics on the GPU: %s", reason)


def load() -> Any | None:
    """The module with the kernels, or None: no Triton, it has failed before, or ``LIGHTNING_ADAM_KERNEL=eager``."""
    if _failures:
        return None
    if os.environ.get("LIGHTNING_ADAM_KERNEL") == "eager":
        _say("LIGHTNING_ADAM_KERNEL=eager")
        return None
    try:
        return importlib.import_module("lightning_adam.statistics.triton_program")
    except Exception as error:  # also what a broken installation raises
        _give_up(error)
        return None


@dataclass(frozen=True)
class Launch:
    """Units and draws, from which to which, of tensors of one kind."""

    kind: Kind
    units: tuple[int, int]
    draws: tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """All that the kernels need to know, int64 and one after the other: the table (its numbers are float64), the tensor of
    each unit and of each draw, and the edges of the histograms (float64)."""

    packed: NDArray[np.int64]
    n_rows: int
    units: int
    draws: int
    edges: int
    """Where each begins in ``packed``."""
    launches: list[Launch]


def _planned(program: Any, found: list[Fitting], columns: Columns) -> Plan:
    found = sorted(found, key=lambda fitting: fitting.kind)
    fields, tensors = _fields(found, columns), np.arange(len(found))
    units = -(-fields["numel"] // program.UNIT.value)
    draws = -(-(fields["end_cell"] - fields["first_cell"]) // program.CELLS.value)
    fields |= {"first_unit": np.cumsum(units) - units, "n_units": units, "first_draw": np.cumsum(draws) - draws}
    parts = [fields[name].astype(np.int64) for name in program.FIELDS]
    parts += [fields[name].astype(np.float64).view(np.int64) for name in program.NUMBERS]
    parts += [np.repeat(tensors, units), np.repeat(tensors, draws), _edges(program.EDGES.value).view(np.int64)]
    *_, at_units, at_draws, at_edges = np.cumsum([0, *map(len, parts[:-1])]).tolist()
    return Plan(np.concatenate(parts), len(found), at_units, at_draws, at_edges, _launches(found, units, draws))


def _edges(size: int) -> NDArray[np.float64]:
    """As log10_counts() compares with, and then NaN, which no value reaches."""
    edges = np.full(size, np.nan)
    edges[: BINS - 1] = (10.0 ** LOG10_EDGES[1:-1]).astype(np.float32)
    return edges


def _launches(found: Sequence[Fitting], units: NDArray[np.int64], draws: NDArray[np.int64]) -> list[Launch]:
    """One for each kind; tensors of a kind are neighbours."""
    of_kind = [len(list(group)) for _, group in itertools.groupby(found, key=lambda fitting: fitting.kind)]
    bounds = np.cumsum([0, *of_kind])
    unit_bounds, draw_bounds = (np.cumsum([0, *sizes])[bounds].tolist() for sizes in (units, draws))
    spans = zip(itertools.pairwise(unit_bounds), itertools.pairwise(draw_bounds), strict=True)
    return [Launch(found[begin].kind, *span) for begin, span in zip(bounds.tolist(), spans, strict=False)]


def _fields(found: Sequence[Fitting], columns: Columns) -> dict[str, NDArray[Any]]:
    """What is known of the fitting tensors, one entry for each."""
    rows, sampling = np.array([fitting.row for fitting in found]), columns.sampling
    names = ("parameter", "gradient", "first", "second", "denominator")
    fields: dict[str, NDArray[Any]] = dict(zip(names, np.array([f.places for f in found]).T, strict=True))
    for name in ("numel", "offset", "first_scale", "second_scale", "eps", "lr"):
        fields[name] = getattr(columns, name)[rows]
    begin, end = columns.offset[rows], (columns.offset + columns.numel)[rows]
    return fields | {
        "row": rows,
        "slot": sampling.begins[rows],
        "stride": sampling.strides[rows],
        "first_cell": sampling.first_cells(rows, begin),
        "end_cell": sampling.first_cells(rows, end),
    }


def _run(program: Any, plan: Plan, table: RawTable) -> None:
    """Launches everything; what goes into the table's rows and counts last, so that a failure leaves no half of them."""
    device, options = table.sums.device, {"SOURCE": program.SOURCE, **FUSED}
    packed = sent(plan.packed, device)
    numbers, n_units = packed.view(torch.float64), plan.launches[-1].units[1]
    partial = torch.empty(n_units, program.COLUMNS.value, dtype=torch.float64, device=device)
    held = torch.empty(n_units, dtype=torch.int32, device=device)
    counts = torch.zeros(plan.n_rows, 2, BINS, dtype=torch.int32, device=device)
    for launch in plan.launches:
        _add(program, plan, launch, (packed, numbers, partial, held), options)
        _draw(program, plan, launch, (packed, numbers, table.sample, counts), options)
    at = plan.n_rows * program.FIELDS.index("row")
    program.add_rows[(plan.n_rows,)](packed, partial, table.sums, table.maxima, plan.n_rows, **options)
    table.counts.index_add_(0, packed[at : at + plan.n_rows], counts)


def _add(program: Any, plan: Plan, launch: Launch, tensors: tuple[Tensor, ...], options: dict[str, Any]) -> None:
    kind, (begin, end) = launch.kind, launch.units
    dtypes = {letter: getattr(program.tl, name) for letter, name in zip("PGMV", kind[:4], strict=True)}
    options, where = {**dtypes, "AMSGRAD": kind.amsgrad, **options}, (plan.n_rows, plan.units, begin)
    program.add_units[(end - begin,)](*tensors, *where, ALIGNED=kind.aligned, **options)
    program.add_units_again[(-(-(end - begin) // program.CHECKED.value),)](*tensors, *where, end, **options)


def _draw(program: Any, plan: Plan, launch: Launch, tensors: tuple[Tensor, ...], options: dict[str, Any]) -> None:
    (begin, end), kind = launch.draws, launch.kind
    options = {"M": getattr(program.tl, kind.first), "V": getattr(program.tl, kind.second), **options}
    if end > begin:
        program.draw[(end - begin,)](*tensors, plan.n_rows, plan.draws, plan.edges, begin, **options)
