"""Where a tuning tool should look: sane ranges for one optimizer, in the form that each tool wants.

Rates and decays are searched on a logarithmic scale (Bergstra & Bengio 2012, Random search for hyper-parameter optimization,
section 4): a rate's neighbours are its double and its half.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from lightning_adam.errors import ConfigError
from lightning_adam.learning_rate import look_at_weights
from lightning_adam.optimizers import OptimizerSpec, get_optimizer

AROUND = 10.0
"""A default rate is searched up to so many times above and below; half as far on a logarithmic scale around a suggestion."""
DECAYS = {True: (1e-3, 0.3), False: (1e-6, 1e-2)}
"""Of weight decay that stands beside the step, whose share α·λ is small, and of decay that enters the gradient."""
CLIPS = (0.3, 1.0, 3.0)
WARMUPS = (0.0, 0.1)
SECOND_BETAS = (0.95, 0.98, 0.999)


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, both included.

    Attributes:
        low, high: the ends.
        log: whether they are drawn evenly on a logarithmic scale.
    """

    low: float
    high: float
    log: bool = True

    def at(self, share: float) -> float:
        """The number so far along, 0 to 1."""
        if self.log:
            return math.exp(math.log(self.low) + share * math.log(self.high / self.low))
        return self.low + share * (self.high - self.low)


@dataclass(frozen=True)
class Choices:
    """One of these."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class SearchSpace:
    """What to search for one optimizer; each form gives keyword arguments of ``la.configure_optimizers``.

    Attributes:
        optimizer: its name.
        dimensions: argument to the values that are worth a trial.

    Example:
        >>> space = search_space("adamw")
        >>> sorted(space.sample(seed=0))
        ['betas', 'clip', 'lr', 'optimizer', 'warmup', 'weight_decay']
    """

    optimizer: str
    dimensions: Mapping[str, Range | Choices]

    def sample(self, seed: int | None = None) -> dict[str, Any]:
        """One point at random, for tools of your own."""
        rng = random.Random(seed)
        drawn = {
            name: of.at(rng.random()) if isinstance(of, Range) else rng.choice(of.values)
            for name, of in self.dimensions.items()
        }
        return {"optimizer": self.optimizer, **drawn}

    def optuna(self, trial: Any, prefix: str = "") -> dict[str, Any]:
        """What an ``optuna.Trial`` suggests; ``prefix`` keeps the names of several optimizers apart."""
        return {"optimizer": self.optimizer, **{n: _suggested(trial, prefix + n, of) for n, of in self.dimensions.items()}}

    def hyperopt(self, prefix: str = "") -> dict[str, Any]:
        """A space for ``hyperopt.fmin``: the objective gets the arguments."""
        from hyperopt import hp

        return {"optimizer": self.optimizer, **{n: _hyperopt(hp, prefix + n, of) for n, of in self.dimensions.items()}}

    def ray(self) -> dict[str, Any]:
        """A ``param_space`` for ``ray.tune.Tuner``: the trainable gets the arguments."""
        from ray import tune

        return {"optimizer": self.optimizer, **{n: _ray(tune, of) for n, of in self.dimensions.items()}}


def search_space(optimizer: str = "adamw", module: nn.Module | None = None) -> SearchSpace:
    """Sane ranges for one optimizer of the catalogue.

    Args:
        optimizer: its name.
        module: the network; its weights then say around which rate to look, as :func:`lightning_adam.suggest_lr` does
            without a batch. By default it is the catalogue's rate.

    Raises:
        ConfigError: no optimizer has this name.

    Example:
        >>> search_space("lion").dimensions["lr"]
        Range(low=3e-05, high=0.003, log=True)
    """
    spec = get_optimizer(optimizer)
    return SearchSpace(optimizer, {"lr": _rates(spec, module), **_others(spec)})


def _rates(spec: OptimizerSpec, module: nn.Module | None) -> Range:
    if module is None:
        return Range(_rounded(spec.lr / AROUND), _rounded(spec.lr * AROUND))
    if not isinstance(module, nn.Module):
        raise ConfigError(f"module={type(module).__name__}: give the network (an nn.Module), or leave it out.")
    near, width = look_at_weights(module, spec.name), math.sqrt(AROUND)
    return Range(_rounded(near / width), _rounded(near * width))


def _others(spec: OptimizerSpec) -> dict[str, Range | Choices]:
    found: dict[str, Range | Choices] = {"warmup": Range(*WARMUPS, log=False)}
    if "weight_decay" in spec.options():
        found["weight_decay"] = Range(*DECAYS[spec.weight_decay > 0])
    if len(spec.betas) == 2 and not spec.shared:
        second = sorted({*SECOND_BETAS, spec.betas[1]})
        found["betas"] = Choices(tuple((spec.betas[0], beta2) for beta2 in second))
    if "closure" not in spec.needs:
        found["clip"] = Choices((*CLIPS, None))
    return found


def _rounded(number: float) -> float:
    return float(f"{number:.2g}")


def _suggested(trial: Any, name: str, of: Range | Choices) -> Any:
    """Optuna stores numbers and strings only: what it chooses among is told by its place."""
    if isinstance(of, Range):
        return trial.suggest_float(name, of.low, of.high, log=of.log)
    labels = [repr(value) for value in of.values]
    return of.values[labels.index(trial.suggest_categorical(name, labels))]


def _hyperopt(hp: Any, name: str, of: Range | Choices) -> Any:
    if isinstance(of, Choices):
        return hp.choice(name, list(of.values))
    return hp.loguniform(name, math.log(of.low), math.log(of.high)) if of.log else hp.uniform(name, of.low, of.high)


def _ray(tune: Any, of: Range | Choices) -> Any:
    if isinstance(of, Choices):
        return tune.choice(list(of.values))
    return tune.loguniform(of.low, of.high) if of.log else tune.uniform(of.low, of.high)
