"""Arguments that are out of their range or of the wrong shape: refused before training, by what the optimizer takes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_adam.config import OptimizerConfig, known_rate, min_factor
from lightning_adam.errors import ConfigError, LightningAdamWarning, check_choice, nearest
from lightning_adam.optimizers.choice import ClassSpec, defaults_of
from lightning_adam.optimizers.spec import OptimizerSpec
from lightning_adam.real_numbers import is_finite
from lightning_adam.schedules import get_schedule

ARGUMENTS = frozenset(f.name for f in fields(OptimizerConfig)) - {"options"}


@dataclass(frozen=True)
class Range:
    """Numbers that an argument may be.

    Attributes:
        least: the smallest one.
        below: what it must be smaller than; with ``most`` it may be equal.
        zero: whether 0 is allowed, where ``least`` is 0.
        most: the largest one.
        example: what to write.
        whole: whether it counts something.
    """

    least: float = 0.0
    below: float = math.inf
    zero: bool = True
    most: float = math.inf
    example: str = ""
    whole: bool = False

    def holds(self, value: float) -> bool:
        """Whether it is one of them; not finite ones never are."""
        inside = is_finite(value) and self.least <= value < self.below and value <= self.most
        return inside and (self.zero or value > 0) and (not self.whole or isinstance(value, int))

    def __str__(self) -> str:
        start = f"a finite number of {self.least:g} or more" if self.zero else "a finite number above 0"
        start = f"an int of {self.least:g} or more" if self.whole else start
        end = f", below {self.below:g}" if math.isfinite(self.below) else ""
        end = f", at most {self.most:g}" if math.isfinite(self.most) else end
        return f"{start}{end}{f', such as {self.example}' if self.example else ''}"


BETA = Range(below=1.0, example="0.9")
RANGES = {
    "lr": Range(zero=False, example="1e-3"),
    "eps": Range(zero=False, example="1e-8"),
    "weight_decay": Range(example="0.01"),
    "layer_decay": Range(zero=False, most=1.0, example="0.75"),
    "momentum": Range(below=1.0, example="0.9"),
    **dict.fromkeys(("beta1", "beta2", "beta3"), BETA),
    **dict.fromkeys(
        ("ns_steps", "max_iter", "history_size", "update_period", "precondition_frequency", "patience"),
        Range(least=1.0, whole=True),
    ),
    **dict.fromkeys(("num_warm_up_iterations", "num_warm_down_iterations"), Range(whole=True)),
    **dict.fromkeys(("t_alpha", "t_beta3", "t_alpha_beta3"), Range(zero=False, example="1000")),
    **dict.fromkeys(("tolerance_grad", "tolerance_change"), Range()),
    "min_8bit_size": Range(whole=True, example="4096"),
    "max_eval": Range(least=1.0, whole=True),
    "n_sma_threshold": Range(least=4.0, example="5"),
    "shampoo_beta": BETA,
    **dict.fromkeys(("d0", "d_coef", "growth_rate", "clip_threshold"), Range(zero=False)),
}
"""Of the helper's arguments and of options that mean the same in every optimizer."""
_UNBOUNDED = {"growth_rate": math.inf}
"""What stands for no limit at all."""
RANGES_OF_GROUP = {**RANGES, "lr": Range(example="1e-4")}
"""A group with lr 0 stays as it is."""


def check_value(name: str, value: Any, ranges: Mapping[str, Range] = RANGES, where: str = "") -> None:
    """Refuse a value out of its range.

    Raises:
        ConfigError: names it, what it got, and what is allowed.
    """
    if isinstance(value, str) and name == "lr" and nearest(value, ["auto"]) and value != "auto":
        raise ConfigError(f"{where}lr={value!r} is not known.{nearest(value, ['auto'])} Or give a number, such as 1e-3.")
    if isinstance(value, str):
        raise ConfigError(
            f"{where}{name}={value!r} is a string. YAML reads 3e-4 as text: write it with a point (3.0e-4), "
            f"or convert it with float({name})."
        )
    if not ranges[name].holds(value) and value != _UNBOUNDED.get(name):
        raise ConfigError(f"{where}{name}={value!r}: {name} must be {ranges[name]}.")


def check_arguments(config: OptimizerConfig, spec: OptimizerSpec) -> None:
    """Refuse what this optimizer cannot use.

    Raises:
        ConfigError: names the argument, what it got, and what to write.
    """
    _check_types(config)
    if config.schedule is not None:
        get_schedule(config.schedule)
    if config.lr == "auto":
        known_rate(config)
    for name in ("lr", "weight_decay", "layer_decay"):
        if getattr(config, name) is not None:
            check_value(name, getattr(config, name))
    _check_min_lr(config)
    if config.lr is None and math.isnan(spec.lr) and _is_class(spec) and "lr" in spec.options():
        raise ConfigError(f"lr: {spec.name} has no learning rate of its own; pass lr=..., such as 1e-3.")
    given = {name: value for name in ("betas", "eps") if (value := getattr(config, name)) is not None}
    own = spec.fixed if isinstance(spec, ClassSpec) else {}
    check_options(spec, {**own, **given, **config.options})
    for pattern, options in (config.param_groups or {}).items():
        _check_group(spec, pattern, options)


def _is_class(spec: OptimizerSpec) -> bool:
    """Whether its class is known; what a callable makes is only known afterwards."""
    return not isinstance(spec, ClassSpec) or spec.kind is not Optimizer


@dataclass(frozen=True)
class Type:
    """What an argument must be, and how to say it."""

    of: type | tuple[type, ...]
    say: str


TYPES = {
    "schedule": Type(str, "give the name of a schedule, such as 'cosine'"),
    "monitor": Type(str, "give the name of the logged metric, such as 'val_loss'"),
    "parameters": Type(str, "give one glob on parameter names, such as 'generator.*'"),
    "param_groups": Type(dict, "give a mapping of globs to options, such as {'*.embed*': {'lr': 1e-4}}"),
    "schedule_options": Type(dict, "give a mapping, such as {'power': 1.0}"),
    "options": Type(dict, "give a mapping, such as {'fused': True}"),
    "reset_optimizer": Type(bool, "give True or False"),
}


def _check_types(config: OptimizerConfig) -> None:
    for name, wanted in TYPES.items():
        value = getattr(config, name)
        if value is not None and not isinstance(value, wanted.of):
            raise ConfigError(f"{name}={value!r}: {wanted.say}.")


LOOKS_ABSOLUTE = 0.01
"""Decays of published recipes end at 1 % of their rate or above, or at 0."""


def _check_min_lr(config: OptimizerConfig) -> None:
    """A fraction; where it may well be meant as a rate, say what it is taken for."""
    value = config.min_lr
    if value is None or isinstance(value, str):
        min_factor(config)
        return
    if not is_finite(value) or not 0 <= value <= 1:
        raise ConfigError(
            f"min_lr={value!r}: it is a fraction of lr, from 0 to 1, such as 0.1; a rate is written as '1e-6 absolute'."
        )
    lr = known_rate(config) or 0.0
    if 0 < value < max(LOOKS_ABSOLUTE, lr) and lr != 1:
        ends = f" and the decay ends at {value * lr:.3g}" if lr else ""
        warnings.warn(
            f"min_lr={value!r} is taken as a fraction of lr{ends}. If a rate is meant, write min_lr='{value:g} absolute'; "
            f"else '{100 * value:g}%' says the same without this line.",
            LightningAdamWarning,
            stacklevel=6,
        )


def check_options(spec: OptimizerSpec, options: Mapping[str, Any], where: str = "") -> None:
    """Refuse options of the wrong range or shape; what the class does not take is refused where it is made.

    Raises:
        ConfigError: names the option, what it got, and what is allowed.
    """
    defaults = {**(defaults_of(spec.load()) if _is_class(spec) else {}), **spec.fixed}
    for name, value in options.items():
        if name == "betas":
            _check_betas(value, spec, where)
        elif isinstance(defaults.get(name), (tuple, list)):
            _check_length(spec, name, value, defaults[name], where)
        elif name in RANGES and (value is not None or name == "eps"):
            check_value(name, value, RANGES_OF_GROUP if where else RANGES, where)
        elif name in WORDS_OF_OPTION and value is not None:
            check_choice(f"{where}{name}", value, WORDS_OF_OPTION[name])
        elif value is not None and not _is_like(value, name, defaults.get(name)):
            raise ConfigError(f"{where}{name}={value!r}: {spec.name} has {name}={defaults.get(name)!r} by default.")


WORDS_OF_OPTION = {"line_search_fn": ("strong_wolfe",), "data_format": ("channels_first", "channels_last")}
"""Options that are a word, which their classes look at in the first step or never."""
SWITCHES = frozenset({"fused", "foreach", "capturable", "differentiable", "maximize", "amsgrad", "nesterov"})


def _is_like(value: Any, name: str, default: Any) -> bool:
    """Whether it can stand where the default does; a default from 0.9 to 1 is the decay rate of an average."""
    if name in SWITCHES or isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, float) and 0.9 <= default < 1:
        return BETA.holds(value)
    if isinstance(default, (int, float)):
        return is_finite(value) or value is default or isinstance(value, Tensor)
    if isinstance(default, str):
        return isinstance(value, str)
    return callable(value) or not callable(default)


WORDS = {2: "two numbers", 3: "three numbers"}


def _check_betas(betas: Any, spec: OptimizerSpec, where: str) -> None:
    wanted = (len(spec.betas),) if spec.betas else (2, 3)
    example = f"betas={spec.betas or (0.9, 0.95)!r}"
    if not isinstance(betas, (tuple, list)) or len(betas) not in wanted:
        count = " or ".join(WORDS.get(n, str(n)) for n in wanted)
        raise ConfigError(f"{where}betas={betas!r}: {spec.name} takes {count}, such as {example}.")
    for index, beta in enumerate(betas, 1):
        if not BETA.holds(beta):
            raise ConfigError(
                f"{where}betas={betas!r}: beta{index} is {beta!r}, it must be 0 or more and below 1, such as {example}."
            )


def _check_length(spec: OptimizerSpec, name: str, value: Any, default: Sequence[Any], where: str) -> None:
    if not isinstance(value, (tuple, list)) or len(value) != len(default):
        raise ConfigError(f"{where}{name}={value!r}: {spec.name} takes {len(default)} of them, such as {name}={default!r}.")


def _check_group(spec: OptimizerSpec, pattern: Any, options: Any) -> None:
    """An entry of ``param_groups`` is checked as the arguments are."""
    where = f"param_groups[{pattern!r}]: "
    if not isinstance(pattern, str) or not isinstance(options, Mapping):
        raise ConfigError(
            f"{where}{options!r}: give a mapping of a glob to options, such as {{'*.embed*': {{'lr': 1e-4}}}}."
        )
    taken = spec.options() if _is_class(spec) else ["lr", "betas", "eps", "weight_decay"]
    known = [*taken, *(["muon"] if "matrices" in spec.needs else []), *(["optim_bits"] if _has_bits(spec) else [])]
    for name in options:
        meant = nearest(str(name), known)
        if name not in known and (meant or not isinstance(spec, ClassSpec)):
            raise ConfigError(f"{where}{spec.name} has no option {name!r}.{meant} It takes: {', '.join(known)}.")
    check_options(spec, options, where)


def _has_bits(spec: OptimizerSpec) -> bool:
    return spec.library == "bitsandbytes" and "8bit" in spec.name


def refuse_misspelt(spec: OptimizerSpec, options: Mapping[str, Any]) -> None:
    """What is no argument of the helper goes to the optimizer's class: it may be either, misspelt.

    Raises:
        ConfigError: it is neither; the message has the nearest.
    """
    accepted = spec.options()
    for name in options:
        if name not in accepted and (meant := nearest(name, accepted) or nearest(name, ARGUMENTS)):
            raise ConfigError(
                f"{name!r} is neither an argument of configure_optimizers nor an option of {spec.name}.{meant} "
                f"{spec.name} takes: {', '.join(accepted)}."
            )


def check_parameters(spec: OptimizerSpec, groups: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> None:
    """Refuse tensors that this optimizer cannot hold.

    Raises:
        ConfigError: an ε that is 0 in 16 bits.
    """
    for group in groups:
        _check_eps(group.get("eps", options.get("eps")), spec, group["params"])


def _check_eps(eps: Any, spec: OptimizerSpec, parameters: Iterable[Tensor]) -> None:
    used = 1e-8 if eps is None else eps
    if not isinstance(used, (int, float)) or "eps" not in spec.options():
        return
    for dtype in {p.dtype for p in parameters if p.dtype == torch.float16}:
        if float(torch.tensor(used, dtype=dtype)) == 0.0:
            raise ConfigError(
                f"eps={used!r} is 0 in {dtype} weights and states: pass eps=1e-6 or above, or train with "
                "precision='16-mixed' (32-bit weights)."
            )
