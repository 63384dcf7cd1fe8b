"""How a loss was made, read off its autograd graph: for whoever cannot be watched while making it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lightning_adam.preflight.nodes import can_be_read, nodes_behind
from lightning_adam.preflight.recorder import Call, Record, made_by
from lightning_adam.preflight.step import Step, Trace

NODES = 64
"""Operations before the loss that are looked at: what is further back is the net's own."""


def step_of(loss: Tensor) -> Step:
    """What one training step shows of its loss call, without modules, places in the code, or anything recorded.

    Args:
        loss: before its backward, which frees what the graph holds.
    """
    record = Record()
    for node in nodes_behind(loss, NODES):
        note = _NOTES.get(node.name().split("Backward")[0])
        if note is not None and can_be_read(node):
            note(record, node)
    record.losses.reverse()  # the last one is the main one: it is nearest
    return Step(record, Trace())


def _classes(record: Record, node: Any) -> None:
    """Cross entropy is a log-softmax and what picks the label's entry."""
    given, target = node._saved_self, node._saved_target
    before = node.next_functions[0][0]
    is_whole = made_by(given) == "LogSoftmax" and before is not None and before.name().startswith("LogSoftmax")
    maker = _maker(before) if is_whole else made_by(given)
    options = {"ignore_index": _as_signed(node._saved_ignore_index)}
    record.losses.append(Call("cross_entropy" if is_whole else "nll_loss", given, target, None, options, maker, ""))


def _as_signed(number: int) -> int:
    """Autograd hands a negative integer out as its 64 bits: -100 as 2⁶⁴ - 100."""
    return number - 2**64 if number >= 2**63 else number


def _maker(node: Any) -> str:
    """What made the input of an operation that keeps its result only."""
    before = node.next_functions[0][0] if node.next_functions else None
    return "" if before is None else made_by(_Behind(before))  # type: ignore[arg-type]


class _Behind:
    """Stands for a tensor of which only its maker is known."""

    def __init__(self, node: Any) -> None:
        self.grad_fn = node


def _compared(name: str) -> Callable[[Record, Any], None]:
    """A loss of two tensors alike; torch has expanded them to one shape."""

    def note(record: Record, node: Any) -> None:
        given, target = _narrow(node._saved_self), _narrow(node._saved_target)
        options = {width: getattr(node, f"_saved_{width}") for width in WIDTHS if hasattr(node, f"_saved_{width}")}
        record.losses.append(Call(name, given, target, None, options, made_by(node._saved_self), ""))

    return note


def _connected(record: Record, node: Any) -> None:
    """Connectionist temporal classification, of (time, samples, classes)."""
    given = node._saved_log_probs
    record.losses.append(Call("ctc_loss", given, node._saved_targets, None, {}, made_by(given), ""))


def _narrow(tensor: Tensor) -> Tensor:
    """As it was before it was expanded: without the repetition, and without dimensions put in front for it."""
    for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if size > 1 and stride == 0:
            tensor = tensor.narrow(dim, 0, 1)
    while tensor.dim() > 1 and tensor.shape[0] == 1:
        tensor = tensor[0]
    return tensor


def _logarithm(record: Record, node: Any) -> None:
    given = node._saved_self
    record.logarithms.append(Call("log", given, None, None, {}, made_by(given), ""))


def _log_softmax(record: Record, node: Any) -> None:
    record.squashes.append(Call("log_softmax", node._saved_result, None, None, {}, _maker(node), ""))


WIDTHS = ("beta", "delta")
"""Of ``smooth_l1_loss`` and ``huber_loss``: how far they are squares."""
_NOTES: dict[str, Callable[[Record, Any], None]] = {
    "NllLoss": _classes,
    "NllLoss2D": _classes,
    "BinaryCrossEntropyWithLogits": _compared("binary_cross_entropy_with_logits"),
    "BinaryCrossEntropy": _compared("binary_cross_entropy"),
    "CtcLoss": _connected,
    "MseLoss": _compared("mse_loss"),
    "SmoothL1Loss": _compared("smooth_l1_loss"),
    "HuberLoss": _compared("huber_loss"),
    "Log": _logarithm,
    "LogSoftmax": _log_softmax,
}
