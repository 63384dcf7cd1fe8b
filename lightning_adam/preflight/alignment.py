"""Whether each sample's target is compared with that sample's output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_adam.preflight.batches import leaves, mapped, size, take
from lightning_adam.preflight.step import remembering_nothing
from lightning_adam.preflight.task import Task

SAMPLES = 6
SEEDS = (0, 1, 2)
"""One who mixes samples (Zhang et al. 2018) may draw a share of next to nothing, but not three times."""
NONE, SOME = 1e-4, 0.01
"""Of the effect that the target has by itself; single precision leaves 1e-6."""
AS_MUCH = 0.5
"""Of the sample's own effect, from which another's is as large."""
ROUNDINGS = 4
"""Of a loss, in its own precision: an effect is a difference of four losses, each off by half of one."""
ALIKE = 0.05
"""Of the largest one, within which shares are one number."""


def other_partner(task: Task, batch: Any, target: str, has_places: bool) -> int | None:
    """The sample whose output the first sample's target is compared with, where that is another one.

    A loss that is a sum over samples has no term of one sample's inputs and another one's target: changing both changes it
    by as much as changing each, one after the other. What is left of that is the effect of the pair.

    Args:
        task: what to call.
        batch: of it the first samples are taken.
        target: path of the targets.
        has_places: whether each sample has a target at each of its places, in a loss that adds them up: then one that is
            flattened in another order meets its own sample's output in some places.
    """
    few = take(batch, range(min(SAMPLES, size(batch) - 1)))
    partner = _partner(task, few, target, has_places, SEEDS[0])
    is_sure = partner is not None and all(_partner(task, few, target, has_places, k) == partner for k in SEEDS[1:])
    return partner if is_sure else None


def _partner(task: Task, few: Any, target: str, has_places: bool, seed: int) -> int | None:
    targets = dict(leaves(few)).get(target)
    if targets is None or not targets.dim() or len(targets) != size(few):
        return None
    unlike = [k for k in range(len(targets) - 1, 2, -1) if not torch.equal(targets[k], targets[0])]
    found = (_partner_by(Exchange(task, few, target, donor, seed), has_places) for donor in unlike[:2])
    return next((partner for partner in found if partner is not None), None)


def _partner_by(exchange: Exchange, has_places: bool) -> int | None:
    own = exchange.effect(0)
    if exchange.change == 0:
        return None
    if own <= NONE * exchange.change:
        candidates, least = exchange.others, SOME * exchange.change
    else:
        candidates, least = exchange.others[:2] if has_places else [], max(SOME * exchange.change, AS_MUCH * own)
    effects = {sample: exchange.effect(sample) for sample in candidates}
    best = max(effects, key=effects.__getitem__, default=0)
    is_paired = effects.get(best, 0.0) > max(least, exchange.rounding) and not exchange.only_divides()
    return best if is_paired else None


class Exchange:
    """Losses of a few samples, where one gets the inputs, and the first one the target, of a donor among them."""

    def __init__(self, task: Task, few: Any, target: str, donor: int, seed: int) -> None:
        self._task, self._few, self._donor, self._seed = task, few, donor, seed
        self._inputs = [p for p, leaf in leaves(few) if leaf.dim() and leaf.shape[0] == size(few) and p != target]
        self._relabelled, self._precision = {target: 0}, 0.0
        self._plain, self._alone = self._loss({}), self._loss(self._relabelled)
        self.others = [sample for sample in range(1, size(few)) if sample != donor]

    @property
    def change(self) -> float:
        """By the target alone; 0 where it is rounding's."""
        change = abs(self._alone - self._plain)
        return change if change > max(1e-5 * abs(self._plain) + 1e-12, self.rounding) else 0.0

    @property
    def rounding(self) -> float:
        """What effects may be where there are none: of a loss in bfloat16 3 % of it."""
        return ROUNDINGS * self._precision * abs(self._plain)

    def effect(self, sample: int) -> float:
        """Of that sample's inputs and the first one's target together, beyond that of each."""
        return abs(self._effects(sample)[1])

    def only_divides(self) -> bool:
        """Whether the target changes what every other sample adds by one and the same share.

        So it does where the loss is divided by the number of labels that count, and the donor has more of them, or fewer.
        """
        effects = [self._effects(sample) for sample in self.others]
        shares = [pair / inputs for inputs, pair in effects if inputs != 0]
        return len(shares) > 1 and max(shares) - min(shares) < ALIKE * max(map(abs, shares))

    def _effects(self, sample: int) -> tuple[float, float]:
        """Of that sample's inputs alone, and of these and the target together beyond that of each."""
        inputs = dict.fromkeys(self._inputs, sample)
        changed = self._loss(inputs)
        return changed - self._plain, self._loss(inputs | self._relabelled) - changed - self._alone + self._plain

    def _loss(self, places: Mapping[str, int]) -> float:
        with remembering_nothing(self._task.module):
            loss = self._task.loss(_exchanged(self._few, self._donor, places), seed=self._seed).detach()
        self._precision = torch.finfo(loss.dtype).eps if loss.is_floating_point() else 0.0
        return float(loss.double())


def _exchanged(few: Any, donor: int, places: Mapping[str, int]) -> Any:
    """The batch, in which the named tensors have the donor's entry in these places."""
    paths = {id(leaf): path for path, leaf in leaves(few)}

    def change(part: Any) -> Any:
        place = places.get(paths.get(id(part), "")) if isinstance(part, Tensor) else None
        if place is None:
            return part
        values = part.clone()
        values[place] = part[donor]
        return values

    return mapped(few, change)
