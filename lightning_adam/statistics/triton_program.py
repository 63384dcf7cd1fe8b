"""The kernels that :mod:`lightning_adam.statistics.triton_kernel` launches; importing this imports Triton.

Written for Triton 3.2 (torch 2.6) and later: no tuples as variables. A table of int64 says where the tensors lie: field by
field (FIELDS), one entry per tensor; NUMBERS are its float64 fields, read through a second pointer to the same memory.

A program adds up one unit of one tensor: float32 per lane, float64 beyond; where a float32 sum overflows or comes near
underflow, the unit is summed again in float64. Maxima leave NaN out: finalise() takes it from the sums.

On CUDA float32 ``/`` is div.full.f32, 2 ulp off at most; ``tl.sqrt`` is sqrt.approx.ftz.f32, 1 ulp off, and takes a v̂
below 1.2e-38 for 0. That is nothing beside an ε of 1e-15 or more; with a smaller one all is summed again, with roots taken
in float64 and rounded, which is exact. So are root and division of the sample: its histograms are the eager ones to the
last bit. (``tl.sqrt_rn`` and ``tl.div_rn`` are exact too, but flush denormals under Triton 3.2.)
"""

import zlib
from pathlib import Path

import triton
import triton.language as tl

from lightning_adam.statistics import quantities, triton_source

WRITTEN = triton_source.written(quantities.SUMS, quantities.MAXIMA)
SOURCE = zlib.crc32(Path(__file__).read_bytes() + WRITTEN.encode())
"""Passed to every kernel: the constants below are no part of the key under which Triton 3.2 keeps what it has compiled."""

FIELDS = (
    *("parameter", "gradient", "first", "second", "denominator", "numel", "row", "first_unit", "n_units"),
    *("offset", "slot", "stride", "first_cell", "end_cell", "first_draw"),
)
NUMBERS = ("first_scale", "second_scale", "eps", "lr")
"""The table's fields. Addresses; elements; the row in the raw table; units, of which each is a tensor's; and of the sample:
the elements before a shard, the sample's place for cell 0, elements per cell, which cells are here, and draws (CELLS cells
of one tensor each)."""

(PARAMETER, GRADIENT, FIRST, SECOND, DENOMINATOR, NUMEL, ROW, FIRST_UNIT, N_UNITS) = map(tl.constexpr, range(9))
(OFFSET, SLOT, STRIDE, FIRST_CELL, END_CELL, FIRST_DRAW) = map(tl.constexpr, range(9, 15))
(FIRST_SCALE, SECOND_SCALE, EPS, LR) = map(tl.constexpr, range(15, 19))

SUMS, MAXIMA = tl.constexpr(len(quantities.SUMS)), tl.constexpr(len(quantities.MAXIMA))
COLUMNS = tl.constexpr(len(quantities.SUMS) + len(quantities.MAXIMA))
PADDED = tl.constexpr(triton.next_power_of_2(COLUMNS.value))
"""Columns: those of the raw table's sums and maxima, one after the other."""

LANES, VECTOR, BLOCK = map(tl.constexpr, (256, 4, 1024))
"""A turn takes BLOCK elements: VECTOR per lane, 16 bytes of float32, the widest load."""
UNIT = tl.constexpr(8192)
"""Elements of one program: few enough that 1M parameters fill an H100's 132 processors, and that the last programs do not
hold up the rest; many enough that adding up the lanes, once per unit, costs little. A lane adds 8 sums of VECTOR."""
CHECKED, DEPTH, CELLS = map(tl.constexpr, (16, 64, 1024))
"""Units that one program looks at again; units whose columns are added up at once; sampled elements of a draw."""
BINS, EDGES, TINY = map(tl.constexpr, (80, 128, 1.1754943508222875e-38))


@triton.jit(do_not_specialize=["n_rows", "owners", "begin"])
def add_units(
    table,
    numbers,
    partial,
    held,
    n_rows,
    owners,
    begin,
    P: tl.constexpr,
    G: tl.constexpr,
    M: tl.constexpr,
    V: tl.constexpr,
    AMSGRAD: tl.constexpr,
    ALIGNED: tl.constexpr,
    SOURCE: tl.constexpr,
):
    """Columns of the units from ``begin`` on, float64 [n_units, COLUMNS], and int32 whether float32 has held their sums.
    P, G, M, V are dtypes; ALIGNED: whether all tensors begin at multiples of 16 bytes."""
    unit = begin + tl.program_id(0)
    good = _add_unit(table, numbers, partial, n_rows, owners, unit, P, G, M, V, AMSGRAD, ALIGNED, tl.float32)
    tl.store(held + unit, good.to(tl.int32))


@triton.jit(do_not_specialize=["n_rows", "owners", "begin", "end"])
def add_units_again(
    table,
    numbers,
    partial,
    held,
    n_rows,
    owners,
    begin,
    end,
    P: tl.constexpr,
    G: tl.constexpr,
    M: tl.constexpr,
    V: tl.constexpr,
    AMSGRAD: tl.constexpr,
    SOURCE: tl.constexpr,
):
    """Those of units ``begin`` to ``end`` that float32 has not held, in float64. A kernel of its own, because it takes
    registers that would cost the other its speed."""
    start = begin + tl.program_id(0) * CHECKED
    units = start + tl.arange(0, CHECKED)
    if tl.min(tl.load(held + units, mask=units < end, other=1), 0) == 0:
        for unit in range(start, tl.minimum(start + CHECKED, end)):
            # none or one turn: Triton 3.2 has no ``if`` around calls within a loop
            for _ in range(tl.load(held + unit), 1):
                _add_unit(table, numbers, partial, n_rows, owners, unit, P, G, M, V, AMSGRAD, False, tl.float64)


@triton.jit
def _field(table, n_rows, index, FIELD: tl.constexpr):
    return tl.load(table + FIELD * n_rows + index)


@triton.jit
def _tensor(table, n_rows, index, start, FIELD: tl.constexpr, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    pointer = _field(table, n_rows, index, FIELD).to(tl.pointer_type(DTYPE)) + start
    return tl.multiple_of(pointer, 16) if ALIGNED else pointer


@triton.jit
def _places(ALIGNED: tl.constexpr):
    """Elements of one turn [LANES, VECTOR], laid out so that a warp's loads are contiguous and a lane adds up its own."""
    lane, element = tl.arange(0, LANES)[:, None], tl.arange(0, VECTOR)[None, :]
    return lane * VECTOR + element if ALIGNED else element * LANES + lane


@triton.jit
def _read(pointer, places, inside, MASKED: tl.constexpr):
    return (tl.load(pointer + places, mask=inside, other=0.0) if MASKED else tl.load(pointer + places)).to(tl.float32)


@triton.jit
def _only(inside, values, other, MASKED: tl.constexpr):
    return tl.where(inside, values, other) if MASKED else values


@triton.jit
def _number(numbers, n_rows, index, FIELD: tl.constexpr):
    return _field(numbers, n_rows, index, FIELD).to(tl.float32)


@triton.jit
def _abs(value):
    return tl.abs(value)


@triton.jit
def _where(holds, one, other):
    return tl.where(holds, one, other)


@triton.jit
def _at_least(least, value):
    return tl.where(least > value, least, value)  # tl.maximum would leave NaN out


@triton.jit
def _sqrt(value):
    """In the dtype that it comes in."""
    return tl.sqrt(value).to(tl.float32)


@triton.jit
def _reciprocal(value):
    return 1.0 / value


@triton.jit
def _exact_sqrt(value):
    return tl.sqrt(value.to(tl.float64)).to(tl.float32)


@triton.jit
def _exact_reciprocal(value):
    return (1.0 / value.to(tl.float64)).to(tl.float32)


@triton.jit
def _squares(values, WIDE: tl.constexpr):
    wide = values.to(WIDE)
    return tl.sum(wide * wide, 1)


@triton.jit
def _put_sum(place, lanes):
    total = tl.sum(lanes.to(tl.float64), 0)
    tl.store(place, total)
    return total


@triton.jit
def _put_top(place, lanes):
    tl.store(place, tl.max(lanes, 0).to(tl.float64))


@triton.jit
def _held(total, sizes):
    """Whether float32 lanes have neither overflowed nor, in so small a sum, lost terms; ``sizes``: the largest by lane."""
    return (total < 3e38) & ((total > 1e-28) | (tl.max(sizes, 0) == 0))


def _made(function: str, sqrt, reciprocal):
    """A function that triton_source.py has written, with these for the element's sqrt and reciprocal."""
    functions = {"abs": _abs, "where": _where, "at_least": _at_least, "sqrt": sqrt, "reciprocal": reciprocal}
    names = globals() | functions
    exec(compile(WRITTEN, triton_source.FILE, "exec"), names)
    return names[function]


_add_unit = _made("add_unit", _sqrt, _reciprocal)
_sampled = _made("sampled", _exact_sqrt, _exact_reciprocal)


@triton.jit(do_not_specialize=["n_rows"])
def add_rows(table, partial, sums, maxima, n_rows, SOURCE: tl.constexpr):
    """Each tensor's units into its row of the raw table, always in the same order."""
    index, column = tl.program_id(0), tl.arange(0, PADDED)
    first, count = _field(table, n_rows, index, FIRST_UNIT), _field(table, n_rows, index, N_UNITS)
    total, top = tl.full((PADDED,), 0.0, tl.float64), tl.full((PADDED,), float("-inf"), tl.float64)
    for at in range(0, count, DEPTH):
        unit = at + tl.arange(0, DEPTH)
        inside = (unit < count)[:, None] & (column < COLUMNS)[None, :]
        values = tl.load(partial + ((first + unit) * COLUMNS)[:, None] + column[None, :], mask=inside, other=0.0)
        total += tl.sum(values, 0)
        top = tl.maximum(top, tl.max(tl.where(inside, values, float("-inf")), 0))
    row = _field(table, n_rows, index, ROW)
    tl.store(sums + row * SUMS + column, total, mask=column < SUMS)
    tl.store(maxima + row * MAXIMA + column - SUMS, top, mask=(column >= SUMS) & (column < COLUMNS))


@triton.jit(do_not_specialize=["n_rows", "owners", "edges", "begin"])
def draw(
    table,
    numbers,
    sample,
    counts,
    n_rows,
    owners,
    edges,
    begin,
    M: tl.constexpr,
    V: tl.constexpr,
    SOURCE: tl.constexpr,
):
    """α/(√v̂+ε) of the sampled elements of draws ``begin`` and on, and into int32 counts [n_rows, 2, BINS] step sizes and
    these rates, by the inner edges (float64, the last ones NaN)."""
    unit = begin + tl.program_id(0)
    index = tl.load(table + owners + unit)
    cell = _field(table, n_rows, index, FIRST_CELL) + tl.arange(0, CELLS)
    cell += (unit - _field(table, n_rows, index, FIRST_DRAW)) * CELLS
    inside = cell < _field(table, n_rows, index, END_CELL)
    stride = _field(table, n_rows, index, STRIDE)
    # as place() in raw.py
    at = cell * stride + (((cell * 2654435761) & 0xFFFFFFFF) * stride >> 32) - _field(table, n_rows, index, OFFSET)
    m = _read(_tensor(table, n_rows, index, 0, FIRST, M, False), at, inside, True)
    d = _read(_tensor(table, n_rows, index, 0, DENOMINATOR, V, False), at, inside, True)
    first_scale, second_scale = _number(numbers, n_rows, index, FIRST_SCALE), _number(numbers, n_rows, index, SECOND_SCALE)
    inverse, ratio = _sampled(m, d, first_scale, second_scale, _number(numbers, n_rows, index, EPS))
    lr = _field(numbers, n_rows, index, LR)
    rate = (inverse.to(tl.float64) * lr).to(tl.float32)
    tl.store(sample + _field(table, n_rows, index, SLOT) + cell, rate, mask=inside)
    into = counts + index * (2 * BINS)
    _count(into, (ratio.to(tl.float64) * lr).to(tl.float32), inside, numbers + edges)
    _count(into + BINS, rate, inside, numbers + edges)


@triton.jit
def _count(counts, values, inside, edges):
    """As log10_counts() in quantities.py: the number of edges up to a value is its bin; NaN is left out."""
    found = tl.full((CELLS,), 0, tl.int32)
    for power in tl.static_range(7):
        further = found + (EDGES >> (power + 1))
        found = tl.where(tl.load(edges + further - 1) <= values, further, found)
    tl.atomic_add(counts + found, 1, mask=inside & (values == values), sem="relaxed")


INTERPRETED = not isinstance(add_units, triton.JITFunction)
"""Under TRITON_INTERPRET=1 the kernels run on the host, and addresses of a GPU's memory mean nothing there."""
