"""What the first step's loss would cost if the model gave the same answer to every example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_adam.preflight.recorder import Call
from lightning_adam.preflight.step import Step

FEWEST = 8
"""Examples whose mean at each place says something of other examples."""
MOST = 1 << 20
"""Elements of an answer: they are looked at once, beside a training step."""
REST = (0.95, 1.6)
"""The whole loss over the part that is known: what else is added to it, such as a divergence, is the smaller part."""
MOST_CLASSES = 16
"""Beyond these they are words or characters: how often each comes is learnt first, and takes short runs whole."""
SMALLEST = 1e-12
"""A probability whose logarithm is finite."""


@dataclass(frozen=True)
class Comparison:
    """How a loss compares an answer with a target of the same shape.

    Attributes:
        costs: for each place of each example.
        best: the constant answer that costs least, by the targets along a dimension.
        answer: of what the loss function is given.
        has_classes: whether an answer's second dimension has a share for each class, so that a place has several.
    """

    costs: Callable[[Tensor, Tensor], Tensor]
    best: Callable[[Tensor], Tensor]
    answer: Callable[[Tensor], Tensor] = lambda given: given
    has_classes: bool = False

    def best_for_all_places(self, target: Tensor) -> Tensor:
        """Of (examples, …) the one answer that costs least wherever it is given, with as many dimensions."""
        rows = target.movedim(1, -1).flatten(0, -2) if self.has_classes else target.reshape(-1, 1)
        return self.best(rows).view(1, -1, *[1] * (target.dim() - 2))


def costs_of_constant_answers(step: Step, loss: Tensor) -> tuple[float, ...]:
    """With one answer for all places (columns, pixels, times), and with one for each place; empty where nobody knows.

    A model whose output does not depend on its input, such as a decoder behind a collapsed posterior (Lucas et al. 2019,
    arXiv:1911.02469), gets down to the second, and no further.

    Args:
        step: how the loss was made; of its last loss call, with a target of several places for each of some examples.
        loss: before its backward.
    """
    call = step.main
    comparison = _comparison_of(call) if call is not None else None
    if call is None or call.target is None or comparison is None or loss.numel() != 1 or _is_weighted(call):
        return ()
    answers = _answers_and_targets(comparison, call.input.detach(), call.target.detach())
    return () if answers is None else _scaled(comparison, *answers, float(loss.detach()))


def _comparison_of(call: Call) -> Comparison | None:
    """How its loss compares; None where nobody knows."""
    name = WIDTHS.get(call.name)
    if name is None:
        return COMPARISONS.get(call.name)
    width = float(call.options.get(name, 1.0))
    return _huber(width, width if name == "beta" else 1.0) if width > 0 else COMPARISONS["l1_loss"]


def _is_weighted(call: Call) -> bool:
    return any(call.options.get(name) is not None for name in ("weight", "pos_weight"))


def _answers_and_targets(comparison: Comparison, given: Tensor, target: Tensor) -> tuple[Tensor, Tensor] | None:
    """Of the same shape, with a target's classes as ones among zeros; None where there is too little, or too much.

    Targets that are shares already, such as a teacher's or a list's, stay as they are.
    """
    is_enough = target.dim() > 1 and len(target) >= FEWEST and target[0].numel() > 1 and given.numel() <= MOST
    if not is_enough or given.is_complex():
        return None
    is_share = target.is_floating_point() and given.shape == target.shape
    if comparison.has_classes and not (is_share and given.shape[1] <= MOST_CLASSES):
        if target.is_floating_point() or given.dim() != target.dim() + 1 or given.shape[1] > MOST_CLASSES:
            return None
        if bool(((target < 0) | (target >= given.shape[1])).any()):  # places that are ignored, as -100 or 255 marks them
            return None
        target = F.one_hot(target, given.shape[1]).movedim(-1, 1)
    return (given.float(), target.float()) if given.shape == target.shape else None


@torch.no_grad()
def _scaled(comparison: Comparison, given: Tensor, target: Tensor, loss: float) -> tuple[float, ...]:
    """By the mean or the sum over places or over all that makes the loss out of what the present answers cost."""
    present = comparison.costs(comparison.answer(given), target)
    now, places = float(present.mean()), present[0].numel()
    factors = (1.0, places, present.numel())
    factor = next((f for f in factors if now > 0 and REST[0] < loss / (f * now) < REST[1]), None)
    if factor is None:
        return ()
    answers = (comparison.best_for_all_places(target), comparison.best(target))
    costs = [float(comparison.costs(answer.expand_as(target), target).mean()) for answer in answers]
    unseen = len(target) / (len(target) - 1)  # the mean of a few fits these better than others
    return (factor * costs[0], factor * unseen * costs[1]) if min(costs) > 0 else ()


def _squares(answer: Tensor, target: Tensor) -> Tensor:
    return (answer - target).square()


def _distances(answer: Tensor, target: Tensor) -> Tensor:
    return (answer - target).abs()


def _huber(width: float, unit: float) -> Comparison:
    """Squares up to a width, distances beyond; ``smooth_l1_loss`` counts them in this width."""
    return Comparison(lambda answer, target: _soft_distances(answer, target, width) / unit, lambda t: _soft_mean(t, width))


def _soft_distances(answer: Tensor, target: Tensor, width: float) -> Tensor:
    return F.huber_loss(answer.expand_as(target), target, reduction="none", delta=width)


def _soft_mean(target: Tensor, width: float) -> Tensor:
    """From the median on, with less weight for what is far off, as in Huber 1964 (Robust estimation of a location)."""
    answer = _median(target)
    for _ in range(10):
        weight = width / (target - answer).abs().clamp(min=width)
        answer = (weight * target).sum(0, keepdim=True) / weight.sum(0, keepdim=True)
    return answer


def _binary(answer: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy(answer.clamp(0, 1), target.clamp(0, 1), reduction="none")


def _of_classes(answer: Tensor, target: Tensor) -> Tensor:
    return -(target * answer.clamp(min=SMALLEST).log()).sum(1)


def _mean(target: Tensor) -> Tensor:
    return target.mean(0, keepdim=True)


def _median(target: Tensor) -> Tensor:
    return target.median(0, keepdim=True).values


COMPARISONS = {
    "mse_loss": Comparison(_squares, _mean),
    "l1_loss": Comparison(_distances, _median),
    "binary_cross_entropy": Comparison(_binary, _mean),
    "binary_cross_entropy_with_logits": Comparison(_binary, _mean, torch.sigmoid),
    "nll_loss": Comparison(_of_classes, _mean, torch.exp, has_classes=True),
    "cross_entropy": Comparison(_of_classes, _mean, lambda given: given.softmax(1), has_classes=True),
}
"""The loss functions of which it is known; to add one, add a row."""
WIDTHS = {"smooth_l1_loss": "beta", "huber_loss": "delta"}
"""Those that are squares near their target, and how each calls the width of that."""
