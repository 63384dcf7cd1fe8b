"""A Trainer's fit, as a monitor sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim import Optimizer

from lightning_adam.callbacks._lightning import (
    averages,
    has_flat_shards,
    has_scaler,
    log_interval,
    log_step,
    optimizers_of,
    save_checkpoint,
    scale_on_device,
)
from lightning_adam.callbacks.trainer_clipping import keep_norms, let_go
from lightning_adam.callbacks.trainer_sinks import guarded_sinks
from lightning_adam.clipping import norms_of_helper
from lightning_adam.describe import planned
from lightning_adam.gradient_norms import GradientNorms
from lightning_adam.monitoring import Plan, Sink
from lightning_adam.planning import steps_per_epoch


class LightningRun:
    """A Trainer's fit, as a monitor sees it (:class:`lightning_adam.monitoring.Run`)."""

    has_batches = True

    def __init__(self, trainer: Trainer, module: LightningModule, fits_again: bool = False) -> None:
        self._trainer, self.module, self.fits_again = trainer, module, fits_again
        self.sinks: Sequence[Sink] = guarded_sinks(trainer)
        self.flat_shards = has_flat_shards(trainer)
        self._has_scaler = has_scaler(trainer)
        self._clipping = keep_norms(trainer)

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        """The trainer's."""
        return optimizers_of(self._trainer)

    @property
    def log_interval(self) -> int:
        """The trainer's."""
        return log_interval(self._trainer)

    @property
    def accumulation(self) -> int:
        """Automatic optimization divides the loss before ``on_before_backward``."""
        return self._trainer.accumulate_grad_batches if self.module.automatic_optimization else 1

    @property
    def loss_scale(self) -> Tensor | float | None:
        """The precision plugin's."""
        return scale_on_device(self._trainer) if self._has_scaler else None

    @property
    def clip_norm(self) -> float:
        """The trainer's ``gradient_clip_val``, if it clips by norm."""
        limit = self._trainer.gradient_clip_val
        return math.nan if not limit or self._trainer.gradient_clip_algorithm == "value" else float(limit)

    @property
    def mode(self) -> str:
        """As the module says."""
        return "automatic" if self.module.automatic_optimization else "manual"

    @property
    def is_main(self) -> bool:
        """Rank zero writes and speaks."""
        return self._trainer.is_global_zero

    def step(self, position: int) -> int:
        """The same for all of them: it counts batches."""
        return log_step(self._trainer)

    def gradient_scale(self, optimizer: Optimizer) -> Tensor | float:
        """At ``on_before_optimizer_step`` only a fused optimizer's are still to be unscaled, in its own kernel."""
        fused = getattr(optimizer, "_step_supports_amp_scaling", False)
        scale = self.loss_scale if fused else None
        return 1.0 if scale is None else scale

    def norms_of_clipping(self, optimizer: Optimizer) -> GradientNorms | None:
        """The helper's, or the trainer's own; with manual optimization its user clips at any time, or never."""
        found = norms_of_helper(optimizer)
        if found is not None or self._clipping is None or not self.module.automatic_optimization:
            return found
        return self._clipping.last(optimizer)

    def plan(self, position: int) -> Plan:
        """From the helper's schedule, and from the length that the trainer expects."""
        total = self._batches()
        known = total if math.isfinite(total) and total > 0 else math.nan
        return planned(self.optimizers[position], known, steps_per_epoch(self._trainer))

    def _batches(self) -> float:
        """Those that step. ``max_steps`` counts each optimizer's step: of several by hand, each is taken to step once."""
        total, limit = float(self._trainer.estimated_stepping_batches), self._trainer.max_steps
        is_counted = not self.module.automatic_optimization and total == limit
        return total / max(1, len(self.optimizers)) if is_counted else total

    def any_rank(self, decision: bool) -> bool:
        """One reduction."""
        return bool(self._trainer.strategy.reduce_boolean_decision(decision, all=False))

    def schedulers(self) -> Sequence[Any]:
        """Those that Lightning steps."""
        return [config.scheduler for config in self._trainer.lr_scheduler_configs]

    def averages(self) -> Sequence[Mapping[str, Any]]:
        """Lightning's weight averaging, and what other callbacks keep like it."""
        return averages(self._trainer)

    def stop(self) -> str:
        """The run ends after this batch, with a checkpoint."""
        trainer = self._trainer
        path = Path(trainer.log_dir or trainer.default_root_dir) / f"adam_stopped_step_{trainer.global_step}.ckpt"
        trainer.should_stop = True
        trouble = save_checkpoint(trainer, path)
        saved = f"but nothing could be saved in {path} ({trouble})" if trouble else f"with everything saved in {path}"
        return f"stopped at step {trainer.global_step}, {saved}"

    def tell(self, line: str) -> None:
        """As Lightning's own lines."""
        rank_zero_info(line)

    def end(self) -> None:
        """The trainer clips as it did before."""
        let_go(self._trainer)
