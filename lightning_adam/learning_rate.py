"""The learning rate from one look: a few rates are tried for five steps each, and the one that went down fastest is lowered.

A step of Adam moves every weight by about α, so that what a network can bear is a share of its weights' size; SGD's step
is in proportion to the gradient, and Polyak's L/‖g‖² is its unit (Polyak 1987, Introduction to optimization, section 5.3).
From a start in that unit rates climb or fall by √10 until the loss after five steps gets worse, three rates in all; what is
fastest for five steps is too fast for hundreds, and is divided (by √10 for the Adam family). How starts and shares were
chosen and what they are worth prints ``python -m tests.benchmarks.suggest_lr``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_adam.assembly import make_groups, make_optimizer, make_schedule, never, order_of, settle
from lightning_adam.config import OptimizerConfig
from lightning_adam.errors import ConfigError
from lightning_adam.guided import GuidedStep, guide
from lightning_adam.optimizers import OptimizerSpec
from lightning_adam.optimizers.choice import Choice
from lightning_adam.planning import plan
from lightning_adam.preflight.batches import read, train_loader
from lightning_adam.preflight.guard import untouched
from lightning_adam.preflight.run import quietly
from lightning_adam.preflight.task import Task, kept, silenced, stand_in

STEPS, HELD_OUT, TRIALS = 5, 4, 3
"""Steps at each rate, batches on which the loss after them is taken, and rates that are tried: 15 steps in all."""
APART = math.sqrt(10)


@dataclass(frozen=True)
class Kind:
    """How an optimizer's step depends on its rate.

    Attributes:
        unit: what rates are measured in: the median rms of the weight matrices, Polyak's L/‖g‖², or 1 where the step is a
            share of the weights by itself.
        start: the first rate that is tried, in this unit.
        share: of the fastest rate, what is suggested.
        tried: whether rates are tried at all; else the first one, lowered, is suggested.
    """

    unit: Literal["weights", "polyak", "one"] = "weights"
    start: float = 0.3
    share: float = 1 / APART
    tried: bool = True


SIGNS = Kind(start=0.09, share=0.18)
GRADIENT = Kind("polyak", start=0.03, share=0.56)
RELATIVE = Kind("one")
KINDS: dict[str, Kind] = {
    **dict.fromkeys(("lion", "lion8bit", "paged_lion"), SIGNS),
    **dict.fromkeys(("sgd", "schedulefree_sgd"), GRADIENT),
    **dict.fromkeys(("adafactor", "lamb", "lamb8bit"), RELATIVE),
    "muon": Kind(start=0.75, tried=False),
    "sophia": Kind(start=0.09, tried=False),
}
"""By name; all others step as Adam does."""
OWN = {"prodigy": "it finds its rate itself", "lbfgs": "its line search finds the length of each step"}
"""Optimizers for which the catalogue's rate is a factor that needs no looking."""


@dataclass(frozen=True)
class SuggestedRate:
    """A learning rate and why.

    Attributes:
        lr: the rate.
        reason: in words.
        trials: rate to the loss after five steps at it, as far as rates were tried; infinite where it was not finite.
    """

    lr: float
    reason: str
    trials: Mapping[float, float] = field(default_factory=dict)

    def __float__(self) -> float:
        return self.lr

    def __str__(self) -> str:
        return f"lr={self.lr:g}: {self.reason}"


def suggest_lr(module: Any, data: Any, optimizer: str = "adamw", *, trainer: Any = None, **options: Any) -> SuggestedRate:
    """A learning rate near the best, in less time than twenty training steps.

    Weights, buffers, gradients, modes, optimizers and random states are bit by bit as before.

    Args:
        module: a LightningModule; of its parts only ``training_step`` must be there. With manual optimization only its
            weights are looked at.
        data: a DataLoader, another iterable of batches, or a datamodule.
        optimizer: a name of the catalogue.
        trainer: whose precision holds.
        **options: what else :func:`lightning_adam.configure_optimizers` takes, such as ``betas`` or ``param_groups``.

    Raises:
        ConfigError: the module has no training step, the data too few batches, or the optimizer is not in the catalogue.

    Example:
        >>> found = suggest_lr(LitModel(), loader)  # doctest: +SKIP
        >>> print(found)  # doctest: +SKIP
        lr=0.003: 0.001 to 0.1 were tried for 5 steps each, 0.01 was the fastest, and a third of it lasts; steps of 3 % …
    """
    config = replace(OptimizerConfig(optimizer=optimizer, lr=1.0), **options)
    return rate_for(module, data, config, trainer)


def look_at_weights(module: nn.Module, optimizer: str = "adamw") -> float:
    """The rate that the weights' size alone suggests, as far as the optimizer's step depends on it; else the catalogue's."""
    _, choice = settle(OptimizerConfig(optimizer=optimizer))
    kind = KINDS.get(choice.spec.name, Kind())
    if choice.spec.name in OWN or kind.unit != "weights":
        return choice.spec.lr
    return weights_rms(module, choice.spec.lr) * kind.start * kind.share


def rate_for(module: Any, data: Any, asked: OptimizerConfig, trainer: Any = None) -> SuggestedRate:
    """As :func:`suggest_lr`, for a whole configuration.

    Raises:
        ConfigError: as :func:`suggest_lr`.
    """
    config, choice = settle(replace(asked, lr=1.0))
    spec = choice.spec
    if spec.takes_any or choice.make is not None or choice.instance is not None:
        raise ConfigError(
            f"lr='auto' knows the optimizers of the catalogue, and optimizer={spec.name} is not one: give a number."
        )
    if spec.name in OWN:
        return SuggestedRate(spec.lr, OWN[spec.name])
    if not isinstance(module, nn.Module) or not callable(getattr(module, "training_step", None)):
        raise ConfigError(f"module={type(module).__name__}: a rate is tried by training_step; give a LightningModule.")
    if not getattr(module, "automatic_optimization", True) or not KINDS.get(spec.name, Kind()).tried:
        return _by_look(module, spec)
    attached = trainer if trainer is not None else getattr(module, "_trainer", None)
    with untouched(module, data, attached), quietly(), torch.compiler.set_stance("force_eager"):
        reading = read(train_loader(data), seconds=30, most=STEPS + HELD_OUT)
        running = hasattr(attached, "precision_plugin")
        task = Task(module, reading, attached if running else stand_in(attached, reading.length))
        with silenced(task):
            return _by_trials(task, config, choice)


def _by_look(module: nn.Module, spec: OptimizerSpec) -> SuggestedRate:
    lr = _rounded(look_at_weights(module, spec.name))
    return SuggestedRate(lr, f"steps of {_percent(lr, weights_rms(module, lr))} of the weights")


def weights_rms(module: nn.Module, default: float) -> float:
    """Median rms of the matrices that are trained and are not zero yet; ``default`` where there is none."""
    shaped = [p for p in module.parameters() if p.requires_grad and not nn.parameter.is_lazy(p) and p.dim() > 1]
    sizes = [size for p in shaped if (size := float(p.detach().abs().square().float().mean().sqrt())) > 0]
    return median(sizes) if sizes else default


def _by_trials(task: Task, config: OptimizerConfig, choice: Choice) -> SuggestedRate:
    kind = KINDS.get(choice.spec.name, Kind())
    try:
        unit = _unit(task, kind, choice.spec)
        trials: dict[float, float] = {}
        for rate in _climb(kind.start * unit, trials):
            trials[rate] = _loss_after(task, config, choice, rate)
    except ConfigError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise ConfigError(f"lr='auto': trying rates raised {type(error).__name__}: {error}") from error
    if not any(map(math.isfinite, trials.values())):
        raise ConfigError(
            f"lr='auto': the loss is not finite at any of {_listed(trials)}: something else is wrong; la.preflight names it."
        )
    fastest = min(trials, key=trials.__getitem__)
    lr = _rounded(fastest * kind.share)
    moves = f"; steps of {_percent(lr, unit)} of the weights" if kind.unit != "polyak" else ""
    tried = f"{_listed(trials)} were tried for {STEPS} steps each, {fastest:.2g} was the fastest"
    return SuggestedRate(lr, f"{tried}, and {kind.share:.2g} of it lasts{moves}", trials)


def _unit(task: Task, kind: Kind, spec: OptimizerSpec) -> float:
    if kind.unit == "weights":
        return weights_rms(task.module, spec.lr)
    return 1.0 if kind.unit == "one" else _polyak(task)


def _polyak(task: Task) -> float:
    """L/‖g‖² of the first batch; of a loss that has no floor at zero its size."""
    loss = task.loss(task.usable()[0])
    parameters = list(task.trainable().values())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    squared = sum(float(g.float().square().sum()) for g in found if g is not None)
    return max(abs(float(loss.detach())), 1e-3) / max(squared, 1e-12)


def _climb(start: float, trials: Mapping[float, float]) -> Iterator[float]:
    """Rates to try: upwards while that helps, else downwards; the caller enters each one's loss before it asks again."""
    yield start
    rate = start * APART
    for _ in range(TRIALS - 1):
        yield rate
        best = min(trials, key=trials.__getitem__)
        if best not in (min(trials), max(trials)):
            return
        rate = best * APART if best == max(trials) else best / APART


def _loss_after(task: Task, config: OptimizerConfig, choice: Choice, rate: float) -> float:
    """The mean loss of batches that were not trained on."""
    batches = task.usable()
    trained, judged = _split(batches)
    with kept(task.module):
        optimizer = _made(task.module, config, choice, rate)
        for index in range(STEPS):
            _step(task, optimizer, trained[index % len(trained)], index)
        losses = [float(task.loss(batch).detach()) for batch in judged]  # a physics-informed loss needs its gradients
        optimizer.zero_grad()
    mean = sum(losses) / len(losses)
    return mean if math.isfinite(mean) else math.inf


def _split(batches: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """What is trained on and what judges; of a data set of a few batches the same."""
    return (batches[:-HELD_OUT], batches[-HELD_OUT:]) if len(batches) > HELD_OUT else (batches, batches)


def _made(module: nn.Module, config: OptimizerConfig, choice: Choice, rate: float) -> GuidedStep:
    """The optimizer as the helper would make it, at a constant rate and without clipping."""
    left_open = dict.fromkeys(("decay", "min_lr", "schedule_options"))
    plain = replace(config, lr=rate, schedule="constant", warmup=0, total_steps=1000, **left_open)  # type: ignore[arg-type]
    optimizer = make_optimizer(choice, plain, make_groups(module, plain, choice), 1000, never)
    guide(optimizer, None, make_schedule(optimizer, plan(plain, None), plain), order_of(module))
    if "modes" in choice.spec.needs:
        optimizer.train()  # type: ignore[attr-defined]
    return optimizer


def _step(task: Task, optimizer: GuidedStep, batch: Any, index: int) -> None:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = task.loss(batch, index)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)


def _rounded(rate: float) -> float:
    return float(f"{rate:.2g}")


def _percent(lr: float, of: float) -> str:
    return f"{100 * lr / of:.2g} %"


def _listed(trials: Mapping[float, float]) -> str:
    return ", ".join(f"{rate:.2g}" for rate in sorted(trials))
