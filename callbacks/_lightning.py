"""The seam to Lightning: its private names live here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_adam.errors import ConfigError

ATTACHED = ("log", "log_dict")
"""Methods of the module that Lightning gives to each callback for a run: through them it would hold the module for ever."""


def forget_module(callback: Callback) -> None:
    """Take back what Lightning has attached to a callback."""
    for name in ATTACHED:
        callback.__dict__.pop(name, None)


def optimizers_of(trainer: Trainer) -> list[Optimizer]:
    """Without the stand-in for the optimizer of a module that has none: it has no parameters."""
    return [optimizer for optimizer in trainer.optimizers if optimizer.param_groups]


def log_step(trainer: Trainer) -> int:
    """The x-axis of ``self.log`` and of LearningRateMonitor; one behind ``global_step`` at the end of a batch."""
    steps: int | None = getattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped", None)
    return trainer.global_step if steps is None else steps


def log_interval(trainer: Trainer) -> int:
    """The trainer's ``log_every_n_steps``, which Lightning sets but does not declare."""
    return int(getattr(trainer, "log_every_n_steps", 50))


def hyperparameters_of_user(trainer: Trainer, module: LightningModule) -> Mapping[str, Any]:
    """What ``save_hyperparameters`` of the module and of the data took, where it is to be logged."""
    data = getattr(trainer, "datamodule", None)
    found: dict[str, Any] = {}
    for source in (module, data):
        if source is not None and getattr(source, "_log_hyperparams", False):
            found |= {key: value for key, value in source.hparams_initial.items() if key != "_class_path"}
    return found


def scale_on_device(trainer: Trainer) -> Tensor | float | None:
    """What fp16 scales the loss by: the scaler's own tensor once it has one, for reading the number waits for a GPU."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    scale = getattr(scaler, "_scale", None)
    if scaler is None:
        return None
    return scale.detach() if isinstance(scale, Tensor) else float(scaler.get_scale())


def averages(trainer: Trainer) -> list[Mapping[str, Any]]:
    """What callbacks keep beside the model: Lightning's averages, copies of the model, and handmade dicts of tensors."""
    own = set(trainer.lightning_module.modules()) | {trainer.model}
    callbacks: list[Callback] = getattr(trainer, "callbacks", [])
    kept = [value for callback in callbacks for value in vars(callback).values()]
    found = [value.state_dict() if isinstance(value, nn.Module) and value not in own else value for value in kept]
    return [value for value in found if isinstance(value, Mapping) and value and _are_tensors(value)]


def _are_tensors(values: Mapping[Any, Any]) -> bool:
    return all(isinstance(value, Tensor) for value in values.values())


def save_checkpoint(trainer: Trainer, path: Path) -> str:
    """What kept it from being saved; empty for nothing.

    The ranks that write nothing wait for the one that does, also where its disk is full: it meets them there.
    """
    try:
        trainer.save_checkpoint(path)
    except Exception as error:
        trainer.strategy.barrier("Trainer.save_checkpoint")
        return f"{type(error).__name__}: {error}"
    return ""


def loss_scale(trainer: Trainer) -> float:
    """What fp16 multiplies the loss by before ``on_before_backward`` sees it; 1 without a GradScaler."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return float(scaler.get_scale()) if scaler is not None else 1.0


def loss_share(trainer: Trainer) -> float:
    """What the loss of a batch was multiplied by before ``on_before_backward`` sees it: Lightning divides by the number of
    batches that a step accumulates, and fp16 scales."""
    return loss_scale(trainer) / trainer.accumulate_grad_batches


def has_scaler(trainer: Trainer) -> bool:
    """Whether a GradScaler may skip steps."""
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def scheduler_instead(trainer: Trainer, schedule: Any) -> str:
    """The class of the scheduler that Lightning steps for the same optimizer where this one has been swapped; else empty."""
    schedulers: list[Any] = [config.scheduler for config in trainer.lr_scheduler_configs]
    others = [s for s in schedulers if getattr(s, "optimizer", None) is schedule.optimizer]
    replaced = others and not any(_holds(s, schedule) for s in schedulers)
    return type(others[0]).__name__ if replaced else ""


def _holds(scheduler: Any, schedule: Any) -> bool:
    """Whether it is the schedule, or one of those that a SequentialLR or ChainedScheduler steps."""
    return scheduler is schedule or any(_holds(part, schedule) for part in getattr(scheduler, "_schedulers", ()))


def has_flat_shards(trainer: Trainer) -> bool:
    """FSDP1: parameters are flat stretches that say nothing of the whole."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = trainer.strategy.model
    wrapped = [m for m in model.modules() if isinstance(m, FullyShardedDataParallel)] if model is not None else []
    return any(getattr(m.sharding_strategy, "name", "") in ("FULL_SHARD", "SHARD_GRAD_OP") for m in wrapped)


def refuse_fabric(callback: Callback) -> NoReturn:
    """Of a callback that was given to Fabric.

    Raises:
        ConfigError: always, with what to write instead.
    """
    raise ConfigError(
        f"{type(callback).__name__} listens to Lightning's Trainer; Fabric would never tell it of a step. Write "
        "watch = la.watch(module, optimizer, log_dir=...) after fabric.setup, and watch.loss(loss) before "
        "fabric.backward(loss)."
    )


def training_data(trainer: Trainer) -> Any:
    """The training loader, made anew: when optimizers are configured, Lightning has not made its own yet.

    Preflight's stand-in for a trainer has the loader that it was given.
    """
    source = getattr(trainer.fit_loop, "_data_source", None)
    return trainer.train_dataloader if source is None else source.dataloader()


def checkpoint_being_loaded(trainer: Trainer) -> Mapping[str, Any]:
    """What a run is resumed from, while it is."""
    return getattr(getattr(trainer, "_checkpoint_connector", None), "_loaded_checkpoint", None) or {}
