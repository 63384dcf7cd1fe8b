"""OptimizerConfig: the helper's arguments as one typed value; and durations in steps, fractions or epochs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lightning_adam.clipping import Clip
from lightning_adam.errors import ConfigError, nearest
from lightning_adam.presets import PRESETS

Duration = float | int | str


@dataclass
class OptimizerConfig:
    """The arguments of :func:`lightning_adam.configure_optimizers`, for a config file or a command line.

    What is None comes from the preset, else from the catalogue or the schedule.

    Attributes:
        optimizer: a name of the catalogue; adamw by default.
        lr: learning rate.
        betas: decay rates of the first and second moment.
        eps: added to √v̂.
        weight_decay: decay of tensors of two or more dimensions; vectors get none.
        schedule: a key of ``lightning_adam.schedules.SCHEDULES``; cosine by default.
        warmup: duration of the warmup; 5 % of the run by default (30 % of ``onecycle``).
        decay: duration of the decay of ``wsd`` (a tenth of the run), or of a cycle of ``cosine_restarts`` (a quarter).
        min_lr: the learning rate that the decay ends at, as a fraction of ``lr``; 0 by default.
        total_steps: duration of the run; None asks the trainer.
        clip: total norm, a rule, None for no clipping, or ``"default"``: norm 1.0 unless the trainer clips.
        parameters: glob of the parameter names that this optimizer trains, such as ``generator.*``; all by default.
        param_groups: glob of parameter names to options of a group of their own.
        layer_decay: factor of the learning rate per layer towards the input, such as 0.75.
        schedule_options: such as ``{"power": 1.0}`` for ``polynomial``, ``{"patience": 5}`` for ``plateau``.
        monitor: the logged metric that ``plateau`` watches.
        mode: whether ``plateau`` waits for a smaller (``min``) or a larger metric (``max``); None goes by its name.
        preset: ``gpt``, ``bert``, ``vit``, ``diffusion``, ``gan``, ``finetune``, ``rl`` or ``memory``.
        reset_optimizer: start the optimizer's state afresh on the next resume; weights and count of steps are kept.
        options: whatever else the optimizer's class takes.
    """

    optimizer: str | None = None
    lr: float | None = None
    betas: tuple[float, ...] | None = None
    eps: float | None = None
    weight_decay: float | None = None
    schedule: str | None = None
    warmup: Duration | None = None
    decay: Duration | None = None
    min_lr: float | None = None
    total_steps: Duration | None = None
    clip: Clip | float | str | None = "default"
    parameters: str | None = None
    param_groups: Mapping[str, Mapping[str, Any]] | None = None
    layer_decay: float | None = None
    schedule_options: Mapping[str, float] | None = None
    monitor: str = "val_loss"
    mode: Literal["min", "max"] | None = None
    preset: str | None = None
    reset_optimizer: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def with_preset(config: OptimizerConfig) -> OptimizerConfig:
    """What the user left open, filled from the preset.

    Raises:
        ConfigError: there is no such preset.
    """
    if config.preset is None:
        return config
    if config.preset not in PRESETS:
        known = ", ".join(PRESETS)
        raise ConfigError(f"preset={config.preset!r} is not known.{nearest(str(config.preset), PRESETS)} Known: {known}.")
    given = PRESETS[config.preset].arguments
    open_ = {k: v for k, v in given.items() if getattr(config, k) == (None if k != "clip" else "default")}
    if config.optimizer is not None and config.optimizer != given["optimizer"]:
        open_ = {k: v for k, v in open_.items() if k not in ("lr", "betas", "eps")}
    return replace(config, **open_)


def check_numbers(config: OptimizerConfig) -> None:
    """Refuse what no optimizer can use.

    Raises:
        ConfigError: names the argument, what it got, and what to write.
    """
    for name in ("lr", "eps", "weight_decay", "min_lr", "layer_decay"):
        _check_number(name, getattr(config, name), positive=name in ("lr", "eps", "layer_decay"))
    for name in ("min_lr", "layer_decay"):
        value = getattr(config, name)
        if value is not None and value > 1:
            raise ConfigError(f"{name}={value!r}: it is a fraction of lr, at most 1.")
    if config.betas is not None:
        _check_betas(config.betas)
    if not isinstance(config.reset_optimizer, bool):
        raise ConfigError(f"reset_optimizer={config.reset_optimizer!r}: give True or False.")


def _check_number(name: str, value: object, *, positive: bool) -> None:
    if value is None:
        return
    if isinstance(value, str):
        raise ConfigError(
            f"{name}={value!r} is a string. YAML reads 3e-4 as text: write it with a point (3.0e-4), "
            f"or convert it with float({name})."
        )
    allowed = "a finite number above 0" if positive else "a finite number, 0 or above"
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise ConfigError(f"{name}={value!r}: {name} must be {allowed}.")
    if value < 0 or (positive and value == 0):
        raise ConfigError(f"{name}={value!r}: {name} must be {allowed}.")


def _check_betas(betas: object) -> None:
    if not isinstance(betas, (tuple, list)) or len(betas) not in (2, 3):
        raise ConfigError(f"betas={betas!r}: give two numbers, such as betas=(0.9, 0.95) (three for adan and ademamix).")
    for index, beta in enumerate(betas, 1):
        if not isinstance(beta, (int, float)) or not 0 <= beta < 1:
            raise ConfigError(f"betas={betas!r}: beta{index} is {beta!r}, it must be in [0, 1), such as (0.9, 0.95).")


def resolve_duration(name: str, value: Duration, total_steps: float, steps_per_epoch: float | None) -> int:
    """A duration in optimizer steps.

    Args:
        name: the argument's name, for messages.
        value: a float is a fraction of the run, an int is steps, ``"2ep"`` epochs, ``"5%"`` a fraction.
        total_steps: length of the run; ``inf`` where it is not known.
        steps_per_epoch: optimizer steps of one epoch, or None where it is not known.

    Raises:
        ConfigError: not a duration, negative, a fraction above 1 or of an unknown length, epochs of unknown length.

    Example:
        >>> [resolve_duration("warmup", value, 1000, 100) for value in (0.05, 500, "2ep", "5%")]
        [50, 500, 200, 50]
    """
    if isinstance(value, str):
        return _resolve_text(name, value, total_steps, steps_per_epoch)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise ConfigError(f"{name}={value!r}: {_DURATIONS}")
    if isinstance(value, int):
        return value
    if value > 1:
        raise ConfigError(f"{name}={value!r}: a float is a fraction of the run, at most 1.0. {_DURATIONS}")
    if not math.isfinite(total_steps):
        raise ConfigError(
            f"{name}={value!r} is a fraction of the run, and the run's length is not known: "
            f"give {name} in steps (an int), or pass total_steps=."
        )
    return round(value * total_steps)


_DURATIONS = "Write a fraction of the run (0.05), optimizer steps (500), or epochs ('2ep')."


def _resolve_text(name: str, value: str, total_steps: float, steps_per_epoch: float | None) -> int:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ep|%)\s*", value)
    if not match:
        raise ConfigError(f"{name}={value!r}: {_DURATIONS}")
    number, unit = float(match[1]), match[2]
    if unit == "%":
        return resolve_duration(name, number / 100, total_steps, steps_per_epoch)
    if steps_per_epoch is None:
        raise ConfigError(f"{name}={value!r}: the length of an epoch is not known here; give steps (an int).")
    return round(number * steps_per_epoch)
