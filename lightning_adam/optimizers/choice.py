"""What the user may give as the optimizer: a name, a class, a dotted path, a callable, an instance, or a mapping."""

from __future__ import annotations

import functools
import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch.optim import LBFGS, Optimizer

from lightning_adam.errors import ConfigError, nearest
from lightning_adam.optimizers import OPTIMIZERS, get_optimizer
from lightning_adam.optimizers.spec import Need, OptimizerSpec, import_quietly
from lightning_adam.real_numbers import plain

OptimizerChoice = str | type[Optimizer] | Callable[..., Optimizer] | Optimizer | Mapping[str, Any]


@dataclass(frozen=True)
class ClassSpec(OptimizerSpec):
    """A row for a class that the user gave: what the class itself says.

    Attributes:
        kind: the class.
    """

    kind: type[Optimizer] = Optimizer

    def load(self) -> type[Optimizer]:
        """It is there."""
        return self.kind

    @property
    def takes_any(self) -> bool:
        """As its constructor says; pytorch-optimizer's take any, and look at few."""
        parameters = inspect.signature(self.kind).parameters.values()
        return self.library != "pytorch_optimizer" and any(p.kind is p.VAR_KEYWORD for p in parameters)


@dataclass(frozen=True)
class Choice:
    """What is to be made.

    Attributes:
        spec: what is known of its class; of a callable's nothing, before it is called.
        make: the user's callable, ``params -> Optimizer``; None where the class is called.
        instance: the user's own optimizer.
    """

    spec: OptimizerSpec
    make: Callable[..., Optimizer] | None = None
    instance: Optimizer | None = None


def choose(given: Any) -> Choice:
    """What the user means.

    Raises:
        ConfigError: nothing that makes an optimizer, or one that the helper cannot step.
    """
    if isinstance(given, str):
        return _named(given)
    if isinstance(given, type) and issubclass(given, Optimizer):
        return Choice(spec_of(given))
    if isinstance(given, Optimizer):
        return _instance(given)
    if isinstance(given, functools.partial) and not given.args and isinstance(given.func, type):
        return Choice(spec_of(given.func, plain(given.keywords)))
    if callable(given) and not isinstance(given, type):
        return Choice(ClassSpec(getattr(given, "__name__", "callable"), "", "", "", math.nan, math.nan, ""), make=given)
    raise ConfigError(f"optimizer={given!r}: {_ALLOWED}")


_ALLOWED = (
    "give a name of the catalogue ('adamw'), a class (torch.optim.Adagrad), its path ('torch.optim.Adagrad'), a callable "
    "that takes the parameters, or an optimizer."
)


def _named(name: str) -> Choice:
    if name in OPTIMIZERS:
        return Choice(get_optimizer(name))
    if "." in name:
        return choose(_imported(name))
    others = pytorch_optimizer_names()
    if name in others:
        return Choice(spec_of(import_quietly("pytorch_optimizer", "pytorch_optimizer").load_optimizer(name)))
    of_torch = {path.lower(): path for path in classes_of_torch()}
    if name.lower() in of_torch and name.lower() not in OPTIMIZERS:
        meant = of_torch[name.lower()]
        raise ConfigError(f"optimizer={name!r} is not in the catalogue. Did you mean 'torch.optim.{meant}'?")
    raise ConfigError(
        f"optimizer={name!r} is not in the catalogue.{nearest(name, [*others, *OPTIMIZERS])} Known: {', '.join(OPTIMIZERS)}."
        " Also pytorch_optimizer's own names, any optimizer class, or its dotted path such as 'torch.optim.Adagrad'."
    )


def classes_of_torch() -> dict[str, type[Optimizer]]:
    """torch's own optimizers by their class's name."""
    return {key: kind for key, kind in vars(torch.optim).items() if isinstance(kind, type) and issubclass(kind, Optimizer)}


def pytorch_optimizer_names() -> list[str]:
    """The lower-case names that pytorch_optimizer knows its classes by."""
    return list(import_quietly("pytorch_optimizer", "pytorch_optimizer").get_supported_optimizers())


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        room: ModuleType = importlib.import_module(module)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"optimizer={path!r}: {module!r} cannot be imported ({error}).") from error
    if not hasattr(room, name):
        names = [key for key, value in vars(room).items() if isinstance(value, type)]
        raise ConfigError(f"optimizer={path!r}: {module} has no {name!r}.{nearest(name, names)}")
    found = getattr(room, name)
    if isinstance(found, str):
        raise ConfigError(f"optimizer={path!r} is a text, {found!r}, and no optimizer.")
    return found


def _instance(optimizer: Optimizer) -> Choice:
    if hasattr(optimizer, "adam_kind"):
        raise ConfigError("optimizer: this one is the helper's already; return what la.configure_optimizers gave you.")
    for name in ("optimizer", "base_optimizer"):
        if isinstance(inner := getattr(optimizer, name, None), Optimizer):
            raise ConfigError(
                f"optimizer={type(optimizer).__name__}(…) wraps {type(inner).__name__}, and who clips, steps and resumes "
                f"that one passes the wrapper by: give the {type(inner).__name__} itself."
            )
    return Choice(spec_of(type(optimizer)), instance=optimizer)


def spec_of(kind: Any, fixed: Mapping[str, Any] | None = None) -> ClassSpec:
    """What a class says of itself; ``fixed`` are options that were given with it.

    Raises:
        ConfigError: it is no optimizer, or steps in a way that the helper cannot follow.
    """
    if not issubclass(kind, Optimizer):
        raise ConfigError(f"optimizer={kind!r} is no torch.optim.Optimizer: {_ALLOWED}")
    refuse_kind(kind)
    defaults = {**defaults_of(kind), **(fixed or {})}
    path, betas = f"{kind.__module__}.{kind.__qualname__}", defaults.get("betas", ())
    return ClassSpec(
        name=kind.__name__,
        path=path,
        summary=f"given as {path}",
        state="not known",
        state_bytes=math.nan,
        lr=_number(defaults.get("lr"), math.nan),
        source=path,
        weight_decay=_number(defaults.get("weight_decay"), 0.0),
        fixed=dict(fixed or {}),
        needs=needs_of(kind),
        betas=tuple(betas) if isinstance(betas, (tuple, list)) else (),
        kind=kind,
    )


def defaults_of(kind: type[Optimizer]) -> dict[str, Any]:
    """The constructor's arguments that have a default, with it."""
    parameters = inspect.signature(kind).parameters.items()
    return {name: p.default for name, p in parameters if p.default is not p.empty}


def _number(value: Any, otherwise: float) -> float:
    return float(value) if isinstance(value, (int, float)) else otherwise


REFUSED = {
    "LOMO": "it steps within the backward pass, where neither clipping nor a schedule can come before it",
    "AdaLOMO": "it steps within the backward pass, where neither clipping nor a schedule can come before it",
    "AliG": "its step size comes from the loss alone, and a schedule has no learning rate to set",
    "Magma": "it wraps another optimizer, and whoever steps, clips and resumes that one passes the wrapper by",
    "DeMo": "it needs a group of processes of its own",
}
"""What pytorch-optimizer's classes of these names do."""


def refuse_kind(kind: type[Optimizer]) -> None:
    """What the helper cannot step.

    Raises:
        ConfigError: says why, and what to do instead.
    """
    two_steps = hasattr(kind, "first_step") and hasattr(kind, "second_step")
    why = REFUSED.get(kind.__name__) if kind.__module__.startswith("pytorch_optimizer.") else None
    why = "it steps twice, with a backward pass in between" if two_steps else why
    if why is None and next(iter(inspect.signature(kind).parameters), "") == "model":
        raise ConfigError(f"optimizer={kind.__name__} is made from the whole model: make it, and give the instance.")
    if why is not None:
        raise ConfigError(
            f"optimizer={kind.__name__}: {why}. Step it by hand (self.automatic_optimization = False), without the helper."
        )


REPEATING = frozenset({"BSAM"})
"""They evaluate the batch several times, though ``closure`` has a default."""


def needs_of(kind: type[Optimizer]) -> tuple[Need, ...]:
    """What the helper arranges for a class, by its constructor, its step and its methods."""
    options = inspect.signature(kind).parameters
    step = inspect.signature(kind.step).parameters
    marks = ("pytorch_optimizer.optimizer.muon.", "lightning_adam.optimizers.muon")
    holds: dict[Need, bool] = {
        "closure": repeats_closure(kind),
        "hessian": "hessian" in step,
        "loss": "loss" in step,
        "matrices": kind.__module__.startswith(marks),
        "modes": hasattr(kind, "train") and hasattr(kind, "eval"),
        "total_steps": "num_iterations" in options,
    }
    return tuple(need for need, is_so in holds.items() if is_so)


def repeats_closure(kind: type[Optimizer]) -> bool:
    """Whether its step evaluates the batch itself, again and again."""
    closure = inspect.signature(kind.step).parameters.get("closure")
    demanded = closure is not None and closure.default is closure.empty
    return issubclass(kind, LBFGS) or demanded or kind.__name__ in REPEATING


NAMES_OF_TARGET = ("_target_", "class_path", "name", "optimizer")
"""How Hydra, LightningCLI and people call the entry of a mapping that says what to make."""


def unfolded(given: Any) -> tuple[Any, dict[str, Any]]:
    """A mapping as what to make, and the options that it gives; anything else as it is.

    Raises:
        ConfigError: the mapping does not say what to make.

    Example:
        >>> unfolded({"_target_": "torch.optim.SGD", "momentum": 0.9})
        ('torch.optim.SGD', {'momentum': 0.9})
    """
    if not isinstance(given, Mapping):
        return given, {}
    target = next((name for name in NAMES_OF_TARGET if name in given), None)
    if target is None:
        raise ConfigError(
            f"optimizer={dict(given)!r} does not say which optimizer: give its name beside its options, such as "
            f"{{'name': 'adamw', {', '.join(f'{k!r}: {v!r}' for k, v in given.items())}}}."
        )
    rest = {name: value for name, value in given.items() if name not in (target, "_partial_", "_convert_", "init_args")}
    return given[target], {**rest, **dict(given.get("init_args") or {})}
