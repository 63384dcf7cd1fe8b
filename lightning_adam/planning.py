"""The run in optimizer steps: its length from the trainer, and warmup and decay from durations."""

from __future__ import annotations

import math
from contextvars import ContextVar
from typing import Any

from lightning_adam.config import OptimizerConfig, min_factor, resolve_duration
from lightning_adam.curves import Phases
from lightning_adam.errors import ConfigError
from lightning_adam.real_numbers import is_count
from lightning_adam.schedules import Shape, get_schedule, resolve_options

ASSUMED_LENGTH: ContextVar[float] = ContextVar("ASSUMED_LENGTH", default=math.nan)
"""Stands for the length of a run that has no trainer yet, where somebody only wants to look at the plan."""


def plan(config: OptimizerConfig, trainer: Any | None, length: float | None = None) -> Phases:
    """Warmup, decay and length of the run in optimizer steps.

    Args:
        config: what was asked.
        trainer: whose run it is; None outside of one.
        length: of the run in this optimizer's steps, where ``total_steps`` does not say; None asks the trainer.

    Raises:
        ConfigError: unknown schedule, option or length; a warmup or decay that does not fit.
    """
    name = config.schedule or "cosine"
    shape, options = get_schedule(name), resolve_options(name, config.schedule_options)
    per_epoch = steps_per_epoch(trainer)
    total = _total_steps(config, shape, trainer, per_epoch, length)
    asked = shape.warmup if config.warmup is None else config.warmup
    warmup = _shortened_to(resolve_duration("warmup", asked, total, per_epoch), total - 1, trainer)
    if warmup > total or (warmup == total and shape.phase != "none" and total > 1):
        raise ConfigError(
            f"warmup={asked!r} is {warmup} steps, and the run has {total:g}: the learning rate would never "
            f"reach lr. Give at most {int(total) - 1} steps, or a fraction such as warmup=0.05."
        )
    decay = _decay_steps(config, shape, total, warmup, per_epoch, trainer)
    total = int(total) if math.isfinite(total) else total
    return Phases(warmup, decay, total, min_factor(config), options, asked=config.total_steps is not None)


def _shortened_to(steps: int, room: float, trainer: Any | None) -> int:
    """Shortened where only the program is tried: there is no run that it could be too long for."""
    return int(min(steps, room)) if _is_dry_run(trainer) else steps


def _is_dry_run(trainer: Any | None) -> bool:
    """``fast_dev_run``, and ``limit_train_batches=0``."""
    if trainer is None:
        return False
    limits = (trainer.num_training_batches, getattr(trainer, "limit_train_batches", None))
    return bool(getattr(trainer, "fast_dev_run", False)) or 0 in limits


def _decay_steps(
    config: OptimizerConfig, shape: Shape, total: float, warmup: int, per_epoch: float | None, trainer: Any | None
) -> int:
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
    decay = _shortened_to(decay, total - warmup, trainer)
    if warmup + decay > total:
        raise ConfigError(f"warmup ({warmup} steps) and decay ({decay}) are longer than the run ({total:g}).")
    return decay


_TOTAL = "give optimizer steps (an int of 1 or more) or epochs ('2ep')."
_LENGTH_HELP = "Pass total_steps=..., or Trainer(max_steps=...), or Trainer(max_epochs=..., limit_train_batches=<int>)"


def _total_steps(
    config: OptimizerConfig, shape: Shape, trainer: Any | None, per_epoch: float | None, length: float | None
) -> float:
    """Length of the run; ``inf`` only where nothing needs it."""
    if config.total_steps is not None:
        asked = config.total_steps
        if not is_count(asked) and not _is_epochs(asked):
            raise ConfigError(f"total_steps={asked!r}: {_TOTAL}")
        total: float = resolve_duration("total_steps", asked, math.inf, per_epoch)
        if total < 1:
            raise ConfigError(f"total_steps={asked!r}: the run needs at least one step. {_TOTAL}")
        return total
    total = length if length is not None else run_length(trainer)
    if math.isfinite(total) and total >= 1:
        return total
    if _is_dry_run(trainer):
        return 1.0
    warmup = shape.warmup if config.warmup is None else config.warmup
    if shape.phase == "none" and not _is_share(warmup):
        return math.inf
    where = "no trainer is attached; for a part of a LightningModule pass self and parameters='generator.*'"
    where = where if trainer is None else "the trainer cannot know it"
    needs, instead = f"schedule={config.schedule or 'cosine'!r} needs it", "use schedule='constant' with warmup in steps"
    if shape.phase == "none":
        needs, instead = f"warmup={warmup!r} is a share of it", "give warmup in steps, such as 500"
    raise ConfigError(f"The run's length is not known ({where}), and {needs}. {_LENGTH_HELP}, or {instead}.")


def _is_share(duration: Any) -> bool:
    """Whether the run's length says how many steps it is; a share of 0 is none at any length."""
    try:
        resolve_duration("warmup", duration, math.inf, 1.0)
    except ConfigError:
        return True
    return False


def _is_epochs(duration: Any) -> bool:
    return isinstance(duration, str) and duration.strip().endswith("ep")


def run_length(trainer: Any | None, begun: int | None = None) -> float:
    """Optimizer steps of the run from its first to its last; NaN where nobody knows.

    Args:
        trainer: it counts on from an earlier ``fit``; without one nobody knows, unless ``ASSUMED_LENGTH`` is set.
        begun: its steps before this run; None for all that it has done.
    """
    if trainer is None:
        return ASSUMED_LENGTH.get()
    whole, done = _estimate(trainer), trainer.global_step if begun is None else begun
    return whole - done if whole > done else whole


def _estimate(trainer: Any) -> float:
    """``estimated_stepping_batches``, put right where it is wrong."""
    estimated = float(trainer.estimated_stepping_batches)
    batches, epochs = trainer.num_training_batches, epochs_with_updates(trainer)
    if not math.isfinite(epochs) or not math.isfinite(batches):
        return estimated
    return _at_most(trainer, _steps_of(trainer, range(max(1, int(epochs)))))


def _steps_of(trainer: Any, epochs: range) -> float:
    """Of these epochs with the present data, where accumulation may change from epoch to epoch."""
    factors = next((s for c in trainer.callbacks if (s := getattr(c, "scheduling", None)) is not None), None)
    batches = trainer.num_training_batches
    if not factors:
        return float(math.ceil(batches / trainer.accumulate_grad_batches) * len(epochs))
    return float(sum(math.ceil(batches / factors[max(e for e in factors if e <= epoch)]) for epoch in epochs))


def _at_most(trainer: Any, steps: float) -> float:
    return float(min(steps, trainer.max_steps)) if trainer.max_steps and trainer.max_steps > 0 else float(steps)


def epochs_with_updates(trainer: Any) -> float:
    """The trainer's ``max_epochs``, without the one that StochasticWeightAveraging appends for its batch norm."""
    appended = sum(bool(getattr(callback, "_model_contains_batch_norm", False)) for callback in trainer.callbacks)
    return math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs - appended


def length_in_run(trainer: Any, begun: int, batches_done: int = 0) -> float:
    """The run's length as it looks in mid-run: what is done, and the rest with the present data, accumulation and limits.

    Args:
        trainer: whose run it is.
        begun: its steps before this run.
        batches_done: of the present epoch.
    """
    epochs, batches = epochs_with_updates(trainer), trainer.num_training_batches
    if not math.isfinite(epochs) or not math.isfinite(batches):
        return run_length(trainer, begun)
    rest = _steps_of(trainer, range(trainer.current_epoch, int(epochs))) - batches_done // trainer.accumulate_grad_batches
    return _at_most(trainer, trainer.global_step + rest) - begun


def manual_length(trainer: Any, begun: tuple[int, int], pace: tuple[float, float] | None) -> float:
    """The length of the run in the steps of one of several optimizers that are stepped by hand.

    Args:
        trainer: its ``max_steps`` counts every step of each.
        begun: its steps and epochs before this run.
        pace: updates per batch, and the share of all optimizers' steps; until they are measured, one per batch and equal
            shares.
    """
    per_batch, share = pace or (1.0, 1.0 / max(1, len(trainer.optimizers)))
    batches = trainer.num_training_batches * (epochs_with_updates(trainer) - begun[1])
    return _shorter(trainer, per_batch * batches, share, begun[0])


def manual_rest(trainer: Any, batches_done: float, pace: tuple[float, float]) -> float:
    """The same for what is still to come.

    Args:
        trainer: whose run it is.
        batches_done: of the present epoch.
        pace: as measured.
    """
    batches = trainer.num_training_batches * (epochs_with_updates(trainer) - trainer.current_epoch)
    batches -= batches_done if math.isfinite(batches) else 0
    return _shorter(trainer, pace[0] * batches, pace[1], trainer.global_step)


def _shorter(trainer: Any, by_batches: float, share: float, steps_done: int) -> float:
    limited = trainer.max_steps is not None and trainer.max_steps > 0
    by_steps = share * (trainer.max_steps - steps_done) if limited else math.inf
    shorter = min(by_batches, by_steps)
    return float(math.ceil(shorter - 1e-6)) if math.isfinite(shorter) else shorter


def steps_per_epoch(trainer: Any | None) -> float | None:
    """Optimizer steps of one epoch, where the trainer has its data."""
    if trainer is None:
        return None
    if not math.isfinite(trainer.num_training_batches):
        trainer.fit_loop.setup_data()
    batches = trainer.num_training_batches
    if not math.isfinite(batches) or batches < 1:
        return 1.0 if _is_dry_run(trainer) else None
    return float(math.ceil(batches / trainer.accumulate_grad_batches))


def trainer_of(module: Any) -> Any | None:
    """The trainer that the module is attached to; None outside of one, and under Fabric."""
    trainer = getattr(module, "_trainer", None)
    return trainer if hasattr(trainer, "fit_loop") else None
