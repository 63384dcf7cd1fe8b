"""What both monitors' callbacks share: they listen to Lightning's Trainer, and hand over to a Monitor."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import Self, override

from lightning_adam.callbacks._lightning import LightningRun, has_scaler, log_hyperparameters
from lightning_adam.diagnosis import Finding
from lightning_adam.errors import ConfigError
from lightning_adam.monitoring import DivergenceOptions, Monitor, MonitorState, Record, StatisticsOptions
from lightning_adam.monitoring.console import print_findings
from lightning_adam.monitoring.guard import Guard


class Outcome:
    """What is left of a monitor after the run: plain data, and no trainer, module, optimizer or batch.

    Attributes:
        state: of the last run, or of the checkpoint that the next one goes on from.
        findings: of the last run, or of that checkpoint.
        failures: what the monitor of the last run could not do.
        has_run: whether a run has begun under it.
        copies: outcomes of the callback's copies.
    """

    def __init__(self) -> None:
        self.state, self.has_run = MonitorState(), False
        self.findings, self.failures = list[Finding](), frozenset[str]()
        self.copies: list[Outcome] = []

    def latest(self) -> Outcome:
        """Its own, or that of the latest copy that has run: some libraries train with a deep copy of what they are given."""
        others = [copied.latest() for copied in reversed(self.copies)]
        return self if self.has_run else next((other for other in others if other.has_run), self)


class MonitorCallback(Callback):
    """Follows one fit at a time.

    Args:
        statistics: what is logged of the optimizers; None for nothing.
        divergence: how the run is diagnosed; None for not at all.
    """

    def __init__(self, statistics: StatisticsOptions | None = None, divergence: DivergenceOptions | None = None) -> None:
        self.statistics, self.divergence = statistics, divergence
        self._monitor: Monitor | None = None
        self._outcome = Outcome()
        self._is_resumed, self._has_backward = False, False

    @property
    def failures(self) -> frozenset[str]:
        """What the monitor could not do, in words; each was told about once."""
        return self._outcome.latest().failures if self._monitor is None else frozenset(self._monitor.guard.failures)

    @property
    def findings(self) -> list[Finding]:
        """All findings so far, in order."""
        return list(self._outcome.latest().findings) if self._monitor is None else self._monitor.findings

    def on_record(self, position: int, record: Record) -> None:
        """Called with each record as the rules see it; does nothing. For subclasses.

        Args:
            position: of the optimizer.
            record: what is known of its run, or one step's signals.
        """

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The optimizers exist: their settings go to the loggers' hyper-parameters, once."""
        callbacks: list[Callback] = getattr(trainer, "callbacks", [self])
        if next(callback for callback in callbacks if isinstance(callback, MonitorCallback)) is self:
            Guard().run("the hyper-parameters", log_hyperparameters, trainer, pl_module)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The optimizers hold their restored state: listen to them."""
        run = LightningRun(trainer, pl_module)
        self._monitor = Monitor(run, self.statistics, self.divergence, self._state_before(trainer), self.on_record)
        self._outcome.has_run = True
        self._monitor.begin()

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember which batch this is."""
        self._has_backward = False
        if self._monitor is not None:
            self._monitor.begin_batch(batch, batch_idx)

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """The loss, before anything that it may spoil."""
        self._has_backward = True
        if self._monitor is not None:
            self._monitor.loss(loss)

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Gradients are complete, unscaled and not yet clipped; or there is no step, for ``training_step`` gave no loss."""
        if self._monitor is None:
            return
        if has_scaler(trainer) and pl_module.automatic_optimization and not self._has_backward:
            self._monitor.forget_losses()
        else:
            self._monitor.before_clipping(optimizer)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """The batch is over: skipped steps, and actions on what was found."""
        if self._monitor is not None:
            self._monitor.after_batch()

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The run is over: write what is left, and let go of everything."""
        monitor, self._monitor = self._monitor, None
        if monitor is None:
            return
        try:
            monitor.end()
        finally:
            self._outcome.state, self._outcome.findings = monitor.state(), monitor.findings
            self._outcome.failures = frozenset(monitor.guard.failures)
            if trainer.is_global_zero:
                print_findings(self._outcome.findings)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The run broke; Lightning calls nothing else then, and the pictures are wanted all the more."""
        self.on_train_end(trainer, pl_module)

    @override
    def state_dict(self) -> dict[str, Any]:
        """Plain types: Lightning loads checkpoints with ``weights_only=True``."""
        return (self._outcome.state if self._monitor is None else self._monitor.state()).to_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lightning restores callbacks before the optimizers exist: taken up in ``on_train_start``."""
        self._outcome.state, self._is_resumed = MonitorState.from_dict(state_dict), True
        self._outcome.findings = self._outcome.state.findings

    def on_after_setup(self, **kwargs: Any) -> None:
        """Fabric's hook.

        Raises:
            ConfigError: Fabric tells its callbacks of no step, so that this one would see nothing.
        """
        raise ConfigError(
            f"{type(self).__name__} listens to Lightning's Trainer; Fabric would never tell it of a step. Write "
            "watch = la.watch(module, optimizer, log_dir=...) after fabric.setup, and watch.loss(loss) before "
            "fabric.backward(loss)."
        )

    def _state_before(self, trainer: Trainer) -> MonitorState:
        """A checkpoint's; where a trainer is told to fit once more, its counters and pictures go on."""
        is_resumed, self._is_resumed = self._is_resumed, False
        if is_resumed:
            return self._outcome.state
        return MonitorState(self._outcome.state.statistics if trainer.global_step else {})

    def __getstate__(self) -> Mapping[str, Any]:
        """Without the run that it follows: a copy follows its own."""
        return {**self.__dict__, "_monitor": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy with an outcome of its own, which the original shows as long as it has none itself."""
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__getstate__(), memo))
        self._outcome.copies.append(copied._outcome)
        return copied
