"""Whether a loss is what cannot be negative with a minus before it, read off its autograd graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lightning_adam.preflight.nodes import can_be_read

DEPTH = 12
"""Operations between the loss and the errors that it sums."""
ARRANGES = (
    "Mean", "Sum", "Select", "Slice", "View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Clone", "ToCopy", "Alias",
    "Expand", "Index", "Sqrt",
)  # fmt: skip
"""Operations that leave the sign of all values as it is."""
NOT_NEGATIVE = (
    "MseLoss", "SmoothL1Loss", "HuberLoss", "BinaryCrossEntropy", "BinaryCrossEntropyWithLogits", "CtcLoss",
)  # fmt: skip
"""Losses that are never negative."""
JOINS = ("Add", "Stack", "Cat")


def is_negated_error(loss: Tensor) -> bool:
    """Such as ``-F.mse_loss(…)``, or ``-((y - target) ** 2).mean()``: training makes the error larger.

    Minus a log-probability, a reward, a likeness or a bound is none: these may be negative themselves.

    Args:
        loss: before its backward, which frees what the graph holds.
    """
    node = loss.grad_fn
    while node is not None and _kind(node) in ARRANGES:
        node = node.next_functions[0][0]
    if node is None or loss.numel() != 1 or not float(loss.detach()) < 0:
        return False
    behind = [following for following, _ in node.next_functions if following is not None]
    return len(behind) == 1 and _negates(node) and _is_an_error(behind[0], DEPTH)


def _negates(node: Any) -> bool:
    if _kind(node) == "Neg":
        return True
    factor = _constant_factor(node) if _kind(node) in ("Mul", "Div") else None
    return factor is not None and bool((factor < 0).all())


def _kind(node: Any) -> str:
    return str(node.name()).split("Backward")[0]


def _is_an_error(node: Any, depth: int) -> bool:
    """Nothing behind it lets it be negative."""
    if node is None or depth == 0:
        return False
    kind, behind = _kind(node), [following for following, _ in node.next_functions if following is not None]
    if kind in NOT_NEGATIVE or (kind in _IS_NOT_NEGATIVE and _IS_NOT_NEGATIVE[kind](node)):
        return True
    if kind in ("Mul", "Div") and len(behind) == 1:
        factor = _constant_factor(node)
        return factor is not None and bool((factor >= 0).all()) and _is_an_error(behind[0], depth - 1)
    if kind in ARRANGES or (kind in JOINS and len(behind) == len(node.next_functions)):
        return bool(behind) and all(_is_an_error(following, depth - 1) for following in behind)
    return False


def _is_of_a_difference(node: Any) -> bool:
    """From what has no gradient, such as a target: a variance, a distance of outputs or an activation may be maximised."""
    before = node.next_functions[0][0]
    while before is not None and _kind(before) in ARRANGES:
        before = before.next_functions[0][0]
    if before is None or _kind(before) not in ("Sub", "Rsub"):
        return False
    return sum(following is not None for following, _ in before.next_functions) == 1


def _is_an_even_power(node: Any) -> bool:
    exponent = getattr(node, "_saved_exponent", None)
    return isinstance(exponent, (int, float)) and exponent % 2 == 0 and _is_of_a_difference(node)


def _is_of_logarithms(node: Any) -> bool:
    """Of shares, all at most zero; of raw scores it may be anything."""
    before = node.next_functions[0][0]
    while before is not None and _kind(before) in ARRANGES:
        before = before.next_functions[0][0]
    return before is not None and _kind(before) in ("LogSoftmax", "LogSigmoid")


def _is_cut_at_zero(node: Any) -> bool:
    """A hinge."""
    least = getattr(node, "_saved_min", None)
    return isinstance(least, (int, float)) and least >= 0 and _is_of_a_difference(node)


_IS_NOT_NEGATIVE: dict[str, Callable[[Any], bool]] = {
    "Pow": _is_an_even_power,
    "Abs": _is_of_a_difference,
    "Relu": _is_of_a_difference,
    "LinalgVectorNorm": _is_of_a_difference,
    "Norm": _is_of_a_difference,
    "NllLoss": _is_of_logarithms,
    "NllLoss2D": _is_of_logarithms,
    "Clamp": _is_cut_at_zero,
    "ClampMin": _is_cut_at_zero,
}


def _constant_factor(node: Any) -> Tensor | None:
    """The factor, or divisor, that has no gradient."""
    if not can_be_read(node):
        return None
    factors = [getattr(node, saved, None) for saved in ("_saved_other", "_saved_self")]
    known = [factor for factor in factors if isinstance(factor, Tensor) and not factor.requires_grad]
    return known[0] if len(known) == 1 else None
