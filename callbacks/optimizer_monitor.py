"""Writes what the optimizer does to TensorBoard: moments, effective learning rates, and the steps really taken."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from lightning_adam.callbacks._lightning import (
    StepHooks,
    gradient_scale,
    log_elsewhere,
    log_interval,
    log_step,
    never_raises,
    parameter_names,
    prefixes,
    tensorboard_writers,
)
from lightning_adam.describe import describe_optimizer
from lightning_adam.errors import ConfigError
from lightning_adam.planning import steps_per_epoch
from lightning_adam.statistics import Snapshot, copy_parameters, headline, read_optimizer, take_snapshot
from lightning_adam.tensorboard import deep_link

FEW_TENSORS = 32
HEATMAP_COLUMNS = 512


class OptimizerMonitor(Callback):
    """Logs moment statistics, effective learning rates and step sizes of every optimizer.

    =============================== ========================================== ==================================
    tag                             meaning                                    healthy
    =============================== ========================================== ==================================
    adam/log10_lr                   learning rate that the step used           as scheduled
    adam/log10_update_ratio_p50     ‖Δθ‖/‖θ‖, median over the tensors          -3.5 to -2 (about 1e-3)
    adam/log10_step_size_rms        rms of |Δθ| over all elements              falls with the learning rate
    adam/log10_effective_lr_p50     α/(√v̂+ε), median                          drifts slowly
    adam/log10_first_moment_rms     rms of m̂                                   under the second moment's
    adam/log10_second_moment_rms    rms of √v̂                                  no jumps
    adam/log10_gradient_norm        total norm before clipping                 no jumps
    adam/signal_to_noise            mean of |m̂|/(√v̂+ε)                        0.1 to 0.6
    adam/clipped_steps_total        steps that clipping changed (the helper's) any; see the rules
    =============================== ========================================== ==================================

    With them go pooled histograms and a heatmap (``adam.dist/…``), every tensor's quantities (``adam_matrix/…``) and
    the configuration as text. The weights are bit for bit those of a run without the monitor.

    Args:
        every_n_steps: optimizer steps between two logged steps; the trainer's ``log_every_n_steps`` by default.
        tensors: glob of parameter names that also get scalars of their own (``adam.tensors/…``); by default all
            tensors of a model that has at most 32.

    Raises:
        ConfigError: ``every_n_steps`` is not a positive integer.
    """

    def __init__(self, every_n_steps: int | None = None, tensors: str | None = None) -> None:
        if every_n_steps is not None and (not isinstance(every_n_steps, int) or every_n_steps < 1):
            raise ConfigError(
                f"every_n_steps={every_n_steps!r}: give a positive number of optimizer steps, or None for the "
                "trainer's log_every_n_steps."
            )
        self.every_n_steps = every_n_steps
        self.tensors = tensors
        self._hooks = StepHooks()
        self._names: dict[int, str] = {}
        self._prefixes: list[str] = []
        self._before: dict[int, dict[int, Tensor] | None] = {}
        self._norms: dict[int, float] = {}
        self._clipped: dict[str, Tensor | int] = {}
        self._heatmaps: dict[str, Heatmap] = {}

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The optimizers exist and hold their restored state: listen to them."""
        self._trainer = trainer
        self._names = parameter_names(pl_module, trainer.optimizers)
        self._prefixes = prefixes(trainer.optimizers)
        self._hooks.attach(trainer.optimizers, self._after_step)
        self._write_beginning(trainer)

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Gradients are complete and not yet clipped: on a step to be logged, take what is gone after it."""
        if self._is_logged(trainer):
            self._look_before(trainer, optimizer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The run is over: write the last heatmap and let go of the optimizers."""
        self._hooks.detach()
        self._write_heatmaps(trainer)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The run broke (Lightning calls nothing else then): the heatmap is wanted all the more."""
        self.on_train_end(trainer, pl_module)

    @override
    def state_dict(self) -> dict[str, Any]:
        """The counters and heatmaps, as plain types and tensors."""
        return {
            "clipped": {prefix: int(count) for prefix, count in self._clipped.items()},
            "heatmaps": {prefix: heatmap.state_dict() for prefix, heatmap in self._heatmaps.items()},
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting from the checkpoint."""
        self._clipped = dict(state_dict["clipped"])
        self._heatmaps = {prefix: Heatmap.restore(stored) for prefix, stored in state_dict["heatmaps"].items()}

    def _is_logged(self, trainer: Trainer) -> bool:
        every = self.every_n_steps or log_interval(trainer)
        return every > 0 and (log_step(trainer) + 1) % every == 0

    @never_raises
    def _write_beginning(self, trainer: Trainer) -> None:
        step = log_step(trainer)
        for index, prefix in enumerate(self._prefixes):
            for writer in tensorboard_writers(trainer, prefix):
                writer.write_text(
                    f"{prefix}/config", describe_optimizer(trainer.optimizers[index], steps_per_epoch(trainer)), step
                )
                if index == 0:
                    writer.write_layout()
        if tensorboard_writers(trainer, "adam"):
            rank_zero_info(f"Adam dashboard: tensorboard --logdir {trainer.log_dir}, then open {deep_link()}")

    @never_raises
    def _look_before(self, trainer: Trainer, optimizer: Optimizer) -> None:
        self._before[id(optimizer)] = copy_parameters(optimizer)
        if getattr(optimizer, "adam_clip", None) is None:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            scale = gradient_scale(trainer, optimizer)
            self._norms[id(optimizer)] = float(torch.nn.utils.get_total_norm(gradients)) / scale

    @never_raises
    def _after_step(self, index: int, optimizer: Optimizer) -> None:
        self._count_clipped(self._prefixes[index], optimizer)
        if not self._is_logged(self._trainer) or not self._trainer.is_global_zero:
            return
        readings = read_optimizer(optimizer, self._names, self._before.pop(id(optimizer), None))
        if readings:
            self._write(self._prefixes[index], optimizer, take_snapshot(log_step(self._trainer), readings))

    def _count_clipped(self, prefix: str, optimizer: Optimizer) -> None:
        """Adds on the device: a host read at every step would stall a GPU."""
        record = getattr(optimizer, "adam_clip", None)
        if record is not None:
            self._clipped[prefix] = self._clipped.get(prefix, 0) + record.clipped.detach().to(torch.int64)

    def _write(self, prefix: str, optimizer: Optimizer, snapshot: Snapshot) -> None:
        scalars = {f"{prefix}/{name}": value for name, value in headline(snapshot).items()}
        scalars[f"{prefix}/log10_gradient_norm"] = _log10(self._norm_before_clipping(optimizer))
        if prefix in self._clipped:
            scalars[f"{prefix}/clipped_steps_total"] = float(self._clipped[prefix])
        for group in snapshot.lr:
            values = headline(snapshot, group).items()
            scalars |= {f"{prefix}.groups/{name}/{group}": value for name, value in values}
        for writer in tensorboard_writers(self._trainer, prefix):
            writer.write_snapshot(snapshot.step, scalars, snapshot, self._chosen_tensors(snapshot))
        log_elsewhere(self._trainer, scalars, snapshot.step)
        heatmap = self._heatmaps.setdefault(prefix, Heatmap())
        heatmap.add(snapshot)
        if heatmap.is_due():
            self._write_heatmaps(self._trainer)

    def _norm_before_clipping(self, optimizer: Optimizer) -> float:
        record = getattr(optimizer, "adam_clip", None)
        return float(record.norm_before) if record is not None else self._norms.get(id(optimizer), math.nan)

    def _chosen_tensors(self, snapshot: Snapshot) -> list[int]:
        if self.tensors is not None:
            return [i for i, name in enumerate(snapshot.names) if fnmatch(name, self.tensors)]
        return list(range(len(snapshot.names))) if len(snapshot.names) <= FEW_TENSORS else []

    @never_raises
    def _write_heatmaps(self, trainer: Trainer) -> None:
        for prefix, heatmap in self._heatmaps.items():
            for writer in tensorboard_writers(trainer, prefix) if heatmap.steps else ():
                writer.write_heatmap(heatmap.steps[-1], heatmap.steps, heatmap.names, heatmap.matrix())


class Heatmap:
    """The update ratios of all tensors over the whole run, thinned out to at most 512 steps.

    Attributes:
        steps: the logged steps, ascending.
        names: the tensors, in model order.
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.names: list[str] = []
        self._columns: list[np.ndarray[Any, np.dtype[np.float32]]] = []
        self._stride, self._seen, self._due = 1, 0, 8

    def add(self, snapshot: Snapshot) -> None:
        """One more column; tensors that are new (unfrozen in mid-run) start the picture anew."""
        if snapshot.names != self.names:
            self.steps, self._columns, self.names = [], [], list(snapshot.names)
        if self._seen % self._stride == 0:
            self.steps.append(snapshot.step)
            self._columns.append(snapshot.column("update_ratio").copy())
        self._seen += 1
        if len(self.steps) > HEATMAP_COLUMNS:
            self.steps, self._columns, self._stride = self.steps[::2], self._columns[::2], self._stride * 2

    def is_due(self) -> bool:
        """True at 8 logged steps, and each time that they have grown by a quarter: about 20 pictures in a run."""
        due = self._seen >= self._due
        if due:
            self._due = self._seen + max(1, self._seen // 4)
        return due

    def matrix(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """float32 [n_tensors, n_steps] of ‖Δθ‖/‖θ‖."""
        return np.stack(self._columns, axis=1)

    def state_dict(self) -> dict[str, Any]:
        """Plain types and one tensor."""
        columns = torch.from_numpy(self.matrix()) if self._columns else torch.zeros(0, 0)
        counters = [self._stride, self._seen, self._due]
        return {
            "steps": list(self.steps),
            "names": list(self.names),
            "columns": columns,
            "counters": counters,
        }

    @classmethod
    def restore(cls, stored: Mapping[str, Any]) -> Heatmap:
        """The inverse of :meth:`state_dict`."""
        heatmap = cls()
        heatmap.steps, heatmap.names = list(stored["steps"]), list(stored["names"])
        heatmap._columns = list(stored["columns"].numpy().T.copy()) if heatmap.steps else []
        heatmap._stride, heatmap._seen, heatmap._due = stored["counters"]
        return heatmap


def _log10(value: float) -> float:
    return math.log10(value) if value > 0 and math.isfinite(value) else math.nan
