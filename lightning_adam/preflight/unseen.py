"""Whether what is learnt on some batches holds for others: no better than guessing, ever, is no signal."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, RandomSampler

from lightning_adam.preflight.data import Data
from lightning_adam.preflight.recorder import CLASS_LOSSES, VALUE_LOSSES, Call
from lightning_adam.preflight.step import Step
from lightning_adam.preflight.task import OutOfTimeError, Task, kept, mode
from lightning_adam.preflight.trial import Trial, fitted

FEWEST, PASSES = 20, 10
"""Batches of which some can be held out, and how often the others are seen."""
MOST_CLASSES = 64
"""Of a target at each place: with more, such as all words, ten passes need not beat guessing."""
BETTER = 0.97
"""Of the loss that guessing has."""


def unseen(task: Task, step: Step, data: Data, found: Trial, seconds: float) -> None:
    """Ten passes over three quarters of the batches; the rest judges."""
    batches = task.usable()
    count = len(batches) * 3 // 4
    guess = guessing(step, data, count) if len(batches) >= FEWEST and step.main is not None and step.target else None
    if guess is None:
        return
    rate, deadline = min(3e-3, 0.1 * found.rms or 1e-3), time.monotonic() + seconds
    lowest, losses = math.inf, []
    with kept(task.module):
        for index, loss in enumerate(fitted(task, lambda index: batches[index % count], rate, PASSES * count), 1):
            losses.append(loss)
            if index % count == 0:
                lowest = min(lowest, _judged(task, batches[count:]))
                if lowest < BETTER * guess:
                    break
            if time.monotonic() > deadline:
                raise OutOfTimeError("the budget is used up")
    found.unseen = lowest, guess, sum(losses[-count:]) / count


def _judged(task: Task, batches: list[Any]) -> float:
    with mode(task.module, training=False):  # with gradients: a step may ask for those of its inputs
        values = [float(task.loss(batch, index).detach()) for index, batch in enumerate(batches)]
    return sum(values) / len(values)


def guessing(step: Step, data: Data, count: int) -> float | None:
    """The loss on the held-out targets of who knows only those of the first batches; None where it is not known."""
    main = step.main
    if main is None:
        return None
    if data.labels is not None:
        sizes = [len(t) for t in data.targets]
        return _by_shares(data.labels[: sum(sizes[:count])], data.labels[sum(sizes[:count]) :])
    if not _is_plain(main, step) or not _is_shuffled(data.reading.loader):
        return None
    seen, held_out = (torch.cat([t.flatten() for t in part]) for part in (data.targets[:count], data.targets[count:]))
    if main.name in VALUE_LOSSES and len(seen) == sum(len(t) for t in data.targets[:count]):
        return _by_the_mean(main, seen, held_out)
    is_of_places = main.name in CLASS_LOSSES and not seen.is_floating_point() and main.input.dim() > 1
    if is_of_places and main.input.shape[1] <= MOST_CLASSES:
        ignore = main.options.get("ignore_index", -100)
        return _by_shares(seen[seen != ignore], held_out[held_out != ignore])
    return None


def _is_plain(main: Call, step: Step) -> bool:
    """One loss, and nothing that weighs it."""
    is_mean = main.options.get("reduction", "mean") == "mean" and not main.options.get("label_smoothing")
    is_alone = isinstance(main.output, Tensor) and math.isclose(float(main.output.mean()), step.loss, rel_tol=1e-4)
    return is_mean and is_alone and main.options.get("weight") is None


def _is_shuffled(loader: Any) -> bool:
    """Else the last batches may be of another kind, as those of a later time are."""
    return isinstance(loader, DataLoader) and isinstance(loader.sampler, RandomSampler)


def _by_shares(seen: Tensor, held_out: Tensor) -> float:
    """Cross entropy of the classes' shares."""
    most = int(max(seen.max(), held_out.max())) + 1
    shares = torch.bincount(seen.clamp_min(0).long(), minlength=most).double() + 1
    return float(-(shares / shares.sum()).log()[held_out.clamp_min(0).long()].mean())


def _by_the_mean(main: Call, seen: Tensor, held_out: Tensor) -> float:
    centre = seen.median() if main.name == "l1_loss" else seen.mean()
    options = {name: main.options[name] for name in ("beta", "delta") if name in main.options}
    return float(getattr(F, main.name)(centre.expand_as(held_out).to(held_out), held_out, **options))
