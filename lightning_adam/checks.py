"""What the helper refuses before training: wrong values, wrong shapes, and what cannot go together."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_adam.config import OptimizerConfig, min_factor
from lightning_adam.errors import ConfigError, LightningAdamWarning, nearest
from lightning_adam.optimizers.choice import Choice, ClassSpec, defaults_of
from lightning_adam.optimizers.spec import OptimizerSpec
from lightning_adam.parameter_groups import plain_name

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
    """

    least: float = 0.0
    below: float = math.inf
    zero: bool = True
    most: float = math.inf
    example: str = ""

    def holds(self, value: float) -> bool:
        """Whether it is one of them; not finite ones never are."""
        return math.isfinite(value) and self.least <= value < self.below and value <= self.most and (self.zero or value > 0)

    def __str__(self) -> str:
        start = f"a finite number of {self.least:g} or more" if self.zero else "a finite number above 0"
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
        ("ns_steps", "max_iter", "history_size", "update_period", "precondition_frequency", "patience"), Range(least=1.0)
    ),
    **dict.fromkeys(("d0", "d_coef", "growth_rate", "clip_threshold"), Range(zero=False)),
}
"""Of the helper's arguments and of options that mean the same in every optimizer."""
RANGES_OF_GROUP = {**RANGES, "lr": Range(example="1e-4")}
"""A group with lr 0 stays as it is."""


def check_value(name: str, value: Any, ranges: Mapping[str, Range] = RANGES, where: str = "") -> None:
    """Refuse a value out of its range.

    Raises:
        ConfigError: names it, what it got, and what is allowed.
    """
    if isinstance(value, str):
        raise ConfigError(
            f"{where}{name}={value!r} is a string. YAML reads 3e-4 as text: write it with a point (3.0e-4), "
            f"or convert it with float({name})."
        )
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not ranges[name].holds(value):
        raise ConfigError(f"{where}{name}={value!r}: {name} must be {ranges[name]}.")


def check_arguments(config: OptimizerConfig, spec: OptimizerSpec) -> None:
    """Refuse what this optimizer cannot use.

    Raises:
        ConfigError: names the argument, what it got, and what to write.
    """
    _check_types(config)
    for name in ("lr", "weight_decay", "layer_decay"):
        if getattr(config, name) is not None:
            check_value(name, getattr(config, name))
    _check_min_lr(config)
    if config.lr is None and math.isnan(spec.lr) and _is_class(spec) and "lr" in spec.options():
        raise ConfigError(f"lr: {spec.name} has no learning rate of its own; pass lr=..., such as 1e-3.")
    given = {name: value for name in ("betas", "eps") if (value := getattr(config, name)) is not None}
    check_options(spec, {**given, **config.options})
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
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ConfigError(
            f"min_lr={value!r}: it is a fraction of lr, from 0 to 1, such as 0.1; a rate is written as '1e-6 absolute'."
        )
    lr = config.lr or 0.0
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
        elif isinstance(value, str) and isinstance(defaults.get(name), (bool, int, float)):
            raise ConfigError(f"{where}{name}={value!r} is a string: {spec.name} has {name}={defaults[name]!r} by default.")


WORDS = {2: "two numbers", 3: "three numbers"}


def _check_betas(betas: Any, spec: OptimizerSpec, where: str) -> None:
    wanted = (len(spec.betas),) if spec.betas else (2, 3)
    example = f"betas={spec.betas or (0.9, 0.95)!r}"
    if not isinstance(betas, (tuple, list)) or len(betas) not in wanted:
        count = " or ".join(WORDS.get(n, str(n)) for n in wanted)
        raise ConfigError(f"{where}betas={betas!r}: {spec.name} takes {count}, such as {example}.")
    for index, beta in enumerate(betas, 1):
        if isinstance(beta, bool) or not isinstance(beta, (int, float)) or not BETA.holds(beta):
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
        ConfigError: an ε that is 0 in 16 bits, or complex numbers in 8-bit state.
    """
    for group in groups:
        _check_eps(group.get("eps", options.get("eps")), spec, group["params"])
    if spec.library == "bitsandbytes" and any(p.is_complex() for group in groups for p in group["params"]):
        raise ConfigError(
            f"{spec.name}: the model has complex parameters, and bitsandbytes knows real ones only. Use adamw."
        )


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


def check_module(module: Any) -> None:
    """Refuse what is no module.

    Raises:
        ConfigError: says what to give instead.
    """
    if isinstance(module, nn.Module):
        return
    what = f"the class {module.__name__}" if isinstance(module, type) else f"a {type(module).__name__}"
    hint = "an instance of it" if isinstance(module, type) else "the module itself (self), not its parameters or its name"
    raise ConfigError(f"module: got {what}; give {hint}: la.configure_optimizers(self, ...).")


GIVEN_WITH_INSTANCE = ("lr", "betas", "eps", "weight_decay", "parameters", "param_groups", "layer_decay")


def refuse_beside_instance(choice: Choice, config: OptimizerConfig) -> None:
    """An optimizer that is made already has its groups.

    Raises:
        ConfigError: options that would have to change them.
    """
    given = [name for name in GIVEN_WITH_INSTANCE if getattr(config, name) is not None] + list(config.options)
    if choice.instance is not None and given:
        raise ConfigError(
            f"{', '.join(given)} given beside an optimizer that is made already ({type(choice.instance).__name__}): set it "
            "there, or give its class."
        )


def refuse_combinations(spec: OptimizerSpec, config: OptimizerConfig, trainer: Any | None) -> None:
    """What cannot go together.

    Raises:
        ConfigError: says what to change.
    """
    strategy = type(getattr(trainer, "strategy", None)).__name__
    sharded = "FSDP" in strategy or "ModelParallel" in strategy
    wants_clip = config.clip not in (None, "default")
    one_group = "closure" in spec.needs
    name = spec.name
    refusals = {
        f"{name} under {strategy}: bitsandbytes cannot shard 8-bit state. Use adamw, or DDP.": (
            sharded and spec.library == "bitsandbytes"
        ),
        f"schedule={config.schedule!r} with {name}: it averages weights in place of a schedule. Leave schedule out "
        "(a warmup is fine).": "modes" in spec.needs and config.schedule != "constant",
        f"{name} under precision='16-mixed': its repeated closure cannot be unscaled. Use precision='32-true' or "
        "'bf16-mixed'.": one_group and str(getattr(trainer, "precision", "")) == "16-mixed",
        f"{name} under accumulate_grad_batches: its closure sees the last micro-batch only, while gradients pile up. Use a "
        "larger batch, or another optimizer.": one_group and _accumulates(trainer),
        f"clip={config.clip!r} with {name}: it needs the loss's own gradient. Leave clip out.": one_group and wants_clip,
        f"Trainer(gradient_clip_val=...) with {name}: it needs the loss's own gradient. Leave it out.": one_group
        and bool(getattr(trainer, "gradient_clip_val", None)),
        f"param_groups and layer_decay with {name}: it takes one group only.": one_group
        and bool(config.param_groups or config.layer_decay),
        f"clip={config.clip!r} under DeepSpeed: DeepSpeed clips by itself. Put 'gradient_clipping' into its config and "
        "leave clip out.": "DeepSpeed" in strategy and wants_clip,
        f"clip={config.clip!r} under FSDPStrategy: it shows each rank only its shard's norm. Use ModelParallelStrategy "
        "(FSDP2), or clip=None.": strategy == "FSDPStrategy" and wants_clip,
    }
    for message, holds in refusals.items():
        if holds:
            raise ConfigError(message)


def _accumulates(trainer: Any | None) -> bool:
    """Now, or in a later epoch by Lightning's GradientAccumulationScheduler; manual optimization is the user's own."""
    scheduled = [c for c in getattr(trainer, "callbacks", []) if type(c).__name__ == "GradientAccumulationScheduler"]
    return getattr(trainer, "accumulate_grad_batches", 1) > 1 or any(c.going_to_accumulate_grad_batches() for c in scheduled)


def refuse_left_over(module: nn.Module, pattern: str | None) -> None:
    """Automatic optimization has one optimizer: what it does not train, nothing trains.

    Raises:
        ConfigError: trainable parameters that ``pattern`` leaves out.
    """
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    left = [name for name in names if pattern is not None and not fnmatchcase(plain_name(name), pattern)]
    if left:
        raise ConfigError(
            f"parameters={pattern!r} leaves {len(left)} trainable parameters ({', '.join(left[:3])}) without an optimizer, "
            "and automatic optimization has only one. Freeze them with requires_grad_(False), or set "
            "self.automatic_optimization = False and step several optimizers by hand."
        )


def warn_of_batch_norm(spec: OptimizerSpec, module: nn.Module) -> None:
    """Schedule-free optimizers validate averaged weights, with which no batch was ever normalised (schedule_free's README,
    "Caveats")."""
    tracked = [m for m in module.modules() if getattr(m, "track_running_stats", False) and hasattr(m, "running_mean")]
    if "modes" in spec.needs and tracked:
        warnings.warn(
            f"{spec.name} validates averaged weights, and BatchNorm's running statistics are those of the training weights. "
            "Before each validation estimate them anew: in on_validation_start, call "
            "torch.optim.swa_utils.update_bn(loader_of_training_inputs, self). Or use GroupNorm or LayerNorm.",
            LightningAdamWarning,
            stacklevel=4,
        )
