"""Whether a loss is what cannot be negative with a minus before it, read off its autograd graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lightning_adam.preflight.nodes import can_be_read
from lightning_adam.preflight.recorder import LOOKS_THROUGH

DEPTH = 12
"""Operations between the loss and the errors that it sums."""
KEEPS_THE_SIGN = ("Mean", "Sum", "Sqrt", *LOOKS_THROUGH)
JOINS = ("Add", "Stack", "Cat")


def is_negated_error(loss: Tensor) -> bool:
    """Such as ``-F.mse_loss(…)``, or ``-((y - target) ** 2).mean()``: training makes the error larger.

    Minus a log-probability, a reward, a likeness or a bound is none: these may be negative themselves.

    Args:
        loss: before its backward, which frees what the graph holds.
    """
    node = _without_scales(loss.grad_fn)
    if node is None or loss.numel() != 1 or not float(loss.detach()) < 0:
        return False
    behind = _behind(node)
    return len(behind) == 1 and _negates(node) and _is_an_error(behind[0], DEPTH)


def _without_scales(node: Any) -> Any:
    """Also behind factors over zero: Lightning divides each loss by the batches that are accumulated, one as well."""
    node = _worked_out(node)
    while node is not None and _kind(node) in ("Mul", "Div") and len(_behind(node)) == 1:
        factor = _constant_factor(node)
        if factor is None or not bool((factor > 0).all()):
            break
        node = _worked_out(_behind(node)[0])
    return node


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
    kind, behind = _kind(node), _behind(node)
    if kind in ERRORS:
        return ERRORS[kind](node)
    if kind in ("Mul", "Div") and len(behind) == 1:
        factor = _constant_factor(node)
        return factor is not None and bool((factor >= 0).all()) and _is_an_error(behind[0], depth - 1)
    if kind in KEEPS_THE_SIGN or (kind in JOINS and len(behind) == len(node.next_functions)):
        return bool(behind) and all(_is_an_error(following, depth - 1) for following in behind)
    return False


def _worked_out(node: Any) -> Any:
    """The first operation behind those that keep the sign."""
    while node is not None and _kind(node) in KEEPS_THE_SIGN:
        node = node.next_functions[0][0]
    return node


def _behind(node: Any) -> list[Any]:
    """What has a gradient of that which it was given."""
    return [following for following, _ in node.next_functions if following is not None]


def _has_a_target(node: Any) -> bool:
    """One of two has no gradient: a distance of two outputs may be maximised."""
    return len(_behind(node)) == 1


def _is_of_a_difference(node: Any) -> bool:
    """From a target, or a margin: a variance or an activation may be maximised."""
    before = _worked_out(node.next_functions[0][0])
    return before is not None and _kind(before) in ("Sub", "Rsub") and _has_a_target(before)


def _is_an_even_power(node: Any) -> bool:
    exponent = getattr(node, "_saved_exponent", None)
    return isinstance(exponent, (int, float)) and exponent % 2 == 0 and _is_of_a_difference(node)


def _is_of_logarithms(node: Any) -> bool:
    """Of shares, all at most zero; of raw scores it may be anything."""
    before = _worked_out(node.next_functions[0][0])
    return before is not None and _kind(before) in ("LogSoftmax", "LogSigmoid")


def _is_cut_at_zero(node: Any) -> bool:
    """A hinge."""
    least = getattr(node, "_saved_min", None)
    return isinstance(least, (int, float)) and least >= 0 and _is_of_a_difference(node)


ERRORS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("MseLoss", "SmoothL1Loss", "HuberLoss"), _has_a_target),
    **dict.fromkeys(("BinaryCrossEntropy", "BinaryCrossEntropyWithLogits", "CtcLoss"), _has_a_target),
    **dict.fromkeys(("Abs", "Relu", "LinalgVectorNorm", "Norm"), _is_of_a_difference),
    **dict.fromkeys(("NllLoss", "NllLoss2D"), _is_of_logarithms),
    **dict.fromkeys(("Clamp", "ClampMin"), _is_cut_at_zero),
    "Pow": _is_an_even_power,
}
"""Operations whose result is never negative, and whether it is an error that is to become small; to add one, add a row."""


def _constant_factor(node: Any) -> Tensor | None:
    """The factor, or divisor, that has no gradient."""
    if not can_be_read(node):
        return None
    factors = [getattr(node, saved, None) for saved in ("_saved_other", "_saved_self")]
    known = [factor for factor in factors if isinstance(factor, Tensor) and not factor.requires_grad]
    return known[0] if len(known) == 1 else None
