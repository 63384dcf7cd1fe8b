"""The expressions of :mod:`lightning_adam.statistics.elements` as macros of ``kernel.cpp``: flags for its compiler, with which
the cached library's name changes."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_adam.statistics.elements import Reduction, values_of

_BEGIN = {
    "squares": "Wide {} = 0;",
    "total": "Wide {} = 0;",
    "count": "int32_t {} = 0;",
    "largest": "float {} = -INFINITY;",
}
_ADD = {
    "squares": "{0} += Wide({1}) * ({1});",
    "total": "{0} += {1};",
    "count": "{0} += {1};",
    "largest": "{0} = ({1}) > {0} ? ({1}) : {0};",
}
"""What becomes of an accumulator in the loop over a block's elements; a comparison leaves NaN out."""


def macros(sums: Sequence[Reduction], maxima: Sequence[Reduction]) -> list[str]:
    """Flags for the compiler.

    Args:
        sums, maxima: what is added up and what is compared, in the order of the raw table's columns.
    """
    summed, compared = ([(f"{of.kind}{i}", of) for i, of in enumerate(several)] for several in (sums, maxima))
    both = [*summed, *compared]
    defined = {
        "SUMS": str(len(sums)),
        "MAXIMA": str(len(maxima)),
        "SUM_NAMES": ", ".join(name for name, _ in summed),
        "MAXIMUM_NAMES": ", ".join(name for name, _ in compared),
        "SUMS_IN_DOUBLE": ", ".join(f"double({name})" for name, _ in summed),
        "VALUES": _values(*(of.of for _, of in both)),
        "SAMPLE_VALUES": _values("inverse", "ratio"),
        "BEGIN_REDUCTIONS": " ".join(_BEGIN[of.kind].format(name) for name, of in both),
        "ADD_ELEMENT": " ".join(_add(name, of) for name, of in both),
        "SUMS_HELD": " && ".join(_held(name, of) for name, of in summed if of.kind != "count"),
    }
    return [f"-D{name}={text}" for name, text in defined.items()]


def _values(*expressions: str) -> str:
    rows = values_of(*expressions).items()
    return " ".join(f"[[maybe_unused]] const float {name} = {text};" for name, text in rows)


def _add(name: str, of: Reduction) -> str:
    statement = _ADD[of.kind].format(name, of.of)
    return f"if (MEASURED) {{ {statement} }}" if of.is_measured else statement


def _held(name: str, of: Reduction) -> str:
    return f"(!MEASURED || in_range({name}))" if of.is_measured else f"in_range({name})"
