"""The expressions of :mod:`lightning_adam.statistics.elements` as macros of ``kernel.cpp``.

They are flags for its compiler: with them the name changes under which the library is cached.
"""

from __future__ import annotations

from collections.abc import Sequence

from lightning_adam.statistics.elements import Reduction, values_of

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
    summed, compared = ({f"{of.kind}{i}": of for i, of in enumerate(several)} for several in (sums, maxima))
    both = summed | compared
    defined = {
        "SUMS": str(len(sums)),
        "MAXIMA": str(len(maxima)),
        "SUM_NAMES": ", ".join(summed),
        "SUMS_IN_DOUBLE": ", ".join(f"double({name})" for name in summed),
        "MAXIMUM_NAMES": ", ".join(compared),
        "VALUES": _values(*(of.of for of in both.values())),
        "SAMPLE_VALUES": _values("inverse", "ratio"),
        "BEGIN_SUMS": " ".join(f"{_accumulator(of)} {name} = 0;" for name, of in summed.items()),
        "BEGIN_MAXIMA": " ".join(f"float {name} = -INFINITY;" for name in compared),
        "ADD_ELEMENT": " ".join(_add(name, of) for name, of in both.items()),
        "SUMS_HELD": " && ".join(_held(name, of) for name, of in summed.items() if of.kind != "count"),
    }
    return [f"-D{name}={text}" for name, text in defined.items()]


def _values(*expressions: str) -> str:
    rows = values_of(*expressions).items()
    return " ".join(f"[[maybe_unused]] const float {name} = {text};" for name, text in rows)


def _accumulator(of: Reduction) -> str:
    """Float for counts too would take 4 % longer."""
    return "int32_t" if of.kind == "count" else "Wide"


def _add(name: str, of: Reduction) -> str:
    return "if (MEASURED) " * of.is_measured + _ADD[of.kind].format(name, of.of)


def _held(name: str, of: Reduction) -> str:
    return f"({'!MEASURED || ' * of.is_measured}in_range({name}))"
