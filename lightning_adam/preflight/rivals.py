"""Whether one of two players, each with a loss of its own, is pulled to the wrong side by what the other one says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lightning_adam.preflight.nodes import slope_to
from lightning_adam.preflight.recorder import VALUE_LOSSES, Call

FEWEST = 16
"""Moves of which it is said whether their values rise with their rewards."""


@dataclass(frozen=True)
class Pull:
    """A loss pulls all that a net says of some samples to one side.

    Attributes:
        net: that was asked.
        is_upwards: whether the loss falls as its answers rise.
        is_given: whether it was asked about what the batch has.
        is_made: whether it was asked about what another net made, and that one hears of it.
    """

    net: nn.Module
    is_upwards: bool
    is_given: bool
    is_made: bool


@dataclass
class Plays:
    """What the losses of a step do, in order.

    Attributes:
        pulls: on what the nets say.
        valued: nets that learn what rewards there will be.
    """

    pulls: list[list[Pull]] = field(default_factory=list)
    valued: list[list[nn.Module]] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """The net, what it gave, what it got, and whether what it got leads back to another net."""

    net: nn.Module
    given: object
    asked: Tensor | None
    is_made: bool


def pulls(loss: Tensor, answers: Iterable[Answer], is_given: Callable[[Tensor], bool]) -> list[Pull]:
    """Of one loss, on each net's answers.

    Args:
        loss: before its backward.
        answers: of all nets that were asked.
        is_given: whether the batch has these numbers.
    """
    found = []
    for answer in answers:
        if isinstance(answer.given, Tensor) and answer.asked is not None:
            slope = slope_to(loss, answer.given)
            if bool(slope.any()) and bool((slope <= 0).all() or (slope >= 0).all()):
                found.append(Pull(answer.net, float(slope.sum()) < 0, is_given(answer.asked), answer.is_made))
    return found


def valued(loss: Tensor, calls: Iterable[Call], answers: Sequence[Answer], rewards: Sequence[Tensor]) -> list[nn.Module]:
    """The nets whose answers are compared with what rises with the rewards of the moves."""
    found = []
    for call in calls:
        is_value = call.name in VALUE_LOSSES and isinstance(call.output, Tensor) and call.target is not None
        if is_value and any(_goes_with(call.target, reward) for reward in rewards) and slope_to(loss, call.output).any():
            whole = call.output.mean()
            found += [a.net for a in answers if isinstance(a.given, Tensor) and slope_to(whole, a.given).any()]
    return found


def _goes_with(target: Tensor | None, reward: Tensor) -> bool:
    if target is None or target.requires_grad or target.numel() != reward.numel() or reward.numel() < FEWEST:
        return False
    pair = torch.stack([target.detach().flatten().float(), reward.detach().flatten().float()])
    return float(torch.corrcoef(pair)[0, 1]) > 0.5


def scorned(plays: Plays) -> nn.Module | None:
    """The net that tells the value of moves, and that the one who makes them is to displease (Lillicrap et al. 2016, eq. 6
    has the other sign). A loss in which values are learnt may well lower those of moves that nobody has made."""
    for net in (net for nets in plays.valued for net in nets):
        losses = [loss for loss, nets in zip(plays.pulls, plays.valued, strict=True) if net not in nets]
        made = [pull for loss in losses for pull in loss if pull.net is net and pull.is_made]
        if made and not any(pull.is_upwards for pull in made):
            return net
    return None


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
