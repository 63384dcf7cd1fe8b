"""What is wrong with the shapes and labels that the loss gets."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lightning_adam.diagnosis import Finding
from lightning_adam.preflight.facts import Check, Facts, found
from lightning_adam.preflight.recorder import (
    BINARY_LOSSES,
    CLASS_LOSSES,
    SIGNED_LOSSES,
    VALUE_LOSSES,
    Call,
    made_by,
    softmax_axis,
)

ALIKE = (*VALUE_LOSSES, "gaussian_nll_loss", "poisson_nll_loss", "kl_div")
"""Losses of two tensors of one shape."""
SHARES = ("Softmax", "Sigmoid")
"""What makes targets of another net's output, or of one's own."""
ROUNDED = 1e-4
"""By how much shares that were mixed may miss 0 and 1."""


def at(call: Call, **evidence: float | str) -> dict[str, float | str]:
    return {**evidence, "at": call.place} if call.place else dict(evidence)


def is_output(call: Call, facts: Facts) -> bool:
    """Whether the loss, or a hand-written one, gets it; attention over a graph's nodes is inside of the net."""
    main = facts.step.main
    return main is None or main.input.numel() == call.input.numel()


def broadcast(facts: Facts) -> Iterator[Finding]:
    """(N, 1) against (N,) makes (N, N): every prediction is compared with every target."""
    calls = [c for c in facts.step.record.losses if c.name in ALIKE]
    calls += [c for c in facts.step.record.broadcasts if _pairs_all(c, facts.step.samples) and not _is_learnt(c)]
    for call in calls:
        made = _made(call)
        if made is None or call.target is None:
            continue
        is_larger = made.numel() > max(call.input.numel(), call.target.numel())
        if is_larger or _is_square_already(call, facts.step.samples) or _is_repeated(call):
            one, other = tuple(call.input.shape), tuple(call.target.shape)
            yield found(
                "BROADCAST",
                "critical",
                f"{call.name} gets shapes {one} and {other}, which broadcast to {tuple(made)}: one output is compared "
                "with several targets.",
                "Give both the same shape: pred.squeeze(-1), or y.unsqueeze(-1).",
                at(call, input=str(one), target=str(other)),
            )
            return


def _is_learnt(call: Call) -> bool:
    """Whether it is a parameter that meets a number of each sample: a scale of features, and no prediction."""
    return isinstance(call.input, nn.Parameter) or isinstance(call.target, nn.Parameter)


def _made(call: Call) -> torch.Size | None:
    """The shape that two unlike ones are broadcast to; None where they are alike, or the step raises and says so itself."""
    if call.target is None or call.input.shape == call.target.shape or not call.target.numel():
        return None
    try:
        made: torch.Size = torch.broadcast_shapes(call.input.shape, call.target.shape)  # type: ignore[no-untyped-call]
    except RuntimeError:
        return None
    return made


def _is_repeated(call: Call) -> bool:
    """Outputs that a loss of torch's compares with several targets each, of which torch warns; a learnt constant may be."""
    is_fewer = call.target is not None and call.input.numel() < call.target.numel()
    return is_fewer and call.name in VALUE_LOSSES and call.input.requires_grad and not call.input.is_leaf


def _is_square_already(call: Call, samples: int) -> bool:
    """One value per sample against one per pair: an earlier line, such as reward + next value, has broadcast."""
    shapes = [tuple(t.shape) for t in (call.input, call.target) if t is not None]
    return samples > 2 and (samples, samples) in shapes and any(s in shapes for s in ((samples, 1), (samples,)))


def _pairs_all(call: Call, samples: int) -> bool:
    """Of arithmetic only the slip itself: one value per sample, once with and once without a dimension of 1."""
    one, other = call.input, call.target
    if other is None or abs(one.dim() - other.dim()) != 1 or min(one.dim(), other.dim()) == 0:
        return False
    large, small = (one, other) if one.dim() > other.dim() else (other, one)
    if not large.shape[0] == small.shape[0] == samples > 1:
        return False
    return large.shape[-1] == 1 or (_lacks_one(small, large) and not _is_unsqueezed(large))


def _lacks_one(small: Tensor, large: Tensor) -> bool:
    """Whether a dimension of 1 behind the first is all that tells their shapes apart, such as a map's single channel."""
    shape = tuple(large.shape)
    return any(shape[k] == 1 and shape[:k] + shape[k + 1 :] == tuple(small.shape) for k in range(1, len(shape)))


def _is_unsqueezed(tensor: Tensor) -> bool:
    """Whether the dimension was put in by hand, as ``x[:, None]``: then all pairs are meant."""
    node = tensor.grad_fn
    return tensor._is_view() if node is None else node.name().startswith(("Unsqueeze", "Slice", "Index"))


def one_class(facts: Facts) -> Iterator[Finding]:
    """A softmax over one number is always 1."""
    for call in facts.step.record.losses:
        if call.name in CLASS_LOSSES and call.input.dim() > 1 and call.input.shape[1] == 1:
            yield _only_one(call, f"{call.name} over a single class is always 0.")
            return
        if _is_one(call, facts):
            yield _only_one(call, "A softmax over a single output is always 1.")
            return
    for call in facts.step.record.squashes if not facts.step.record.losses else ():
        if call.name != "sigmoid" and call.input.shape == (facts.step.samples, 1) and softmax_axis(call) == 1:
            yield _only_one(call, "A softmax over a single output is always 1.")
            return


def _only_one(call: Call, text: str) -> Finding:
    return found(
        "ONE-CLASS",
        "critical",
        text,
        "One output needs F.binary_cross_entropy_with_logits; for a softmax give the last layer one output per class.",
        at(call),
    )


def _is_one(call: Call, facts: Facts) -> bool:
    """After a squeeze the single output is not to be seen any more, but the softmax was."""
    is_alike = call.made_by in ("Softmax", "LogSoftmax") and bool((call.input == call.input.flatten()[0]).all())
    if is_alike and call.input.shape[-1:] == (1,):
        return True
    squashes = [s for s in facts.step.record.squashes if s.name == "softmax"]
    return is_alike and bool((call.input == 1).all()) and any(s.input.shape[softmax_axis(s)] == 1 for s in squashes)


def label_range(facts: Facts) -> Iterator[Finding]:
    """Classes that the net does not have; binary targets that are neither 0, 1 nor between; signs that are none."""
    for call in reversed(facts.step.record.losses):
        labels = call.target
        if labels is None or not labels.numel():
            continue
        if call is facts.step.main and call.name != "ctc_loss" and facts.step.target and _are_as_read(facts):
            labels = torch.cat([t.flatten() for t in facts.data.targets])
        found_here = [finding for names, judge in _LABELS if call.name in names for finding in judge(call, labels)]
        if found_here:
            yield from found_here
            return


def _are_as_read(facts: Facts) -> bool:
    """Whether the labels of further batches are known as the loss gets them."""
    return facts.has("data") and facts.data.is_as_read


def _connected(call: Call, labels: Tensor) -> Iterator[Finding]:
    """Of a sequence of labels none is the blank, which stands between them (Graves et al. 2006)."""
    lengths, blank = call.options.get("target_lengths"), int(call.options.get("blank", 0))
    if labels.dim() == 2 and lengths is None:
        return  # a graph does not keep them, and what pads may be the blank
    counted = labels.flatten()
    if labels.dim() == 2:
        places = torch.arange(labels.shape[1], device=labels.device)
        counted = labels[places < torch.as_tensor(lengths, device=labels.device)[:, None]]
    count = call.input.shape[-1]
    if counted.numel() and bool(((counted == blank) | (counted < 0) | (counted >= count)).any()):
        yield found(
            "LABEL-RANGE",
            "critical",
            f"ctc_loss keeps class {blank} for the blank, and has {count} classes; the labels reach from "
            f"{int(counted.min())} to {int(counted.max())}.",
            "Count the labels from 1 where blank=0, and give the last layer one output more than there are labels.",
            at(call, lowest=int(counted.min()), highest=int(counted.max()), classes=count),
        )


def _several_at_once(call: Call, labels: Tensor) -> Iterator[Finding]:
    """Shares of classes sum to 1 for each sample; several marked with 1 are labels of their own."""
    given = call.target
    if given is None or not given.is_floating_point() or given.shape != call.input.shape or given.dim() < 2:
        return
    sums = given.float().sum(1)
    several = float((sums > 1.5).double().mean())
    if several > 0.05:
        yield found(
            "LABEL-RANGE",
            "warning",
            f"{several:.0%} of the samples have shares of classes that sum to more than 1 (up to {float(sums.max()):.3g}): "
            "cross_entropy takes one class, or shares of them.",
            "F.binary_cross_entropy_with_logits for several labels at once; or divide the shares by their sum.",
            at(call, largest=float(sums.max())),
        )


def _classes(main: Call, labels: Tensor) -> Iterator[Finding]:
    if labels.is_floating_point() or main.input.dim() < 2:
        return
    count = main.input.shape[1]
    kept = labels[labels != main.options.get("ignore_index", -100)]
    low, high = (int(kept.min()), int(kept.max())) if kept.numel() else (0, 0)
    if low < 0 or high >= count:
        yield found(
            "LABEL-RANGE",
            "critical",
            f"Labels reach from {low} to {high}; the net has {count} classes, 0 to {count - 1}.",
            f"Give the last layer {high + 1} outputs, or count the labels from 0."
            if low >= 0
            else "Count the labels from 0.",
            at(main, lowest=low, highest=high, classes=count),
        )


def _yes_and_no(main: Call, labels: Tensor) -> Iterator[Finding]:
    low, high = float(labels.min()), float(labels.max())
    if low < -ROUNDED or high > 1 + ROUNDED:
        yield found(
            "LABEL-RANGE",
            "critical",
            f"{main.name} needs targets from 0 to 1; these reach from {low:g} to {high:g}.",
            "Map the two labels to 0 and 1; more classes need F.cross_entropy.",
            at(main, lowest=low, highest=high),
        )


def _swapped(main: Call, labels: Tensor) -> Iterator[Finding]:
    """What is learnt stands where the target belongs, as in Keras: the loss is a line, and falls for ever."""
    if main.target is None or not main.target.requires_grad or main.input.requires_grad or made_by(main.target) in SHARES:
        return
    yield found(
        "LABEL-RANGE",
        "critical",
        f"{main.name} gets the net's output as its target, and the labels as its input: they have changed places.",
        f"F.{main.name}(output, target): torch takes the output first.",
        at(main),
    )


def _signs(main: Call, labels: Tensor) -> Iterator[Finding]:
    """Losses of pairs and margins multiply by their target: 0 takes a sample out, and 0 and 1 have no other side."""
    if not bool((labels.abs() == 1).all()):
        low, high = float(labels.min()), float(labels.max())
        yield found(
            "LABEL-RANGE",
            "critical",
            f"{main.name} needs targets of 1 and -1; these reach from {low:g} to {high:g}.",
            "Map the labels 0 and 1 to -1 and 1: 2 * y - 1.",
            at(main, lowest=low, highest=high),
        )


_LABELS = (
    (SIGNED_LOSSES, _signs),
    (("cross_entropy", *BINARY_LOSSES), _swapped),
    (CLASS_LOSSES, _classes),
    (("cross_entropy",), _several_at_once),
    (BINARY_LOSSES, _yes_and_no),
    (("ctc_loss",), _connected),
)


CHECKS = (
    Check("BROADCAST", ("step",), broadcast),
    Check("LABEL-RANGE", ("step",), label_range),
    Check("ONE-CLASS", ("step",), one_class),
)
