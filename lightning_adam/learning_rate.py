"""The learning rate from one look: what a gradient says, and how much of it a few trials of five steps bear.

A step of Adam moves every weight by about α (Kingma & Ba 2015, arXiv:1412.6980, section 2.1). What a network can bear is a
share of its weights' size (Bernstein et al. 2020, arXiv:2002.03432); and along sign(g) the loss falls by α‖g‖₁, so that
Polyak's rate (1987, Introduction to optimization, section 5.3) is L/‖g‖₁, which is small where little changes much, as in
sines of a large frequency or in what is trained already, and large in networks of few weights. The anchor is the geometric
mean of the two. SGD's step is in proportion to the gradient, and Polyak's L/‖g‖² is its unit.

Rates are tried from a start in these units: they climb or fall by 10^¾ until the loss after five steps gets worse, three in
all. What is fastest for five steps is too fast for hundreds: the suggestion is a share of the weighted geometric mean of the
fastest rate and the anchor, and half of the fastest at most. How starts, shares and weights were chosen and what they are
worth prints ``python -m tests.benchmarks.suggest_lr``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import geometric_mean
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_adam.assembly import fused_fits, make_groups, make_optimizer, make_schedule, order_of, settle
from lightning_adam.checks import ARGUMENTS, check_arguments
from lightning_adam.config import OptimizerConfig
from lightning_adam.errors import ConfigError
from lightning_adam.guided import GuidedStep, guide
from lightning_adam.optimizers import OptimizerSpec
from lightning_adam.optimizers.choice import Choice
from lightning_adam.planning import plan
from lightning_adam.preflight.batches import read, train_loader
from lightning_adam.preflight.guard import untouched
from lightning_adam.preflight.plain import refuse_no_trainer
from lightning_adam.preflight.run import quietly
from lightning_adam.preflight.task import Task, kept, silenced, stand_in

STEPS, HELD_OUT, TRIALS = 5, 3, 3
"""Steps at each rate, batches on which the loss after them is taken, and rates that are tried: 15 steps in all."""
APART, BORNE, BELIEVED = 10**0.75, 0.5, 30
"""What is between two rates, what hundreds of steps bear of the fastest one at most, and how far a unit may be off."""


@dataclass(frozen=True)
class Kind:
    """How an optimizer's step depends on its rate.

    Attributes:
        unit: what the first rate is measured in: the geometric mean of the weight matrices' rms, Polyak's L/‖g‖², or 1 where
            the step is a share of the weights by itself.
        start: the first rate that is tried, in this unit.
        trust: the fastest rate's weight in its geometric mean with the anchor, 0 to 1.
        share: of this mean, what is suggested.
        tried: whether rates are tried at all; else the start counts as the fastest, and the unit is the anchor.
    """

    unit: Literal["weights", "polyak", "one"] = "weights"
    start: float = 0.2
    trust: float = 0
    share: float = 0.15
    tried: bool = True

    def lasting(self, fastest: float, anchor: float) -> float:
        """The rate for hundreds of steps."""
        return min(BORNE * fastest, float(self.share * fastest**self.trust * anchor ** (1 - self.trust)))


SIGNS = Kind(start=0.18, trust=0.6, share=0.04)
RECTIFIED = Kind(trust=0.6, share=0.35)
"""Its steps are shortened for hundreds of steps (Liu et al. 2020, arXiv:1908.03265, algorithm 2)."""
ORTHOGONAL = Kind(share=0.12)
"""Each step's rms is 0.2 α; Adam's is near α at first, later 0.2 to 0.4 α (Liu et al. 2025, arXiv:2502.16982, section 2.2).
Five steps bear a rate that is so much higher; hundreds bear Adam's."""
GRADIENT = Kind("polyak", start=0.018, trust=1, share=0.2)
"""Nothing bounds a step: with an anchor's help a suggestion could be above what had just been seen to diverge."""
RELATIVE = Kind("one", start=0.3, trust=1, share=0.3)
KINDS: dict[str, Kind] = {
    **dict.fromkeys(("lion", "lion8bit", "paged_lion"), SIGNS),
    "radam": RECTIFIED,
    "muon": ORTHOGONAL,
    **dict.fromkeys(("sgd", "schedulefree_sgd"), GRADIENT),
    **dict.fromkeys(("adafactor", "lamb", "lamb8bit"), RELATIVE),
    "sophia": Kind(start=0.09, trust=1, share=0.3, tried=False),
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
    """A learning rate near the best, from sixteen training steps and nine evaluations without a backward pass.

    Weights, buffers, gradients, modes, optimizers and random states are bit by bit as before.

    Args:
        module: a LightningModule; of its parts only ``training_step`` must be there. With manual optimization only its
            weights are looked at.
        data: a DataLoader, another iterable of batches, or a datamodule.
        optimizer: a name of the catalogue.
        trainer: whose precision holds.
        **options: what else :func:`lightning_adam.configure_optimizers` takes, such as ``betas``, ``param_groups`` or
            ``momentum``.

    Raises:
        ConfigError: the module has no training step, the data no batch, the optimizer is not in the catalogue or takes no
            such option, or a rate is given.

    Example:
        >>> found = suggest_lr(LitModel(), loader)  # doctest: +SKIP
        >>> print(found)  # doctest: +SKIP
        lr=0.0082: 0.0098, 0.055, 0.31 were tried for 5 steps each, 0.055 was the fastest, and by the gradient 0.15 of it …
    """
    refuse_no_trainer(trainer)
    if "lr" in options:
        raise ConfigError(f"lr={options['lr']!r}: suggest_lr finds it. Leave lr out.")
    ours = {name: value for name, value in options.items() if name in ARGUMENTS}
    others = {name: value for name, value in options.items() if name not in ARGUMENTS}
    return rate_for(module, data, OptimizerConfig(optimizer=optimizer, **ours, options=others), trainer)


def look_at_weights(module: nn.Module, optimizer: str = "adamw") -> float:
    """The rate that the weights' size alone suggests, as far as the optimizer's step depends on it; else the catalogue's."""
    _, choice = settle(OptimizerConfig(optimizer=optimizer))
    kind = _kind_of(choice)
    if choice.spec.name in OWN or kind.unit != "weights":
        return choice.spec.lr
    unit = weights_rms(module)
    return kind.lasting(kind.start * unit, unit)


def rate_for(module: Any, data: Any, asked: OptimizerConfig, trainer: Any = None) -> SuggestedRate:
    """As :func:`suggest_lr`, for a whole configuration.

    Raises:
        ConfigError: as :func:`suggest_lr`.
    """
    config, choice = settle(replace(asked, lr=1.0))
    _refuse_strangers(choice)
    check_arguments(config, choice.spec)
    if choice.spec.name in OWN:
        return SuggestedRate(choice.spec.lr, OWN[choice.spec.name])
    if not isinstance(module, nn.Module) or not callable(getattr(module, "training_step", None)):
        raise ConfigError(f"module={type(module).__name__}: a rate is tried by training_step; give a LightningModule.")
    if not getattr(module, "automatic_optimization", True) or not _kind_of(choice).tried:
        return _from_weights(module, choice.spec)
    attached = trainer if trainer is not None else getattr(module, "_trainer", None)
    with untouched(module, data, attached), quietly(), torch.compiler.set_stance("force_eager"):
        task = _task(module, data, attached)
        with silenced(task):
            return _from_trials(task, config, choice)


def _refuse_strangers(choice: Choice) -> None:
    if choice.spec.takes_any or choice.make is not None or choice.instance is not None:
        raise ConfigError(
            f"lr='auto' knows the optimizers of the catalogue, and optimizer={choice.spec.name} is not one: give a number."
        )


def _kind_of(choice: Choice) -> Kind:
    return KINDS.get(choice.spec.name, Kind())


def _task(module: nn.Module, data: Any, attached: Any) -> Task:
    """With as many batches as trials take."""
    reading = read(train_loader(data), seconds=30, most=STEPS + HELD_OUT)
    return Task(module, reading, attached if hasattr(attached, "precision_plugin") else stand_in(attached, reading))


def _from_weights(module: nn.Module, spec: OptimizerSpec) -> SuggestedRate:
    lr = _rounded(look_at_weights(module, spec.name))
    return SuggestedRate(lr, f"steps of {_percent(lr, weights_rms(module))} of the weights")


def weights_rms(module: nn.Module) -> float:
    """Geometric mean of the rms of the matrices that are trained and are not zero.

    Where all of them are zero yet, what ``nn.Linear`` would have begun with, 1/√(3·inputs); without a matrix 0.1.
    """
    shaped = [p for p in module.parameters() if p.requires_grad and not nn.parameter.is_lazy(p) and p.dim() > 1]
    sizes = [size for p in shaped if (size := float(p.detach().abs().square().float().mean().sqrt())) > 0]
    usual = [1 / math.sqrt(3 * p[0].numel()) for p in shaped]
    return geometric_mean(sizes or usual or [0.1])


def _from_trials(task: Task, config: OptimizerConfig, choice: Choice) -> SuggestedRate:
    trial, kind = _Trial(task, config, choice, *_split(task.usable())), _kind_of(choice)
    try:
        look = _look(task, trial.trained[0])
        _refuse_without_unit(look.unit(kind))
        trials = trial.losses(kind.start * look.unit(kind))
    except ConfigError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise ConfigError(f"lr='auto': trying rates raised {type(error).__name__}: {error}") from error
    if not any(map(math.isfinite, trials.values())):
        raise ConfigError(
            f"lr='auto': the loss is not finite at any of {_listed(trials)}: something else is wrong; la.preflight names it."
        )
    return _suggestion(trials, kind, look)


def _refuse_without_unit(unit: float) -> None:
    if not 0 < unit < math.inf:
        raise ConfigError(
            f"lr='auto': the first batch's loss and gradient allow no rate (unit {unit:g}): something else is wrong; "
            "la.preflight names it."
        )


def _suggestion(trials: Mapping[float, float], kind: Kind, look: _Look) -> SuggestedRate:
    fastest = min(trials, key=trials.__getitem__)
    lr = _rounded(kind.lasting(fastest, look.anchor(kind, trials[fastest])))
    moves = f"; steps of {_percent(lr, look.unit(kind))} of the weights" if kind.unit != "polyak" else ""
    tried = f"{_listed(trials)} were tried for {STEPS} steps each, {fastest:.2g} was the fastest"
    by = "by the gradient " if kind.trust < 1 else ""
    return SuggestedRate(lr, f"{tried}, and {by}{lr / fastest:.2g} of it lasts{moves}", trials)


@dataclass(frozen=True)
class _Look:
    """What one batch says before anything has moved.

    Attributes:
        weights: their size, as of :func:`weights_rms`.
        loss: of the batch.
        absolute, squared: its gradient's ‖g‖₁ and ‖g‖².
    """

    weights: float
    loss: float
    absolute: float
    squared: float

    def unit(self, kind: Kind) -> float:
        """What the kind's first rate is measured in; of a loss that has no floor at zero L is its size."""
        polyak = max(abs(self.loss), 1e-3) / max(self.squared, 1e-12) if self.squared > 0 else math.inf
        return {"weights": self.weights, "polyak": polyak, "one": 1.0}[kind.unit]

    def anchor(self, kind: Kind, lowest: float) -> float:
        """The geometric mean of the unit and L/‖g‖₁, which is not believed where it is thirty times off the weights' size.

        L is the loss's size, or how far it has been seen to fall where that is more: it may have no floor at zero.
        """
        signs = max(abs(self.loss), self.loss - lowest) / max(self.absolute, 1e-30)
        return math.sqrt(self.unit(kind) * min(max(signs, self.weights / BELIEVED), self.weights * BELIEVED))


def _look(task: Task, batch: Any) -> _Look:
    loss = task.loss(batch)
    found = torch.autograd.grad(loss, list(task.trainable().values()), allow_unused=True)
    norms = [_norms(g.detach()) for g in found if g is not None]
    absolute, squared = (sum(part) for part in zip(*norms, strict=True)) if norms else (0.0, 0.0)
    return _Look(weights_rms(task.module), float(loss.detach()), absolute, squared)


def _norms(gradient: Tensor) -> tuple[float, float]:
    """‖g‖₁ and ‖g‖², in units of the largest element: squares of large ones are more than float32 holds."""
    values = gradient.coalesce().values() if gradient.is_sparse else gradient
    sizes = values.abs().float()
    largest = float(sizes.max()) if sizes.numel() else 0.0
    if not 0 < largest < math.inf:
        return largest, largest
    shares = sizes / largest
    return largest * float(shares.sum()), largest * largest * float(shares.square().sum())


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


@dataclass(frozen=True)
class _Trial:
    """What one rate is tried on, the same for all.

    Attributes:
        task: whose weights are put back after each.
        config, choice: of the optimizer.
        trained: batches of the steps.
        judged: batches whose mean loss is compared; not trained on.
    """

    task: Task
    config: OptimizerConfig
    choice: Choice
    trained: Sequence[Any]
    judged: Sequence[Any]

    def losses(self, start: float) -> dict[float, float]:
        """Of each rate that is tried, from the start onwards."""
        losses: dict[float, float] = {}
        for rate in _climb(start, losses):
            losses[rate] = self.loss_after(rate)
        return losses

    def loss_after(self, rate: float) -> float:
        """Infinite where it is not finite."""
        with kept(self.task.module):
            optimizer = _made(self.task.module, self.config, self.choice, rate)
            for index in range(STEPS):
                _step(self.task, optimizer, self.trained[index % len(self.trained)], index)
            losses = [float(self.task.loss(batch).detach()) for batch in self.judged]  # may be made of derivatives
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
    optimizer = make_optimizer(choice, plain, make_groups(module, plain, choice), 1000, partial(fused_fits, module=module))
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
