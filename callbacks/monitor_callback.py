"""What both monitors' callbacks share: they listen to Lightning's Trainer, and hand over to a Monitor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from lightning_adam.callbacks._lightning import forget_module, has_scaler, refuse_fabric
from lightning_adam.callbacks.copying import CopiedWithoutRun
from lightning_adam.callbacks.first_step import FirstStepChecks
from lightning_adam.callbacks.outcome import Outcome
from lightning_adam.monitoring.guard import Guard
from lightning_adam.monitoring.state import MonitorState

if TYPE_CHECKING:
    from lightning_adam.diagnosis import Finding
    from lightning_adam.monitoring import DivergenceOptions, Monitor, Record, StatisticsOptions


class MonitorCallback(CopiedWithoutRun, Callback):
    """Follows one fit at a time.

    Args:
        statistics: what is logged of the optimizers; None for nothing.
        divergence: how the run is diagnosed; None for not at all.
    """

    def __init__(self, statistics: StatisticsOptions | None = None, divergence: DivergenceOptions | None = None) -> None:
        self.statistics, self.divergence = statistics, divergence
        self._monitor: Monitor | None = None
        self._outcome, self._first = Outcome(), FirstStepChecks()
        self._has_begun = self._has_backward = False

    @property
    def failures(self) -> frozenset[str]:
        """What the monitor could not do, in words; each was told about once."""
        return self._outcome.latest().failures if self._monitor is None else frozenset(self._monitor.guard.failures)

    @property
    def findings(self) -> list[Finding]:
        """All findings so far, in order."""
        return list(self._outcome.latest().findings) if self._monitor is None else self._monitor.findings

    def on_record(self, position: int, record: Record) -> None:
        """For subclasses: gets the optimizer's position and each record as the rules see it, a run's or one step's."""

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The optimizers exist: their settings go to the loggers' hyper-parameters, once."""
        from lightning_adam.callbacks.trainer_sinks import log_hyperparameters

        if next((c for c in getattr(trainer, "callbacks", ()) if isinstance(c, MonitorCallback)), self) is self:
            Guard().run("the hyper-parameters", log_hyperparameters, trainer, pl_module)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The optimizers hold their restored state: listen to them (ConfigError: a glob that matches no parameter)."""
        self._has_begun = True
        is_there = Guard().run("the whole run", self._make, trainer, pl_module)
        if self.divergence is not None and self.divergence.acts:
            is_there = trainer.strategy.reduce_boolean_decision(is_there)
        if self._monitor is not None:
            self._monitor.begin(is_there)

    def _make(self, trainer: Trainer, pl_module: LightningModule) -> None:
        from lightning_adam.callbacks.lightning_run import LightningRun
        from lightning_adam.monitoring import Monitor

        before = self._outcome.begin(trainer.global_step)
        run = LightningRun(trainer, pl_module, self._outcome.fits_again)
        self._monitor = Monitor(run, self.statistics, self.divergence, before, self.on_record)
        self._first = FirstStepChecks(self._monitor.guard if self.divergence is not None else None)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember which batch this is."""
        if not self._has_begun:  # another callback has added this one in mid-run
            self.on_train_start(trainer, pl_module)
        self._has_backward = False
        if self._monitor is not None:
            self._monitor.begin_batch(batch, batch_idx)
        self._first.begin(trainer, pl_module, batch)

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """The loss, before anything that it may spoil."""
        self._has_backward = True
        if self._monitor is not None:
            self._first.end(trainer, pl_module, self._monitor, loss)
            self._monitor.loss(loss)

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Gradients are complete, unscaled and not yet clipped; or there is no step, for ``training_step`` gave no loss."""
        has_no_loss = not self._has_backward and pl_module.automatic_optimization and has_scaler(trainer)
        if self._monitor is not None:
            self._monitor.forget_losses() if has_no_loss else self._monitor.before_clipping(optimizer)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """The batch is over: skipped steps, and actions on what was found."""
        self._first.stop()
        if self._monitor is not None:
            self._monitor.after_batch()

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The run is over: write what is left, and let go of everything."""
        self._first.stop()
        if (monitor := self._monitor) is not None:
            self._monitor = None
            self._outcome.end(monitor, trainer.is_global_zero)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The run broke; Lightning calls nothing else then, and the pictures are wanted all the more."""
        from lightning_adam.monitoring.stopping import raise_again

        self.on_train_end(trainer, pl_module)
        forget_module(self)
        raise_again(exception, self.divergence)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing comes any more: hold nothing of the run."""
        self._has_begun = False
        forget_module(self)

    @override
    def state_dict(self) -> dict[str, Any]:
        """Plain types: Lightning loads checkpoints with ``weights_only=True``."""
        if self._monitor is not None:
            self._monitor.guard.run("its state in a checkpoint", self._outcome.keep, self._monitor)
        return self._outcome.state.to_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lightning restores callbacks before the optimizers exist: taken up in ``on_train_start``."""
        self._outcome.resume(MonitorState.from_dict(state_dict))

    def on_after_setup(self, **kwargs: Any) -> None:
        """Fabric's hook: it tells its callbacks of no step, so that this one would see nothing (ConfigError)."""
        refuse_fabric(self)
