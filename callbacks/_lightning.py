"""The seam to Lightning: its private names, and what both monitors need of a trainer, live here and nowhere else."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_adam.statistics import tensor_names
from lightning_adam.tensorboard import TensorBoardWriter

LOG = logging.getLogger("lightning_adam")

P = ParamSpec("P")
S = TypeVar("S")


def log_step(trainer: Trainer) -> int:
    """The x-axis of ``self.log`` and of LearningRateMonitor; one behind ``global_step`` at the end of a batch."""
    return int(getattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped", trainer.global_step))


def log_interval(trainer: Trainer) -> int:
    """The trainer's ``log_every_n_steps``, which Lightning sets but does not declare."""
    return int(getattr(trainer, "log_every_n_steps", 50))


def loss_scale(trainer: Trainer) -> float:
    """What fp16 multiplies the loss by before ``on_before_backward`` sees it; 1 without a GradScaler."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return float(scaler.get_scale()) if scaler is not None else 1.0


def scale_on_device(trainer: Trainer) -> Tensor | float:
    """The same as :func:`loss_scale` without waiting for the device: the scaler's own tensor once it has one."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    scale = getattr(scaler, "_scale", None)
    return scale.detach() if isinstance(scale, Tensor) else loss_scale(trainer)


def gradient_scale(trainer: Trainer, optimizer: Optimizer) -> float:
    """What gradients still carry at ``on_before_optimizer_step``: only a fused optimizer unscales later than that."""
    fused = getattr(optimizer, "_step_supports_amp_scaling", False)
    return loss_scale(trainer) if fused else 1.0


def prefixes(optimizers: Sequence[Optimizer]) -> list[str]:
    """``adam`` for one optimizer; for several ``adam-AdamW``, ``adam-AdamW-1``, as LearningRateMonitor names them."""
    if len(optimizers) == 1:
        return ["adam"]
    seen: Counter[str] = Counter()
    keys = []
    for optimizer in optimizers:
        name = type(optimizer).__name__
        keys.append(f"adam-{name}-{seen[name]}" if seen[name] else f"adam-{name}")
        seen[name] += 1
    return keys


def parameter_names(module: LightningModule, optimizers: Sequence[Optimizer]) -> dict[int, str]:
    """Names by identity: the module's, and those that the helper stored for parameters outside of it."""
    names = tensor_names(module.named_parameters())
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter, name in zip(group["params"], group.get("adam_names", ()), strict=False):
                names.setdefault(id(parameter), name)
    return names


def tensorboard_writers(trainer: Trainer, prefix: str) -> list[TensorBoardWriter]:
    """One writer per TensorBoard logger, known by what it can do and not by its class; none beside rank zero."""
    if not trainer.is_global_zero:
        return []
    experiments = [getattr(logger, "experiment", None) for logger in trainer.loggers]
    return [TensorBoardWriter(e, prefix) for e in experiments if hasattr(e, "_get_file_writer")]


def log_elsewhere(trainer: Trainer, scalars: Mapping[str, float], step: int) -> None:
    """The scalars, for the loggers that are not TensorBoard."""
    for logger in trainer.loggers if trainer.is_global_zero else ():
        if not hasattr(getattr(logger, "experiment", None), "_get_file_writer"):
            logger.log_metrics(dict(scalars), step=step)


class StepHooks:
    """Calls back right after each real optimizer step.

    torch's post-step hook sees the learning rate that the step used (at ``on_train_batch_end`` it is already the
    next one), fires for each of several optimizers, in manual optimization too, and does not fire for a step that
    the GradScaler skips.
    """

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    def attach(self, optimizers: Sequence[Optimizer], after_step: Callable[[int, Optimizer], None]) -> None:
        """Listen to these optimizers, and to no others."""
        self.detach()
        for index, optimizer in enumerate(optimizers):
            if not hasattr(optimizer, "register_step_post_hook"):
                LOG.warning("%s has no step hooks: it is not monitored.", type(optimizer).__name__)
                continue

            def hook(stepped: Optimizer, args: Any, kwargs: Any, index: int = index) -> None:
                after_step(index, stepped)

            self._handles.append(optimizer.register_step_post_hook(hook))

    def detach(self) -> None:
        """Leave nothing behind; may be called twice."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def never_raises(method: Callable[Concatenate[S, P], None]) -> Callable[Concatenate[S, P], None]:
    """A monitor that fails warns once and lets the training go on."""

    @functools.wraps(method)
    def guarded(self: S, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            failures = self.__dict__.setdefault("_failed", set())
            if method.__name__ not in failures:
                failures.add(method.__name__)
                LOG.warning(
                    "%s.%s failed and is incomplete from here on; training goes on. %s: %s",
                    type(self).__name__,
                    method.__name__,
                    type(error).__name__,
                    error,
                )

    return guarded  # type: ignore[return-value]
