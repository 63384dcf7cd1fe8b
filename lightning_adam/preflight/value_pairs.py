"""What a regression compares: predictions and targets, of torch's functions and of what is written by hand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_adam.preflight.batches import path_of, same_values
from lightning_adam.preflight.facts import Facts
from lightning_adam.preflight.reach import Reach, reach_of
from lightning_adam.preflight.recorder import VALUE_LOSSES, Call, made_by

REGRESSIONS = (*VALUE_LOSSES, "gaussian_nll_loss")


@dataclass(frozen=True)
class Pair:
    """Prediction and target of a regression, and what made the prediction.

    Attributes:
        prediction: as the first step gives it.
        target: of all batches where the loss gets it as it is; finite.
        path: of the batch's tensor that the target is; empty where it is made in the step.
        made_by: autograd's name of the prediction's last operation.
        reach: the lowest and the highest number that this operation can give.
        call: of the loss; None where it is written by hand.
    """

    prediction: Tensor
    target: Tensor
    path: str
    made_by: str
    reach: Reach
    call: Call | None

    @property
    def error(self) -> float:
        """Root mean square of what is missing, could only the mean be told."""
        return float((self.target - self.prediction.mean()).pow(2).mean().sqrt())


def value_pairs(facts: Facts) -> list[Pair]:
    """Of each regression in the step, the last first: of a loss before the last one only where the batch has its target."""
    step = facts.step
    calls = [call for call in reversed(step.record.losses) if call.name in REGRESSIONS and call.target is not None]
    found = [_pair(call, call.target, facts) for call in calls if call.target is not None]
    if not step.record.losses:
        found = [by_hand for by_hand in (_by_hand(facts) or _of_one_size(facts),) if by_hand is not None]
    told = [pair for pair in found if pair.path or pair.call is step.main or pair.call is None]
    return [pair for pair in told if pair.target.numel() > 1 and pair.prediction.numel() > 1]


def _pair(call: Call, target: Tensor, facts: Facts) -> Pair:
    path = path_of(target, facts.step.given)
    if path == facts.data.target and facts.data.targets and facts.data.is_as_read:
        target = torch.cat([t.flatten() for t in facts.data.targets])
    known = call if call.name in REGRESSIONS else None
    return Pair(call.input.detach().float().cpu(), _finite(target), path, call.made_by, _reach(call, facts), known)


def _reach(call: Call, facts: Facts) -> Reach:
    """Of a vector that was brought to length 1 no number is larger."""
    directions = [c.output for c in facts.step.record.directions if c.name == "normalize"]
    is_short = any(d.shape == call.input.shape and same_values(d, call.input) for d in directions)
    return (-1.0, 1.0) if is_short else reach_of(call.input)


def _by_hand(facts: Facts) -> Pair | None:
    """What is taken from a tensor of the batch."""
    call = facts.step.compared if facts.step.target else None
    return _pair(call, call.target, facts) if call is not None and call.target is not None else None


def _finite(target: Tensor) -> Tensor:
    values = target.detach().float().cpu()
    return values[torch.isfinite(values)]


def _of_one_size(facts: Facts) -> Pair | None:
    """The prediction and a float target of its size."""
    step, data = facts.step, facts.data
    output = step.trace.outer[step.prediction][1] if step.prediction >= 0 else None
    if not isinstance(output, Tensor) or not data.targets or not data.targets[0].is_floating_point():
        return None
    if step.compared is not None:  # with something that the step has made of the target
        return None
    if output.numel() != data.targets[0].numel() or data.labels is not None:
        return None
    return Pair(
        output.detach().float().cpu(), _finite(data.targets[0]), data.target, made_by(output), reach_of(output), None
    )
