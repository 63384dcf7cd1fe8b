"""What is computed of one element of a tensor, and added up: written once, for C++, Triton and torch.

The expressions below are read by all three as they stand. Python's rules hold where C++'s do too: write parentheses around
comparisons that ``&`` joins. Functions: ``abs``, ``sqrt``, ``where``, ``reciprocal`` and ``at_least(least, value)``, which
each engine defines under these names.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

PARTS = ("p", "g", "m", "v", "d", "before", "wanted")
"""θ, the gradient, both moments as the optimizer keeps them, what v̂ is rooted of (v, its running maximum under AMSGrad), θ
before the step where the step is measured, and what should have moved θ: m, or g where there is none."""

CONSTANTS = ("first_scale", "second_scale", "eps", "floor", "share", "stretch")
"""Of a tensor: 1/(1-β₁ᵗ), 1/(1-β₂ᵗ), ε, the larger of ε and float32's smallest normal number, and what decay did to θ
(:class:`~lightning_adam.moments.Decay`)."""

VALUES = {
    "first": "abs(m)",
    "root": "sqrt(v * second_scale)",
    "largest_root": "sqrt(d * second_scale)",
    "inverse": "reciprocal(largest_root + eps)",
    "ratio": "first * first_scale * inverse",
    "surprise": "g / at_least(floor, root)",
    "step": "abs((p - before) + share * before) * stretch",
}
"""What several sums share, each of what stands above it; a NaN stays one, ``at_least(floor, NaN)`` too."""

ADDED, COMPARED = ("squares", "total", "count"), ("largest",)
"""Kinds of reduction: Σx², Σx of an x that is not negative, the number of elements for which x holds; the largest x."""


@dataclass(frozen=True)
class Reduction:
    """An expression over a tensor's elements, reduced to one number.

    Attributes:
        kind: one of ADDED or of COMPARED.
        of: the expression, over PARTS, CONSTANTS and VALUES.
    """

    kind: str
    of: str

    @classmethod
    def parsed(cls, text: str) -> Reduction:
        """From ``"squares(g)"``, say."""
        kind, _, expression = text.removesuffix(")").partition("(")
        return cls(kind, expression)

    def __str__(self) -> str:
        return f"{self.kind}({self.of})"

    @functools.cached_property
    def parts(self) -> frozenset[str]:
        """Which of PARTS it takes."""
        return frozenset(_names(self.of) & set(PARTS))

    @property
    def is_measured(self) -> bool:
        """Whether it takes θ before the step."""
        return "before" in self.parts


def values_of(*expressions: str) -> dict[str, str]:
    """The rows of VALUES that expressions take, in order."""
    names = set().union(*map(_names, expressions))
    return {name: text for name, text in VALUES.items() if name in names}


def _names(expression: str) -> set[str]:
    """All that it takes, also by the VALUES in it."""
    names = set(compile(expression, expression, "eval").co_names)
    return names.union(*(_names(VALUES[name]) for name in names & VALUES.keys()))
