"""Writes what the optimizer does to TensorBoard: moments, effective learning rates, and the steps really taken."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from lightning_adam.callbacks._counting import Number, StepCounts, as_scalars, norms
from lightning_adam.callbacks._lightning import (
    StepHooks,
    gradient_scale,
    has_flat_shards,
    has_scaler,
    log_elsewhere,
    log_interval,
    log_step,
    never_raises,
    parameter_names,
    prefixes,
    tensorboard_writers,
    total_gradient_norm,
)
from lightning_adam.callbacks._selection import as_patterns, matching, selected
from lightning_adam.describe import describe_optimizer
from lightning_adam.errors import ConfigError, nearest
from lightning_adam.monitoring.heatmap import Heatmap
from lightning_adam.planning import steps_per_epoch
from lightning_adam.statistics import (
    Before,
    KeptPass,
    Snapshot,
    TensorReading,
    copy_gradients,
    copy_parameters,
    effective_lr_quantiles,
    flat_shards,
    headline,
    is_sharded,
    read_optimizer,
    step_size_quantiles,
    take_sharded_snapshot,
    take_snapshot,
)
from lightning_adam.tensorboard import deep_link, top_tables

FEW_TENSORS = 32
QUANTILES = (0.01, 0.5, 0.99)

Granularity = Literal["model", "group", "parameter"]


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

    With them go, per parameter group, the same (``adam.groups/…``); pooled histograms with their quantiles and a heatmap
    (``adam.dist/…``); what clipping left (``adam.clip/…``) and what the GradScaler skipped (``adam.amp/…``); every tensor's
    quantities (``adam_matrix/…``); and as text the configuration and the tensors that stand out (``adam/top``).

    The weights are bit for bit those of a run without the monitor. Parameters are copied on logged steps only, and only
    where the optimizer's state does not tell the step. Shards (FSDP) are measured where they are and put together by one
    collective per logged step.

    Args:
        every_n_steps: optimizer steps between two logged steps; the trainer's ``log_every_n_steps`` by default.
        tensors: globs of parameter names that also get scalars of their own (``adam.tensors/…``); by default all
            tensors of a model that has at most 32.
        include: globs of the parameter names to look at; all by default.
        exclude: globs of parameter names to leave out.
        granularity: the finest that is written: ``"model"``, ``"group"`` (and the model), or ``"parameter"`` (and both).
        top: how many tensors the tables of ``adam/top`` hold: largest update ratio, largest surprise, smallest step.

    Raises:
        ConfigError: an argument out of range; at the start of training a glob that matches no parameter.
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        tensors: str | Sequence[str] | None = None,
        include: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] | None = None,
        granularity: Granularity = "parameter",
        top: int = 5,
    ) -> None:
        _check(every_n_steps, granularity, top)
        self.every_n_steps, self.granularity, self.top = every_n_steps, granularity, top
        self.tensors, self.include = as_patterns("tensors", tensors), as_patterns("include", include)
        self.exclude = as_patterns("exclude", exclude)
        self._hooks = StepHooks()
        self._names: dict[int, str] = {}
        self._chosen: set[int] | None = None
        self._prefixes: list[str] = []
        self._shards: dict[int, tuple[int, int]] = {}
        self._before: dict[int, Before | None] = {}
        self._kept: dict[int, KeptPass] = {}
        self._norms: dict[int, Tensor] = {}
        self._attempts: dict[int, int] = {}
        self._counts = StepCounts()
        self._heatmaps: dict[str, Heatmap] = {}
        self._latest: dict[str, Snapshot] = {}
        self._told: set[type] = set()

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The optimizers exist and hold their restored state: listen to them."""
        self._trainer = trainer
        self._names = parameter_names(pl_module, trainer.optimizers)
        self._prefixes = prefixes(trainer.optimizers)
        self._choose()
        self._shards, self._kept = {}, {}
        for optimizer in trainer.optimizers if has_flat_shards(trainer) else ():
            self._shards |= flat_shards(optimizer)
        self._attempts.clear()
        for prefix in self._prefixes if has_scaler(trainer) else ():
            self._counts.expect_skips(prefix)
        self._hooks.attach(trainer.optimizers, self._after_step, self._right_before_step)
        self._write_beginning(trainer)

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Gradients are complete and not yet clipped: on a step to be logged, take what is gone after it."""
        self._attempts[id(optimizer)] = self._attempts.get(id(optimizer), 0) + 1
        if self._is_logged(trainer) and self._is_read_here(optimizer):
            self._look_before(trainer, optimizer)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """A step that was attempted and did not happen: the GradScaler skipped it."""
        if has_scaler(trainer):
            self._count_skipped(trainer)
        self._attempts.clear()

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The run is over: write the last pictures and let go of the optimizers."""
        self._hooks.detach()
        self._kept.clear()
        self._write_pictures(trainer)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The run broke (Lightning calls nothing else then): the pictures are wanted all the more."""
        self.on_train_end(trainer, pl_module)

    @override
    def state_dict(self) -> dict[str, Any]:
        """The counters and heatmaps, as plain types and tensors."""
        heatmaps = {prefix: heatmap.state_dict() for prefix, heatmap in self._heatmaps.items()}
        return {**self._counts.state_dict(), "heatmaps": heatmaps}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting from the checkpoint."""
        self._counts.load_state_dict(state_dict)
        self._heatmaps = {prefix: Heatmap.restore(stored) for prefix, stored in state_dict["heatmaps"].items()}

    def _is_logged(self, trainer: Trainer) -> bool:
        every = self.every_n_steps or log_interval(trainer)
        return every > 0 and (log_step(trainer) + 1) % every == 0

    def _choose(self) -> None:
        """Which parameters are looked at: their identities, or None for all."""
        names = self._names.values()
        if self.tensors is not None:
            matching("tensors", self.tensors, names)
        if self.include is None and self.exclude is None:
            self._chosen = None
        else:
            chosen = selected(self.include, self.exclude, names)
            self._chosen = {key for key, name in self._names.items() if name in chosen}

    @never_raises
    def _write_beginning(self, trainer: Trainer) -> None:
        step = log_step(trainer)
        for index, prefix in enumerate(self._prefixes):
            for writer in tensorboard_writers(trainer, prefix):
                writer.write_text(
                    f"{prefix}/config", describe_optimizer(trainer.optimizers[index], steps_per_epoch(trainer)), step
                )
        for writer in tensorboard_writers(trainer, "adam"):
            writer.write_layout(self._prefixes, self.granularity == "parameter" and len(self._names) <= FEW_TENSORS)
            # not ``trainer.log_dir``: that broadcasts, and the other ranks are not here
            rank_zero_info(f"Adam dashboard: tensorboard --logdir {writer.experiment.log_dir}, then open {deep_link()}")

    def _right_before_step(self, index: int, optimizer: Optimizer) -> None:
        if self._is_logged(self._trainer) and self._is_read_here(optimizer):
            self._copy(optimizer)

    @never_raises
    def _copy(self, optimizer: Optimizer) -> None:
        self._before[id(optimizer)] = copy_parameters(optimizer, self._chosen)

    def _is_read_here(self, optimizer: Optimizer) -> bool:
        """Rank zero reads, and under sharding every rank its own shards."""
        return self._trainer.is_global_zero or self._is_cut(optimizer)

    def _is_cut(self, optimizer: Optimizer) -> bool:
        return bool(self._shards) or is_sharded(optimizer)

    @never_raises
    def _look_before(self, trainer: Trainer, optimizer: Optimizer) -> None:
        if getattr(optimizer, "adam_clip", None) is None:
            norm = total_gradient_norm(optimizer, flat_shards=bool(self._shards))
            self._norms[id(optimizer)] = norm / gradient_scale(trainer, optimizer)
        before = self._before.get(id(optimizer))
        if before is not None and not hasattr(optimizer, "adam_rule"):  # in 32 bit there were no gradients yet
            self._before[id(optimizer)] = copy_gradients(optimizer, before, self._chosen)

    def _after_step(self, index: int, optimizer: Optimizer) -> None:
        if id(optimizer) in self._attempts:
            self._attempts[id(optimizer)] -= 1
        self._count(self._prefixes[index], optimizer)
        if id(optimizer) in self._kept:
            self._kept[id(optimizer)].calls += 1
        if self._is_logged(self._trainer) and self._is_read_here(optimizer):
            self._read(index, optimizer)

    @never_raises
    def _read(self, index: int, optimizer: Optimizer) -> None:
        before, kept = self._before.pop(id(optimizer), None), self._kept.pop(id(optimizer), None)
        step, beside = log_step(self._trainer), self._beside(self._prefixes[index], optimizer)
        snapshot = kept.snapshot(step, beside) if kept is not None and before is None else None
        if snapshot is not None and kept is not None:
            self._kept[id(optimizer)] = kept
        else:
            snapshot = self._read_anew(step, optimizer, before, beside)
        if snapshot is not None and self._trainer.is_global_zero:
            self._write(self._prefixes[index], snapshot)

    def _beside(self, prefix: str, optimizer: Optimizer) -> dict[str, Number]:
        """What goes to the host with the table, so that a logged step waits for the device once."""
        measured = norms(prefix, optimizer, self._norms.get(id(optimizer), math.nan))
        return {**measured, **self._counts.totals(prefix)}

    def _read_anew(
        self, step: int, optimizer: Optimizer, before: Before | None, beside: Mapping[str, Number]
    ) -> Snapshot | None:
        """The first time, and whenever something has changed since the last logged step."""
        readings = read_optimizer(optimizer, self._names, before, self._chosen, self._shards)
        if not readings:
            return None
        if self._is_cut(optimizer):
            snapshot = take_sharded_snapshot(step, readings, beside)
        else:
            snapshot = take_snapshot(step, readings, beside)
            if (kept := KeptPass.of(optimizer, self._names, readings, self._chosen)) is not None:
                self._kept[id(optimizer)] = kept
        if self._trainer.is_global_zero:
            self._tell_what_is_missing(optimizer, readings)
        return snapshot

    def _tell_what_is_missing(self, optimizer: Optimizer, readings: Sequence[TensorReading]) -> None:
        kind = getattr(optimizer, "adam_kind", type(optimizer))
        if kind in self._told:
            return
        self._told.add(kind)
        first = any(r.moments is not None and r.moments.first is not None for r in readings)
        second = any(r.moments is not None and r.moments.second is not None for r in readings)
        missing = [name for name, there in (("first moment m", first), ("second moment v", second)) if not there]
        if missing:
            rank_zero_info(
                f"OptimizerMonitor: {kind.__name__} keeps no {' and no '.join(missing)} that lightning-adam can read; what "
                "needs it is NaN. Step sizes, update ratios and gradient norms are measured all the same."
            )

    @never_raises
    def _count(self, prefix: str, optimizer: Optimizer) -> None:
        self._counts.after_step(prefix, optimizer)

    @never_raises
    def _count_skipped(self, trainer: Trainer) -> None:
        for prefix, optimizer in zip(self._prefixes, trainer.optimizers, strict=True):
            skipped = self._attempts.get(id(optimizer), 0)
            self._counts.add_skips(prefix, skipped)
            if skipped and self._is_logged(trainer):
                for writer in tensorboard_writers(trainer, prefix):
                    totals = {tag: float(total) for tag, total in self._counts.totals(prefix).items()}
                    writer.write_scalars(log_step(trainer), totals)

    def _write(self, prefix: str, snapshot: Snapshot) -> None:
        scalars = {f"{prefix}/{name}": value for name, value in headline(snapshot).items()}
        scalars |= as_scalars(snapshot.beside) | _quantiles(prefix, snapshot)
        for group in snapshot.lr if self.granularity != "model" else ():
            values = headline(snapshot, group).items()
            scalars |= {f"{prefix}.groups/{name}/{group}": value for name, value in values}
        for writer in tensorboard_writers(self._trainer, prefix):
            writer.write_snapshot(
                snapshot.step, scalars, snapshot, self._own_scalars(snapshot), matrix=self.granularity == "parameter"
            )
        log_elsewhere(self._trainer, scalars, snapshot.step)
        if self.granularity == "parameter":
            self._remember(prefix, snapshot)

    def _remember(self, prefix: str, snapshot: Snapshot) -> None:
        heatmap = self._heatmaps.setdefault(prefix, Heatmap())
        heatmap.add(snapshot)
        self._latest[prefix] = snapshot
        if heatmap.is_due():
            self._write_pictures(self._trainer)

    def _own_scalars(self, snapshot: Snapshot) -> list[int]:
        """Rows whose quantities are written as scalars too."""
        if self.granularity != "parameter":
            return []
        if self.tensors is not None:
            chosen = matching("tensors", self.tensors, self._names.values())
            return [i for i, name in enumerate(snapshot.names) if name in chosen]
        return list(range(len(snapshot.names))) if len(snapshot.names) <= FEW_TENSORS else []

    @never_raises
    def _write_pictures(self, trainer: Trainer) -> None:
        for prefix, heatmap in self._heatmaps.items():
            for writer in tensorboard_writers(trainer, prefix) if heatmap.steps else ():
                writer.write_heatmap(heatmap.steps[-1], heatmap.steps, heatmap.names, heatmap.matrix())
                if self.top and prefix in self._latest:
                    latest = self._latest[prefix]
                    writer.write_text(f"{prefix}/top", top_tables(latest, self.top), latest.step)


def _check(every_n_steps: Any, granularity: Any, top: Any) -> None:
    if every_n_steps is not None and (type(every_n_steps) is not int or every_n_steps < 1):
        raise ConfigError(
            f"every_n_steps={every_n_steps!r}: give a positive number of optimizer steps, or None for the "
            "trainer's log_every_n_steps."
        )
    known = get_args(Granularity)
    if granularity not in known:
        raise ConfigError(f"granularity={granularity!r}: give one of {known}.{nearest(str(granularity), known)}")
    if type(top) is not int or top < 0:
        raise ConfigError(f"top={top!r}: give how many tensors the tables hold, such as 5; 0 for none.")


def _quantiles(prefix: str, snapshot: Snapshot) -> dict[str, float]:
    """p01, p50 and p99 over all elements of the model, for the margin charts."""
    pooled = {
        "log10_step_size": step_size_quantiles(snapshot, QUANTILES),
        "log10_effective_lr": effective_lr_quantiles(snapshot, QUANTILES),
    }
    return {
        f"{prefix}.dist/{name}_p{round(q * 100):02d}": value
        for name, values in pooled.items()
        for q, value in zip(QUANTILES, values, strict=True)
    }
