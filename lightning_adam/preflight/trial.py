"""A minute of training: at the planned rate, at a tenth of it, on one batch, and on some batches to judge others by."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from lightning_adam.preflight.batches import leaves, size, take
from lightning_adam.preflight.by_hand import Cuts
from lightning_adam.preflight.data import Data
from lightning_adam.preflight.gradients import Gradients
from lightning_adam.preflight.guard import untouched
from lightning_adam.preflight.plan import Plan
from lightning_adam.preflight.step import Step, predict
from lightning_adam.preflight.taken_back import Left
from lightning_adam.preflight.task import OutOfTimeError, Task, clip_gradients, gradients, kept, mode, own_hook
from lightning_adam.quiet import without_warnings
from lightning_adam.schedules import Schedule

STEPS, RAMP = 40, 20
SUSPECT, LONGER = 0.3, 120
"""Rate over the weights' rms from which more steps are taken: a transformer only starts to learn after some forty."""
OVERFIT_STEPS, FEWEST_BY_HAND = 120, 40
"""On the same samples; of a loss by hand a few more than it takes to halve it: it may well fall below 0."""
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
        cut: what clipping of the module's own leaves of a usual gradient; 1 where it leaves it alone.
        stays: what a hook behind each batch leaves of a usual step; 1 where there is none.
        overfit: (first, lowest) loss of many steps on a few samples.
        worsened: error of the prediction before and after, where the loss fell below 0 and the error grew.
        unseen: (lowest loss on unseen batches, what guessing gives, last loss on the seen ones).
        rms: median rms of the matrices.
        ratios: of each optimizer the peak over the rms of its matrices; NaN for those that step by the gradient's size.
        weight: norm of all trainable tensors.
        is_cut: whether the run at the planned rate had no time to end.
    """

    first: float = math.nan
    planned: list[float] = field(default_factory=list)
    lower: list[float] = field(default_factory=list)
    scale: float = 0.1
    ramped: list[float] = field(default_factory=list)
    unmoved: list[str] = field(default_factory=list)
    cut: float = 1.0
    stays: float = 1.0
    overfit: tuple[float, float] | None = None
    worsened: tuple[float, float] | None = None
    unseen: tuple[float, float, float] | None = None
    rms: float = 0.0
    ratios: list[float] = field(default_factory=list)
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
    found = Trial(rms=_usual_size(weights.values()))
    found.ratios = [_ratio(one, o, weights.values()) for one, o in zip(plan.every, task.optimizers, strict=True)]
    found.weight = math.sqrt(sum(float(p.detach().float().norm()) ** 2 for p in task.trainable().values()))
    lasting = [ratio * one.usual_step for ratio, one in zip(found.ratios, plan.every, strict=True)]
    steps = LONGER if any(ratio > SUSPECT for ratio in lasting) else STEPS
    found.first = _first(task)
    planned = _run(task, plan, slopes, seconds / 4, steps, ramp=plan.warms_up)
    found.planned, found.unmoved, found.cut, found.stays = planned.losses, planned.unmoved, planned.cut, planned.stays
    found.is_cut = len(found.planned) < steps and math.isfinite(found.planned[-1])
    is_poor = blew_up(found.planned, found.first) or end(found.planned) > 0.7 * found.first
    if (is_poor or steps == LONGER) and (not task.is_adversarial or not math.isfinite(found.planned[-1])):
        _compare(task, plan, slopes, seconds, steps, found)
    return found


def _usual_size(weights: Iterable[Tensor]) -> float:
    """The median of their root mean squares."""
    sizes = [float(w.detach().float().pow(2).mean().sqrt()) for w in weights]
    return median(sizes) if sizes else 0.0


def _ratio(plan: Plan, optimizer: Optimizer, weights: Iterable[Tensor]) -> float:
    """How far one step moves its weights; NaN where a step is as long as the gradient."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    size = _usual_size(w for w in weights if id(w) in held)
    return plan.peak / size if plan.is_adaptive and size > 0 else math.nan


def _compare(task: Task, plan: Plan, slopes: Gradients, seconds: float, steps: int, found: Trial) -> None:
    """With lower rates, and with a ramp."""
    for scale in (0.1, 0.01, 0.001):
        found.lower, found.scale = _run(task, plan, slopes, seconds / 5, steps, scale=scale).losses, scale
        if end(found.lower) < 1.05 * found.first and not _is_thrown(found, scale):
            break
    if not plan.warms_up:
        found.ramped = _run(task, plan, slopes, seconds / 4, steps, ramp=True).losses


def _is_thrown(found: Trial, scale: float) -> bool:
    """Whether the planned rate throws the weights away, and a tenth of it learns nothing, for it may be too high as well."""
    is_lost = end(found.planned) > found.first and max(found.planned) > 2 * found.first > 0
    return scale > 0.05 and is_lost and end(found.lower) > 0.9 * found.first


def _first(task: Task) -> float:
    """Batches differ: of one alone a run that learns nothing may look like one that grows."""
    return median(float(task.loss(batch, index).detach()) for index, batch in enumerate(task.usable()[:FIRST_BATCHES]))


@dataclass
class Run:
    """A short run.

    Attributes:
        losses: of its steps.
        unmoved: tensors with a gradient that stayed as they were; none where its end is not finite.
        cut: what clipping of the module's own leaves of a usual gradient.
        stays: what a hook behind each batch leaves of a usual step.
    """

    losses: list[float] = field(default_factory=list)
    unmoved: list[str] = field(default_factory=list)
    cut: float = 1.0
    stays: float = 1.0


def _run(
    task: Task, plan: Plan, slopes: Gradients, seconds: float, steps: int, scale: float = 1.0, ramp: bool = False
) -> Run:
    """With the user's optimizers; afterwards everything is as before."""
    run, deadline = Run(), time.monotonic() + seconds
    with (
        untouched(task.module, *task.optimizers, *(entry["scheduler"] for entry in task.schedulers)),
        without_warnings(),
    ):
        _detach(task)
        peaks = _peaks(task.optimizers, plan, scale)
        before = {name: p.detach().clone() for name, p in task.trainable().items()}
        batches, left = task.usable(), Left(task)
        for index in range(steps):
            share = min(1.0, (index + 1) / RAMP) if ramp else 1.0
            for group, peak in peaks:
                group["lr"] = peak * share
            batch = batches[index % len(batches)]
            left.begin()
            run.losses.append(_step(task, batch, index))
            left.end(run.losses[-1], batch, index)
            if not math.isfinite(run.losses[-1]) or time.monotonic() > deadline:
                break
        with suppress(Exception):  # what writes weights over does so in the next forward pass
            task.loss(batches[0])
        if math.isfinite(run.losses[-1]) and not (ramp and index < RAMP):
            run.unmoved = _unchanged_parameters(task, before, slopes)
        run.cut, run.stays = median(task.cuts) if task.cuts else 1.0, left.share
    return run


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
    optimizer, losses = task.optimizers[0], []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = task.loss(batch, index)
        losses.append(float(loss.detach()))
        loss.backward()  # type: ignore[no-untyped-call]
        _after_backward(task, optimizer)
        return loss

    own_step = own_hook(task.module, "optimizer_step")
    if own_step is None or not _called(own_step, 0, index, optimizer, closure) or not losses:
        optimizer.step(closure)  # type: ignore[arg-type]
    return losses[0]


def _after_backward(task: Task, optimizer: Optimizer) -> None:
    """Hooks of the module's own, and clipping, in Lightning's order."""
    cuts = Cuts(task.trainable().values(), task.cuts)
    cuts.begin()
    _called(own_hook(task.module, "on_after_backward"))
    _called(own_hook(task.module, "on_before_optimizer_step"), optimizer)
    limit, kind = (getattr(task.trainer, f"gradient_clip_{what}", None) for what in ("val", "algorithm"))
    clipping = own_hook(task.module, "configure_gradient_clipping")
    _called(clipping, optimizer, limit, kind)
    cuts.end()
    if clipping is None:
        clip_gradients(optimizer, limit, kind)


def _called(hook: Callable[..., Any] | None, *arguments: Any) -> bool:
    """Whether it went through: a hook may ask the trainer for what only a run has."""
    try:
        if hook is not None:
            hook(*arguments)
        return True
    except OutOfTimeError:
        raise
    except Exception:  # the user's code may raise anything
        return False


def _unchanged_parameters(task: Task, before: dict[str, Tensor], slopes: Gradients) -> list[str]:
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
    first, lowest, is_map = math.nan, math.inf, _is_map(data.targets)
    with mode(task.module, training=True, dropout=False, norms=size(few) > 3):
        for rate in (3e-3, 3e-4, 3e-2):
            with kept(task.module):
                before = _misfit(task, step, data, few)
                for loss in _until_learnt(task, few, rate, deadline, 0 if step.main is not None else FEWEST_BY_HAND):
                    first = loss if math.isnan(first) else first
                    lowest = min(lowest, loss) if math.isfinite(loss) else lowest
                if lowest < min(0.0, first) or (is_map and lowest < 0.9 * first):
                    found.worsened = before.worse(_misfit(task, step, data, few), is_map)
            if _is_learnt(first, lowest):
                break
    found.overfit = first, lowest


def _until_learnt(task: Task, few: Any, rate: float, deadline: float, fewest: int) -> Iterator[float]:
    """Losses of steps on the same samples, until they are learnt, or not finite."""
    first = math.nan
    for index, loss in enumerate(fitted(task, lambda index: few, rate, OVERFIT_STEPS)):
        first = loss if math.isnan(first) else first
        yield loss
        if (index >= fewest and _is_learnt(first, loss)) or not math.isfinite(loss):
            return
        if time.monotonic() > deadline:
            raise OutOfTimeError("the budget is used up")


def _is_learnt(first: float, lowest: float) -> bool:
    """Below half; a loss below 0 has to fall further by three times its size."""
    return lowest < 0.5 * first if first > 0 else lowest < 4 * first - 1


@dataclass(frozen=True)
class Misfit:
    """How far a prediction is from its target, and how far their correlation from 1 (2 is the opposite); NaN if unknown."""

    distance: float = math.nan
    opposition: float = math.nan

    def worse(self, after: Misfit, is_map: bool) -> tuple[float, float] | None:
        """Before and after, where it got twice as far away, or farther and less like it, or came to be against what is
        wanted rather than with it.

        Of a map only the second, for logits grow as they are learnt.
        """
        if not is_map and after.distance > 2 * self.distance + 0.1:
            return self.distance, after.distance
        if not is_map and after.distance > self.distance and after.opposition > self.opposition + 0.3:
            return self.opposition, after.opposition
        return (self.opposition, after.opposition) if after.opposition > max(1.3, self.opposition) else None


def _misfit(task: Task, step: Step, data: Data, few: Any) -> Misfit:
    """Of one number told for each of the target's: several, such as a distribution's, may be anything."""
    target = dict(leaves(few)).get(data.target)
    output = predict(task, few, step.prediction) if target is not None and step.prediction >= 0 else None
    if output is None or target is None:
        return Misfit()
    if _says_yes_or_no(target) and output.numel() == target.numel():
        return _fit(output.flatten().float(), target.flatten().float(), has_places=True)
    if target.is_floating_point() and output.numel() == target.numel():
        return _fit(output.flatten().float(), target.flatten().float(), has_places=target.numel() > len(target))
    if target.dim() == 1 and not target.is_floating_point() and output.dim() == 2 and int(target.max()) < output.shape[1]:
        return Misfit(float(nn.functional.cross_entropy(output.float(), target.long())))
    return Misfit()


def _fit(output: Tensor, target: Tensor, has_places: bool) -> Misfit:
    """Of single numbers the distance alone: a rate is against a time, and rightly so. Of maps in the target's variance."""
    squares = float((output - target).pow(2).mean())
    if not has_places:
        return Misfit(squares)
    along = float(torch.corrcoef(torch.stack([output, target]))[0, 1])
    return Misfit(squares / (float(target.var()) + 1e-12), 1 - along)


def _is_map(targets: list[Tensor]) -> bool:
    """Whether they say yes or no of many places of each sample."""
    return bool(targets) and all(_says_yes_or_no(t) for t in targets)


def _says_yes_or_no(target: Tensor) -> bool:
    return target.dim() > 1 and target[0].numel() > 1 and bool(((target == 0) | (target == 1)).all())


def fitted(task: Task, batch_of: Callable[[int], Any], rate: float, steps: int, seed: int = 0) -> Iterator[float]:
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
