"""The run in optimizer steps: its length from the trainer, and warmup and decay from durations."""

from __future__ import annotations

import math
from typing import Any

from lightning_adam.config import OptimizerConfig, resolve_duration
from lightning_adam.errors import ConfigError
from lightning_adam.schedules import Phases, Shape, get_schedule, resolve_options


def plan(config: OptimizerConfig, trainer: Any | None, optimizers: int = 1) -> Phases:
    """Warmup, decay and length of the run in optimizer steps.

    Args:
        config: what was asked.
        trainer: whose run it is; None outside of one.
        optimizers: how many share the trainer's ``max_steps``, which counts every step of each.

    Raises:
        ConfigError: unknown schedule, option or length; a warmup or decay that does not fit.
    """
    name = config.schedule or "cosine"
    shape, options = get_schedule(name), resolve_options(name, config.schedule_options)
    per_epoch = steps_per_epoch(trainer)
    total = _total_steps(config, shape, trainer, per_epoch, optimizers)
    asked = shape.warmup if config.warmup is None else config.warmup
    warmup = resolve_duration("warmup", asked, total, per_epoch)
    if warmup > total or (warmup == total and shape.phase != "none" and total > 1):
        raise ConfigError(
            f"warmup={asked!r} is {warmup} steps, and the run has {total:g}: the learning rate would never "
            f"reach lr. Give at most {int(total) - 1} steps, or a fraction such as warmup=0.05."
        )
    return Phases(warmup, _decay_steps(config, shape, total, warmup, per_epoch), total, config.min_lr or 0.0, options)


def _decay_steps(config: OptimizerConfig, shape: Shape, total: float, warmup: int, per_epoch: float | None) -> int:
    if shape.phase in ("run", "none"):
        if config.decay is not None:
            raise ConfigError(
                f"decay={config.decay!r} belongs to the wsd schedules and cosine_restarts; "
                f"{config.schedule or 'cosine'!r} has no such phase."
            )
        return 0 if shape.phase == "none" else int(total) - warmup
    if shape.phase == "cycle":
        asked = max(1, round((total - warmup) / 4)) if config.decay is None else config.decay
        return max(1, resolve_duration("decay", asked, total, per_epoch))
    decay = resolve_duration("decay", 0.1 if config.decay is None else config.decay, total, per_epoch)
    if warmup + decay > total:
        raise ConfigError(f"warmup ({warmup} steps) and decay ({decay}) are longer than the run ({total:g}).")
    return decay


_LENGTH_HELP = (
    "Pass total_steps=..., or Trainer(max_steps=...), or Trainer(max_epochs=..., limit_train_batches=<int>), "
    "or use schedule='constant' with warmup in steps."
)


def _total_steps(
    config: OptimizerConfig, shape: Shape, trainer: Any | None, per_epoch: float | None, optimizers: int
) -> float:
    """Length of the run; ``inf`` only where nothing needs it."""
    if config.total_steps is not None:
        if isinstance(config.total_steps, float) or str(config.total_steps).rstrip().endswith("%"):
            raise ConfigError(f"total_steps={config.total_steps!r}: give steps (an int) or epochs ('2ep').")
        total: float = resolve_duration("total_steps", config.total_steps, math.inf, per_epoch)
        if total < 1:
            raise ConfigError(f"total_steps={config.total_steps!r}: the run needs at least one step.")
        return total
    total = _estimate(trainer)
    if trainer is not None and trainer.max_steps and trainer.max_steps > 0:
        total = min(total, math.ceil(trainer.max_steps / optimizers))
    if math.isfinite(total) and total >= 1:
        return total
    if shape.phase == "none" and (isinstance(config.warmup, int) or _is_epochs(config.warmup)):
        return math.inf
    where = "no trainer is attached; for a part of a LightningModule pass self and parameters='generator.*'"
    where = where if trainer is None else "the trainer cannot know it"
    raise ConfigError(
        f"The run's length is not known ({where}), and schedule={config.schedule or 'cosine'!r} needs it. {_LENGTH_HELP}"
    )


def _is_epochs(duration: Any) -> bool:
    return isinstance(duration, str) and duration.strip().endswith("ep")


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


def steps_per_epoch(trainer: Any | None) -> float | None:
    """Optimizer steps of one epoch, where the trainer has its data."""
    if trainer is None:
        return None
    if not math.isfinite(trainer.num_training_batches):
        trainer.fit_loop.setup_data()
    batches = trainer.num_training_batches
    if not math.isfinite(batches) or batches < 1:
        return None
    return float(math.ceil(batches / trainer.accumulate_grad_batches))
