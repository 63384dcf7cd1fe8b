"""Writes the part of ``triton_program.py`` that follows from the expressions of :mod:`lightning_adam.statistics.elements`.

Triton compiles the text of functions, and knows no macros: the text is written here, and kept where ``inspect`` finds it.
"""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Sequence

from lightning_adam.statistics.elements import COMPARED, Reduction, values_of

FILE = "<lightning_adam.statistics.triton_source>"

TEMPLATE = """
@triton.jit
def add_unit(
    table, numbers, partial, n_rows, owners, unit, P: tl.constexpr, G: tl.constexpr, M: tl.constexpr, V: tl.constexpr,
    AMSGRAD: tl.constexpr, ALIGNED: tl.constexpr, WIDE: tl.constexpr,
):
    index, out = tl.load(table + owners + unit), partial + unit * COLUMNS
    start = (unit - _field(table, n_rows, index, FIRST_UNIT)) * UNIT
    count = tl.minimum(_field(table, n_rows, index, NUMEL) - start, UNIT).to(tl.int32)
    parameter = _tensor(table, n_rows, index, start, PARAMETER, P, ALIGNED)
    gradient = _tensor(table, n_rows, index, start, GRADIENT, G, ALIGNED)
    first_moment = _tensor(table, n_rows, index, start, FIRST, M, ALIGNED)
    second_moment = _tensor(table, n_rows, index, start, SECOND, V, ALIGNED)
    denominator = _tensor(table, n_rows, index, start, DENOMINATOR, V, ALIGNED)
    first_scale, eps = _number(numbers, n_rows, index, FIRST_SCALE), _number(numbers, n_rows, index, EPS)
    second_scale = _number(numbers, n_rows, index, SECOND_SCALE).to(WIDE)  # sqrt works in its dtype
    floor, places, whole = tl.maximum(eps, TINY), _places(ALIGNED), count // BLOCK * BLOCK
    {begin}
    # a mask makes loads narrow: only the last turn has one
    for rest in tl.static_range(2):
        for at in range(whole if rest else 0, count if rest else whole, BLOCK):
            inside = places < count - at
            p, g = _read(parameter + at, places, inside, rest), _read(gradient + at, places, inside, rest)
            m, v = _read(first_moment + at, places, inside, rest), _read(second_moment + at, places, inside, rest)
            d = _read(denominator + at, places, inside, rest) if AMSGRAD else v
            {values}
            {add}
    {put}
    return (eps > 9e-16) & {held}


@triton.jit
def sampled(m, d, first_scale, second_scale, eps):
    {sample_values}
    return inverse, ratio
"""


_BEGIN = {"squares": "0.0, WIDE", "total": "0.0, WIDE", "count": "0, tl.int32", "largest": "float('-inf'), tl.float32"}
_ADD = {
    "squares": "{0} += _squares(_only(inside, {1}, 0.0, rest), WIDE)",
    "total": "{0} += tl.sum(_only(inside, {1}, 0.0, rest).to(WIDE), 1)",
    "count": "{0} += tl.sum(_only(inside, ({1}).to(tl.int32), 0, rest), 1)",
    "largest": "{0} = tl.maximum({0}, tl.max(_only(inside, {1}, float('-inf'), rest), 1))",
}
"""A lane's accumulator of each kind, and what becomes of it."""


def written(sums: Sequence[Reduction], maxima: Sequence[Reduction]) -> str:
    """The text of both functions, for the raw table's sums and maxima; what is measured is not to be had here."""
    columns = {of: f"{of.kind}{index}" for index, of in enumerate((*sums, *maxima))}
    read = {of: name for of, name in columns.items() if not of.is_measured}
    in_float = {of: name for of, name in read.items() if of.kind in ("squares", "total")}
    size = {of: _size(of) for of in in_float}
    added = {size[of]: f"size_of_{name}" for of, name in in_float.items()} | read
    text = TEMPLATE.format(
        begin=_lines(4, (f"{name} = tl.full((LANES,), {_BEGIN[of.kind]})" for of, name in added.items())),
        values=_lines(12, _assignments(*(of.of for of in read))),
        add=_lines(12, (_ADD[of.kind].format(name, of.of) for of, name in added.items())),
        put=_lines(4, (_put(index, of, name) for index, (of, name) in enumerate(columns.items()))),
        held=" & ".join(f"_held({name}, {added[size[of]]})" for of, name in in_float.items()),
        sample_values=_lines(4, _assignments("inverse", "ratio")),
    )
    linecache.cache[FILE] = (len(text), None, text.splitlines(keepends=True), FILE)
    return text


_SIZED_BY = {"first": "first", "ratio": "first", "surprise": "abs(g)", "where(v != 0, inverse, 0)": "v", "v": "v"}
"""What an x is 0 with; registers are few, and these are compared anyway."""


def _size(of: Reduction) -> Reduction:
    """What is 0 if all that is added up is 0."""
    return Reduction("largest", _SIZED_BY.get(of.of, f"abs({of.of})"))


def _lines(indent: int, statements: Iterable[str]) -> str:
    return ("\n" + " " * indent).join(statements)


def _assignments(*expressions: str) -> list[str]:
    return [f"{name} = {text}" for name, text in values_of(*expressions).items()]


def _put(index: int, of: Reduction, name: str) -> str:
    if of.is_measured:
        return f"tl.store(out + {index}, float('{'-inf' if of.kind in COMPARED else 'nan'}'))"
    return f"_put_top(out + {index}, {name})" if of.kind in COMPARED else f"{name} = _put_sum(out + {index}, {name})"
