"""OptimizerConfig: the helper's arguments as one typed value; and durations in steps, fractions or epochs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from lightning_adam.clipping import Clip
from lightning_adam.errors import ConfigError, nearest
from lightning_adam.names import Mode, OptimizerName, PresetName, ScheduleName
from lightning_adam.optimizers.choice import OptimizerChoice
from lightning_adam.presets import PRESETS
from lightning_adam.real_numbers import is_finite, plain

Duration = int | float | str
"""In this order LightningCLI reads 500 as steps."""


HIDDEN_FROM_OMEGACONF = {"omegaconf_ignore": True}
"""For fields of a union of types, which OmegaConf cannot read.

Lightning writes ``hparams.yaml`` with OmegaConf, and does not catch the error that such a union raises. Where unions are
hidden, OmegaConf raises its error for a sequence (``betas``), which Lightning catches: it then writes plain YAML.
"""


@dataclass
class OptimizerConfig:
    """The arguments of :func:`lightning_adam.configure_optimizers`, for a config file or a command line.

    What is None comes from the preset, else from the catalogue or the schedule.

    Attributes:
        optimizer: a name of the catalogue (adamw by default) or of pytorch_optimizer, a class, its dotted path, a callable
            that takes the parameters, an optimizer, or a mapping with ``_target_`` or ``name`` and options.
        lr: learning rate; ``"auto"`` tries a few (:func:`lightning_adam.suggest_lr`).
        betas: decay rates of the first and second moment.
        eps: added to √v̂; adafactor has two.
        weight_decay: decay of tensors of two or more dimensions; vectors get none.
        schedule: a key of ``lightning_adam.schedules.SCHEDULES``; cosine by default.
        warmup: duration of the warmup; 5 % of the run by default (30 % of ``onecycle``).
        decay: duration of the decay of ``wsd`` (a tenth of the run), or of a cycle of ``cosine_restarts`` (a quarter).
        min_lr: the learning rate that the decay ends at, as a fraction of ``lr`` (0.1, "10%"), or ``"1e-6 absolute"``;
            0 by default.
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

    optimizer: OptimizerName | OptimizerChoice | None = field(default=None, metadata=HIDDEN_FROM_OMEGACONF)
    lr: float | Literal["auto"] | None = field(default=None, metadata=HIDDEN_FROM_OMEGACONF)
    betas: Sequence[float] | None = None
    eps: float | Sequence[float | None] | None = field(default=None, metadata=HIDDEN_FROM_OMEGACONF)
    weight_decay: float | None = None
    schedule: ScheduleName | None = None
    warmup: Duration | None = None
    decay: Duration | None = None
    min_lr: float | str | None = None
    total_steps: Duration | None = None
    clip: Clip | float | str | None = "default"
    parameters: str | None = None
    param_groups: Mapping[str, Mapping[str, Any]] | None = None
    layer_decay: float | None = None
    schedule_options: Mapping[str, float] | None = None
    monitor: str = "val_loss"
    mode: Mode | None = None
    preset: PresetName | None = None
    reset_optimizer: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Take OmegaConf's lists and dicts and NumPy's numbers as Python's own."""
        for f in fields(self):
            setattr(self, f.name, plain(getattr(self, f.name)))
        if isinstance(self.betas, list):
            self.betas = tuple(self.betas)


def known_rate(config: OptimizerConfig) -> float | None:
    """``lr`` as a number; None where it is left open.

    Raises:
        ConfigError: it is ``"auto"``, and nobody has looked at any data.
    """
    if isinstance(config.lr, str):
        raise ConfigError(
            f"lr={config.lr!r} needs data to look at, which la.configure_optimizers gets from the trainer: write "
            "lr=float(la.suggest_lr(module, loader)), or a number."
        )
    return config.lr


def with_preset(config: OptimizerConfig) -> OptimizerConfig:
    """What the user left open, filled from the preset.

    Raises:
        ConfigError: there is no such preset.
    """
    if config.preset is None:
        return config
    if not isinstance(config.preset, str) or config.preset not in PRESETS:
        known = ", ".join(PRESETS)
        raise ConfigError(f"preset={config.preset!r} is not known.{nearest(str(config.preset), PRESETS)} Known: {known}.")
    given = PRESETS[config.preset].arguments
    open_ = {k: v for k, v in given.items() if getattr(config, k) == (None if k != "clip" else "default")}
    if config.optimizer is not None and config.optimizer != given["optimizer"]:
        kept = ("lr", "betas", "eps", *(() if isinstance(config.optimizer, str) else ("weight_decay",)))
        open_ = {k: v for k, v in open_.items() if k not in kept}
    return replace(config, **open_)


_MIN_LR = re.compile(r"\s*(?P<number>[0-9.]+(?:[eE][+-]?\d+)?)\s*(?P<unit>%|absolute)\s*")


def min_factor(config: OptimizerConfig) -> float:
    """``min_lr`` as a fraction of ``lr``.

    Raises:
        ConfigError: not a fraction; an absolute one without ``lr``, or above it.

    Example:
        >>> [min_factor(OptimizerConfig(lr=1e-3, min_lr=value)) for value in (0.1, "10%", "1e-4 absolute")]
        [0.1, 0.1, 0.1]
    """
    value, lr = config.min_lr, known_rate(config)
    if not isinstance(value, str):
        return 0.0 if value is None else value
    match = _MIN_LR.fullmatch(value)
    if match is None:
        raise ConfigError(f"min_lr={value!r}: write a fraction of lr (0.1 or '10%'), or a rate as '1e-6 absolute'.")
    number = float(match["number"])
    if match["unit"] == "absolute" and not lr:
        raise ConfigError(f"min_lr={value!r} is a rate: give lr beside it, or write a fraction of it, such as '1%'.")
    factor = number / 100 if match["unit"] == "%" else number / (lr or 1.0)
    if factor > 1:
        raise ConfigError(f"min_lr={value!r} is above lr={lr!r}: a decay ends at lr or below.")
    return factor


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
    if not is_finite(value) or value < 0:
        raise ConfigError(f"{name}={value!r}: {_DURATIONS}")
    if isinstance(value, int) or value == 0:
        return int(value)
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
