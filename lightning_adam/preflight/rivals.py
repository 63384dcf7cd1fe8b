"""Whether one of two players, each with a loss of its own, does what the other one wants."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lightning_adam.preflight.nodes import slope_to


@dataclass(frozen=True)
class Pull:
    """A loss pulls all that a net says of some samples to one side.

    Attributes:
        net: that was asked.
        is_upwards: whether the loss falls as its answers rise.
        is_given: whether it was asked about what the batch has.
    """

    net: nn.Module
    is_upwards: bool
    is_given: bool


Answer = tuple[nn.Module, object, Tensor | None]
"""The net, what it gave, and what it got."""


def pulls(loss: Tensor, answers: Iterable[Answer], is_given: Callable[[Tensor], bool]) -> list[Pull]:
    """Of one loss, on each net's answers.

    Args:
        loss: before its backward.
        answers: of all nets that were asked.
        is_given: whether the batch has these numbers.
    """
    found = []
    for net, answer, asked in answers:
        if isinstance(answer, Tensor) and asked is not None:
            slope = slope_to(loss, answer)
            if bool(slope.any()) and bool((slope <= 0).all() or (slope >= 0).all()):
                found.append(Pull(net, float(slope.sum()) < 0, is_given(asked)))
    return found


def helped(losses: Sequence[Sequence[Pull]]) -> nn.Module | None:
    """The judge that its rival helps: it tells what is given from what is made, and the loss of who makes it pulls the
    judge's answer to the side where it is told (Goodfellow et al. 2014, section 3: the rival's is the other one)."""
    for judge, told in _verdicts(losses):
        rivals = [pull for loss in losses if not _has_given(loss, judge) for pull in loss if pull.net is judge]
        if rivals and all(pull.is_upwards == told for pull in rivals):
            return judge
    return None


def _verdicts(losses: Sequence[Sequence[Pull]]) -> Iterator[tuple[nn.Module, bool]]:
    """Each judge, and whether it says more of what is made than of what is given."""
    for loss in losses:
        for given in (pull for pull in loss if pull.is_given):
            others = [pull for pull in loss if pull.net is given.net and not pull.is_given]
            if others and all(pull.is_upwards != given.is_upwards for pull in others):
                yield given.net, not given.is_upwards


def _has_given(loss: Sequence[Pull], judge: nn.Module) -> bool:
    return any(pull.is_given for pull in loss if pull.net is judge)
