"""A minute of training: at the planned rate, at a tenth of it, on one batch, and on some batches to judge others by."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from lightning_adam.preflight.batches import leaves, size, take
from lightning_adam.preflight.data import Data
from lightning_adam.preflight.gradients import Gradients
from lightning_adam.preflight.guard import untouched
from lightning_adam.preflight.plan import Plan
from lightning_adam.preflight.step import Step, predict
from lightning_adam.preflight.task import OutOfTimeError, Task, gradients, kept, mode
from lightning_adam.quiet import without_warnings
from lightning_adam.schedules import Schedule

STEPS, RAMP = 40, 20
SUSPECT, LONGER = 0.3, 120
"""Rate over the weights' rms from which more steps are taken: a transformer only starts to learn after some forty."""
OVERFIT_STEPS = 120
FEWEST, FIRST_BATCHES = 10, 8
ROUNDING = 1e-5
"""Of the usual gradient: what a bias before a norm has is what rounding leaves of 0."""


@dataclass
class Trial:
    """Losses of short runs; empty where one was not needed or not to be had.

    Attributes:
        first: median loss of some batches before any step.
        planned: at the schedule's peak, reached by a short ramp where the schedule has a warmup.
        lower: at a tenth of it, or less where that blows up, too; ``scale`` says which.
        ramped: at the peak after a ramp, where the schedule has none.
        unmoved: tensors with a gradient that no step has changed.
        overfit: (first, lowest) loss of many steps on a few samples.
        worsened: error of the prediction before and after, where the loss fell below 0 and the error grew.
        unseen: (lowest loss on unseen batches, what guessing gives, last loss on the seen ones).
        rms: median rms of the matrices.
        weight: norm of all trainable tensors.
        is_cut: whether the run at the planned rate had no time to end.
    """

    first: float = math.nan
    planned: list[float] = field(default_factory=list)
    lower: list[float] = field(default_factory=list)
    scale: float = 0.1
    ramped: list[float] = field(default_factory=list)
    unmoved: list[str] = field(default_factory=list)
    overfit: tuple[float, float] | None = None
    worsened: tuple[float, float] | None = None
    unseen: tuple[float, float, float] | None = None
    rms: float = 0.0
    weight: float = 0.0
    is_cut: bool = False


def end(losses: list[float]) -> float:
    """Median of the last ten; infinite where the last is not finite."""
    return median(losses[-10:]) if math.isfinite(losses[-1]) else math.inf


def blew_up(losses: list[float], first: float) -> bool:
    """Not finite, or half again above the loss before any step, and still there."""
    return not math.isfinite(losses[-1]) or (first > 0 and end(losses) > 1.5 * first + 1e-3)


def measure_rates(task: Task, plan: Plan, weights: dict[str, nn.Parameter], slopes: Gradients, seconds: float) -> Trial:
    """The run at the planned rate; others only where that one looks bad."""
    found = Trial(rms=median(float(w.detach().float().pow(2).mean().sqrt()) for w in weights.values()) if weights else 0.0)
    found.rms = median(float(w.detach().float().pow(2).mean().sqrt()) for w in weights.values()) if weights else 0.0
    found.weight = math.sqrt(sum(float(p.detach().float().norm()) ** 2 for p in task.trainable().values()))
    steps = LONGER if plan.is_adaptive and found.rms and plan.peak > SUSPECT * found.rms else STEPS
    found.first = _first(task)
    found.planned, found.unmoved = _run(task, plan, slopes, seconds / 4, steps, ramp=plan.warms_up)
    found.is_cut = len(found.planned) < steps and math.isfinite(found.planned[-1])
    is_poor = blew_up(found.planned, found.first) or end(found.planned) > 0.7 * found.first
    if (is_poor or steps == LONGER) and not task.manual:
        for scale in (0.1, 0.01, 0.001):
            found.lower, found.scale = _run(task, plan, slopes, seconds / 5, steps, scale=scale)[0], scale
            if end(found.lower) < 1.05 * found.first:
                break
        if not plan.warms_up:
            found.ramped, _ = _run(task, plan, slopes, seconds / 4, steps, ramp=True)
    return found


def _first(task: Task) -> float:
    """Batches differ: of one alone a run that learns nothing may look like one that grows."""
    return median(float(task.loss(batch, index).detach()) for index, batch in enumerate(task.usable()[:FIRST_BATCHES]))


def _run(
    task: Task, plan: Plan, slopes: Gradients, seconds: float, steps: int, scale: float = 1.0, ramp: bool = False
) -> tuple[list[float], list[str]]:
    """Losses of short runs with the user's optimizers, and the tensors that stayed as they were."""
    losses: list[float] = []
    with (
        untouched(task.module, *task.optimizers, *(entry["scheduler"] for entry in task.schedulers)),
        without_warnings(),
    ):
        _detach(task)
        peaks = _peaks(task.optimizers, plan, scale)
        before = {name: p.detach().clone() for name, p in task.trainable().items()}
        batches, deadline = task.usable(), time.monotonic() + seconds
        for index in range(steps):
            share = min(1.0, (index + 1) / RAMP) if ramp else 1.0
            for group, peak in peaks:
                group["lr"] = peak * share
            losses.append(_step(task, batches[index % len(batches)], index))
            if not math.isfinite(losses[-1]) or time.monotonic() > deadline:
                break
        with suppress(Exception):  # what writes weights over does so in the next forward pass
            task.loss(batches[0])
        unmoved = [] if ramp and index < RAMP else _unmoved(task, before, slopes)
    return losses, unmoved if math.isfinite(losses[-1]) else []


def _detach(task: Task) -> None:
    """From schedules and from whoever watches the optimizers: these steps are no training."""
    for entry in task.schedulers:
        if isinstance(entry["scheduler"], Schedule):
            entry["scheduler"].stand_aside("preflight")
    for optimizer in task.optimizers:
        for name in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks", "_before_clip_hooks"):
            getattr(optimizer, name, {}).clear()


def _peaks(optimizers: list[Optimizer], plan: Plan, scale: float) -> list[tuple[dict[str, Any], float]]:
    """Each group's rate at the schedule's peak: for the first optimizer as simulated, for others as configured."""
    lift = plan.peak / plan.base if plan.base else 1.0
    return [
        (group, float(group.get("initial_lr", group["lr"])) * (lift if optimizer is optimizers[0] else 1.0) * scale)
        for optimizer in optimizers
        for group in optimizer.param_groups
    ]


def _step(task: Task, batch: Any, index: int) -> float:
    if task.manual:
        return float(task.loss(batch, index, steps=True).detach())
    kept_loss: list[float] = []

    def closure() -> Tensor:
        task.optimizers[0].zero_grad()
        loss = task.loss(batch, index)
        kept_loss.append(float(loss.detach()))
        loss.backward()  # type: ignore[no-untyped-call]
        _clip(task)
        return loss

    task.optimizers[0].step(closure)  # type: ignore[arg-type]
    return kept_loss[0]


def _clip(task: Task) -> None:
    limit = getattr(task.trainer, "gradient_clip_val", None)
    if limit:
        parameters = [p for p in task.trainable().values() if p.grad is not None]
        if str(getattr(task.trainer, "gradient_clip_algorithm", None) or "norm").endswith("value"):
            nn.utils.clip_grad_value_(parameters, limit)
        else:
            nn.utils.clip_grad_norm_(parameters, limit)


def _unmoved(task: Task, before: dict[str, Tensor], slopes: Gradients) -> list[str]:
    """By hand a bias may have a gradient of one loss, and be stepped by another that has none of it."""
    least = 2 if task.manual else 0
    held = {id(p) for o in task.optimizers for group in o.param_groups for p in group["params"]}
    usual = median(slopes.rms.values()) if slopes.rms else 0.0
    return [
        name
        for name, p in task.trainable().items()
        if id(p) in held
        and p.dim() >= least
        and slopes.norms.get(name, 0.0) > 0
        and slopes.rms.get(name, usual) > ROUNDING * usual
        and name in before
        and torch.equal(p.detach(), before[name])
    ]


def overfit(task: Task, step: Step, data: Data, found: Trial, seconds: float) -> None:
    """Adam on at most 16 samples, without dropout; three rates where one does not do."""
    batch = task.usable()[0]
    few = take(batch, range(min(16, size(batch)))) if size(batch) else batch
    deadline = time.monotonic() + seconds
    first, lowest = math.nan, math.inf
    with mode(task.module, training=True, dropout=False, norms=size(few) > 3):
        for rate in (3e-3, 3e-4, 3e-2):
            with kept(task.module):
                before = _error(task, step, data, few)
                for loss in _fitted(task, lambda index: few, rate, OVERFIT_STEPS):
                    first = loss if math.isnan(first) else first
                    lowest = min(lowest, loss) if math.isfinite(loss) else lowest
                    if _is_learnt(first, lowest) or not math.isfinite(loss):
                        break
                    if time.monotonic() > deadline:
                        raise OutOfTimeError("the budget is used up")
                is_map = _is_map(data.targets)
                if lowest < min(0.0, first) or (is_map and lowest < 0.9 * first):
                    found.worsened = _worse(before, _error(task, step, data, few), is_map)
            if _is_learnt(first, lowest):
                break
    found.overfit = first, lowest


def _is_learnt(first: float, lowest: float) -> bool:
    """Below half; a loss below 0 has to fall further by three times its size."""
    return lowest < 0.5 * first if first > 0 else lowest < 4 * first - 1


def _error(task: Task, step: Step, data: Data, few: Any) -> float:
    """How far the prediction is from the target; NaN where they are not of one kind."""
    target = dict(leaves(few)).get(data.target)
    output = predict(task, few, step.prediction) if target is not None and step.prediction >= 0 else None
    if output is None or target is None:
        return math.nan
    if target.is_floating_point() and output.numel() == target.numel():
        return _distance(output.flatten().float(), target.flatten().float(), _is_map([target]))
    if target.dim() == 1 and not target.is_floating_point() and output.dim() == 2 and int(target.max()) < output.shape[1]:
        return float(nn.functional.cross_entropy(output.float(), target.long()))
    return math.nan


def _is_map(targets: list[Tensor]) -> bool:
    """Whether they say yes or no of many places of each sample."""
    return bool(targets) and all(
        t.is_floating_point() and t.dim() > 1 and t[0].numel() > 1 and bool(((t == 0) | (t == 1)).all()) for t in targets
    )


def _distance(output: Tensor, target: Tensor, is_map: bool) -> float:
    """In squares; of yes and no how far the correlation is from 1, for logits grow as they are learnt."""
    if not is_map:
        return float((output - target).pow(2).mean())
    return 1 - float(torch.corrcoef(torch.stack([output, target]))[0, 1])


def _worse(before: float, after: float, is_map: bool) -> tuple[float, float] | None:
    """Twice as far away; of a map, against what is wanted rather than with it."""
    is_worse = after > max(1.3, before) if is_map else after > 2 * before + 0.1
    return (before, after) if is_worse else None


def _fitted(task: Task, batch_of: Callable[[int], Any], rate: float, steps: int, seed: int = 0) -> Iterator[float]:
    """Losses of plain Adam with clipping, whatever the user's optimizer is."""
    named = task.trainable()
    optimizer = Adam(named.values(), lr=rate)
    for index in range(steps):
        loss = task.loss(batch_of(index), index, seed=seed)
        yield float(loss.detach())
        got = gradients(task, loss, list(named))
        for parameter, gradient in zip(named.values(), got.values(), strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(named.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def unseen(task: Task, step: Step, data: Data, found: Trial, seconds: float) -> None:
    """Ten passes over three quarters of the batches; the rest judges. Only of labels, against their own shares."""
    batches, labels = task.usable(), data.labels
    if labels is None or len(batches) < 20 or step.main is None or not step.target:
        return
    count = len(batches) * 3 // 4
    sizes = [len(t) for t in data.targets]
    seen, held_out = labels[: sum(sizes[:count])], labels[sum(sizes[:count]) :]
    shares = torch.bincount(seen.clamp_min(0), minlength=int(labels.max()) + 1).double() + 1
    prior = float(-(shares / shares.sum()).log()[held_out.clamp_min(0)].mean())
    deadline, lowest, losses = time.monotonic() + seconds, math.inf, []
    with kept(task.module):
        for index, loss in enumerate(
            _fitted(task, lambda index: batches[index % count], min(3e-3, 0.1 * found.rms or 1e-3), 10 * count), 1
        ):
            losses.append(loss)
            if index % count == 0:
                lowest = min(lowest, _judged(task, batches[count:]))
                if lowest < 0.97 * prior:
                    break
            if time.monotonic() > deadline:
                raise OutOfTimeError("the budget is used up")
    found.unseen = lowest, prior, sum(losses[-count:]) / count


def _judged(task: Task, batches: list[Any]) -> float:
    with mode(task.module, training=False):  # with gradients: a step may ask for those of its inputs
        values = [float(task.loss(batch, index).detach()) for index, batch in enumerate(batches)]
    return sum(values) / len(values)
