"""The seam to Lightning: its private names, and what both monitors need of a trainer, live here and nowhere else."""

from __future__ import annotations

import functools
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
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


def gradient_scale(trainer: Trainer, optimizer: Optimizer) -> Tensor | float:
    """What gradients still carry at ``on_before_optimizer_step``: only a fused optimizer unscales later than that."""
    fused = getattr(optimizer, "_step_supports_amp_scaling", False)
    return scale_on_device(trainer) if fused else 1.0


def has_scaler(trainer: Trainer) -> bool:
    """Whether a GradScaler may skip steps."""
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def total_gradient_norm(optimizer: Optimizer, flat_shards: bool = False) -> Tensor:
    """‖g‖ over all gradients, sparse ones and those of all shards included, on their device; NaN where there is none."""
    if flat_shards:
        return _norm_over_ranks(optimizer)
    placed = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    gradients = [g.coalesce().values() if g.is_sparse else g for g in placed if g.numel()]
    if not gradients:
        return torch.full((), math.nan)
    norm = torch.nn.utils.get_total_norm(gradients)
    whole: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return whole


def _norm_over_ranks(optimizer: Optimizer) -> Tensor:
    """Of FSDP1's flat shards, which torch's norms do not know to be shards; one all-reduce."""
    placed = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = [p.grad for p in placed if p.grad is not None and p.grad.numel()]
    device = placed[0].device if placed else torch.device("cpu")
    norm = torch.nn.utils.get_total_norm(gradients).to(device) if gradients else torch.zeros((), device=device)
    squared = norm.float().square()
    torch.distributed.all_reduce(squared)
    return squared.sqrt()


def has_flat_shards(trainer: Trainer) -> bool:
    """FSDP1: parameters are flat stretches that say nothing of the whole."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = trainer.strategy.model
    wrapped = [m for m in model.modules() if isinstance(m, FullyShardedDataParallel)] if model is not None else []
    return any(getattr(m.sharding_strategy, "name", "") in ("FULL_SHARD", "SHARD_GRAD_OP") for m in wrapped)


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
    """Calls back right before and right after each real optimizer step.

    torch's post-step hook sees the learning rate that the step used (at ``on_train_batch_end`` it is already the
    next one), fires for each of several optimizers, in manual optimization too, and does not fire for a step that
    the GradScaler skips.
    """

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    def attach(
        self,
        optimizers: Sequence[Optimizer],
        after_step: Callable[[int, Optimizer], None],
        before_step: Callable[[int, Optimizer], None] | None = None,
    ) -> None:
        """Listen to these optimizers, and to no others.

        ``before_step`` sees the parameters before L-BFGS's many evaluations, and the gradients as the optimizer gets
        them if the helper made it; Lightning computes those of others in 32 bit only after this hook.
        """
        self.detach()
        for index, optimizer in enumerate(optimizers):
            inner = with_hooks(optimizer)
            if inner is None:
                LOG.warning(
                    "%s has no step hooks and wraps no optimizer that has: it is not monitored.", type(optimizer).__name__
                )
                continue

            def hook(stepped: Optimizer, args: Any, kwargs: Any, index: int = index) -> None:
                after_step(index, stepped)

            self._handles.append(inner.register_step_post_hook(hook))
            if before_step is not None:

                def before(stepping: Optimizer, args: Any, kwargs: Any, index: int = index) -> None:
                    before_step(index, stepping)

                self._handles.append(inner.register_step_pre_hook(before))

    def detach(self) -> None:
        """Leave nothing behind; may be called twice."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def with_hooks(optimizer: Any) -> Optimizer | None:
    """The optimizer itself, or the one that it wraps (DeepSpeed's, Fabric's), if that has torch's step hooks."""
    seen: list[Any] = []
    while optimizer is not None and not any(optimizer is one for one in seen):
        if hasattr(optimizer, "register_step_post_hook"):
            return optimizer  # type: ignore[no-any-return]
        seen.append(optimizer)
        optimizer = getattr(optimizer, "optimizer", None)
    return None


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
