"""The helper: its arguments in, the dict that Lightning expects out. Imports no Lightning: it looks at the trainer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from lightning_adam.clipping import Clip, as_clip, guide
from lightning_adam.config import Duration, OptimizerConfig, check_numbers, resolve_duration
from lightning_adam.errors import ConfigError, nearest
from lightning_adam.optimizers import build_optimizer, get_optimizer
from lightning_adam.parameter_groups import split_parameters
from lightning_adam.schedules import SCHEDULES, Phases, Schedule


def configure_optimizers(
    module: nn.Module,
    optimizer: str | OptimizerConfig = "adamw",
    *,
    lr: float | None = None,
    betas: tuple[float, float] | None = None,
    eps: float | None = None,
    weight_decay: float | None = None,
    schedule: str = "cosine",
    warmup: Duration = 0.05,
    decay: Duration | None = None,
    min_lr: float = 0.0,
    total_steps: Duration | None = None,
    clip: Clip | float | str | None = "default",
    param_groups: Mapping[str, Mapping[str, Any]] | None = None,
    **optimizer_options: Any,
) -> dict[str, Any]:
    """Optimizer, schedule and clipping for ``LightningModule.configure_optimizers`` to return.

    Args:
        module: the LightningModule (any ``nn.Module`` when ``total_steps`` is given).
        optimizer: a name of :func:`available_optimizers`, or an :class:`OptimizerConfig` with all arguments.
        lr: learning rate; the catalogue's by default.
        betas: decay rates of the first and second moment, each in [0, 1).
        eps: added to √v̂.
        weight_decay: for tensors of two or more dimensions; vectors get none.
        schedule: ``constant``, ``linear``, ``cosine`` or ``wsd`` (warmup-stable-decay).
        warmup: duration of the linear warmup: ``0.05`` of the run, ``500`` steps, ``"2ep"`` epochs.
        decay: duration of the decay of ``wsd``; the last tenth of the run by default.
        min_lr: where the decay ends, as a fraction of ``lr``.
        total_steps: duration of the run; by default the trainer is asked.
        clip: total norm, :class:`ClipNorm`, :class:`ClipValue`, or None. By default the norm 1.0, unless the trainer
            clips.
        param_groups: glob of parameter names to options of a group of its own: ``{"*.embed*": {"lr": 1e-4}}``.
        **optimizer_options: what else the optimizer's class takes, such as ``fused=True``.

    Returns:
        ``{"optimizer": …, "lr_scheduler": {"scheduler": …, "interval": "step", "frequency": 1, "name": "lr"}}``

    Raises:
        ConfigError: a wrong argument, an unknown run length, or clipping asked of both trainer and helper.
    """
    if isinstance(optimizer, OptimizerConfig):
        config = optimizer
    else:
        config = OptimizerConfig(
            optimizer, lr, betas, eps, weight_decay, schedule, warmup, decay, min_lr, total_steps, clip, param_groups
        )
    return _build(module, replace(config, options={**config.options, **optimizer_options}))


def _build(module: nn.Module, config: OptimizerConfig) -> dict[str, Any]:
    spec = get_optimizer(config.optimizer)
    check_numbers(config)
    trainer = _trainer(module)
    clip = _choose_clip(config, trainer)
    phases = plan(config, trainer)
    options = {name: value for name in ("betas", "eps") if (value := getattr(config, name)) is not None}
    options = {"lr": config.lr if config.lr is not None else spec.lr, **options, **config.options}
    default_decay = 0.01 if config.weight_decay is None else config.weight_decay
    groups = split_parameters(module, default_decay, config.param_groups)
    optimizer = build_optimizer(spec, groups, options)
    schedule = Schedule(optimizer, config.schedule, phases)
    guide(optimizer, clip, schedule.advance)
    scheduler = {"scheduler": schedule, "interval": "step", "frequency": 1, "name": "lr"}
    return {"optimizer": optimizer, "lr_scheduler": scheduler}


def plan(config: OptimizerConfig, trainer: Any | None) -> Phases:
    """Warmup, decay and length of the run in optimizer steps.

    Raises:
        ConfigError: unknown schedule or length; a warmup or decay that does not fit.
    """
    if config.schedule not in SCHEDULES:
        known = ", ".join(SCHEDULES)
        raise ConfigError(
            f"schedule={config.schedule!r} is not known.{nearest(str(config.schedule), SCHEDULES)} Known: {known}."
        )
    per_epoch = _steps_per_epoch(trainer)
    total = _total_steps(config, trainer, per_epoch)
    warmup = resolve_duration("warmup", config.warmup, total, per_epoch)
    if warmup > total or (warmup == total and config.schedule != "constant" and total > 1):
        raise ConfigError(
            f"warmup={config.warmup!r} is {warmup} steps, and the run has {total:g}: the learning rate would never "
            f"reach lr. Give at most {int(total) - 1} steps, or a fraction such as warmup=0.05."
        )
    return Phases(warmup, _decay_steps(config, total, warmup, per_epoch), total, config.min_lr)


def _decay_steps(config: OptimizerConfig, total: float, warmup: int, per_epoch: float | None) -> int:
    if config.schedule == "constant" and not math.isfinite(total):
        return 0
    if config.schedule != "wsd":
        if config.decay is not None:
            raise ConfigError(f"decay={config.decay!r} belongs to schedule='wsd'; {config.schedule!r} has no such phase.")
        return int(total) - warmup
    decay = resolve_duration("decay", 0.1 if config.decay is None else config.decay, total, per_epoch)
    if warmup + decay > total:
        raise ConfigError(f"warmup ({warmup} steps) and decay ({decay}) are longer than the run ({total:g}).")
    return decay


def _choose_clip(config: OptimizerConfig, trainer: Any | None) -> Clip | None:
    trainer_clips = getattr(trainer, "gradient_clip_val", None)
    if isinstance(config.clip, str) and config.clip == "default":
        return None if trainer_clips else as_clip(1.0)
    rule = as_clip(config.clip)  # type: ignore[arg-type]
    if rule is not None and trainer_clips:
        raise ConfigError(
            f"clip={config.clip!r} here and Trainer(gradient_clip_val={trainer_clips!r}): gradients would be clipped "
            "twice. Leave one of them out; the helper's also works with fused optimizers and manual optimization."
        )
    return rule


def _trainer(module: nn.Module) -> Any | None:
    """The trainer that the module is attached to; None outside of one, and under Fabric."""
    trainer = getattr(module, "_trainer", None)
    return trainer if hasattr(trainer, "fit_loop") else None


_LENGTH_HELP = (
    "Pass total_steps=..., or Trainer(max_steps=...), or Trainer(max_epochs=..., limit_train_batches=<int>), "
    "or use schedule='constant' with warmup in steps."
)


def _total_steps(config: OptimizerConfig, trainer: Any | None, per_epoch: float | None) -> float:
    """Length of the run; ``inf`` only where nothing needs it."""
    if config.total_steps is not None:
        if isinstance(config.total_steps, float) or str(config.total_steps).rstrip().endswith("%"):
            raise ConfigError(f"total_steps={config.total_steps!r}: give steps (an int) or epochs ('2ep').")
        total: float = resolve_duration("total_steps", config.total_steps, math.inf, per_epoch)
        if total < 1:
            raise ConfigError(f"total_steps={config.total_steps!r}: the run needs at least one step.")
        return total
    total = _estimate(trainer)
    if math.isfinite(total) and total >= 1:
        return total
    if config.schedule == "constant" and isinstance(config.warmup, int):
        return math.inf
    where = "no trainer is attached" if trainer is None else "the trainer cannot know it"
    raise ConfigError(f"The run's length is not known ({where}), and schedule={config.schedule!r} needs it. {_LENGTH_HELP}")


def _estimate(trainer: Any | None) -> float:
    """``estimated_stepping_batches``, put right where it is wrong: accumulation that changes from epoch to epoch."""
    if trainer is None:
        return math.nan
    estimated = float(trainer.estimated_stepping_batches)
    factors = next((s for c in trainer.callbacks if (s := getattr(c, "scheduling", None)) is not None), None)
    epochs, batches = trainer.max_epochs, trainer.num_training_batches
    if not factors or not epochs or epochs < 0 or not math.isfinite(batches):
        return estimated
    total: float = sum(math.ceil(batches / factors[max(e for e in factors if e <= epoch)]) for epoch in range(epochs))
    return float(min(total, trainer.max_steps)) if trainer.max_steps and trainer.max_steps > 0 else total


def _steps_per_epoch(trainer: Any | None) -> float | None:
    """Optimizer steps of one epoch, where the trainer has its data."""
    if trainer is None:
        return None
    if not math.isfinite(trainer.num_training_batches):
        trainer.fit_loop.setup_data()
    batches = trainer.num_training_batches
    if not math.isfinite(batches) or batches < 1:
        return None
    return float(math.ceil(batches / trainer.accumulate_grad_batches))
