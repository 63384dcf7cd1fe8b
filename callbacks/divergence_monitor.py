"""Watches every optimizer step, and says what is wrong while there is still something to save."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from lightning_adam.callbacks.monitor_callback import MonitorCallback
from lightning_adam.callbacks.validation import ValidationLosses
from lightning_adam.diagnosis.finding import findings_table
from lightning_adam.monitoring import DivergenceOptions


class DivergenceMonitor(MonitorCallback):
    """Names what makes a run diverge, with the evidence and what to change; once per sickness.

    Looks at loss, gradient norm, clipping and finiteness at every step, and at all tensors (update ratios, moments against
    their bounds, zeros, rounding, …) on each of the first ten, on every 20th, and when a gradient stands out. Findings go to
    the console, to TensorBoard's text tab (``adam/findings``), to ``adam/findings_total`` and ``adam_events``; the signals
    themselves to ``adam_signals``, from which ``lightning-adam doctor`` repeats the diagnosis; and the last 200 steps to a
    file in the log folder when something critical happens. What the module logs as validation's loss (``val_loss``,
    ``valid/loss``, …) tells it what is learnt by heart. It changes nothing, unless asked to:

    Args:
        on_divergence: ``warn`` only tells. ``stop`` ends the run on a critical finding, with a checkpoint saved.
            ``skip_step`` leaves out steps whose gradient is not finite or 100 times the usual one. ``rollback`` goes back to
            the last good weights and moments on a critical finding (it keeps two copies), and lowers the learning rate to
            30 %. ``reduce_lr`` only lowers it, on a warning already. Each is told as a finding, and the same on all ranks.
        max_actions: at most so many of them.
        raise_on: raise :class:`DivergenceError` on a finding of this severity or a graver one: for tests and CI.
        trial: an Optuna trial: a critical finding raises ``optuna.TrialPruned``.
        every_n_steps: steps between two passes over all tensors.
        logits: globs of module names whose largest |output| is watched (attention scores, the head).
        ignore: codes that are not told, such as ``["LR-LOW", "DEAD-PARAMETER:experts.*"]`` (a glob of parameter names).

    Attributes:
        findings: all findings so far (:class:`lightning_adam.Finding`), in order; those of ``ddp_spawn`` and ``ddp_fork``
            when the run is over.

    Raises:
        ConfigError: an argument is not allowed; the message has the nearest right spelling.
    """

    def __init__(
        self,
        on_divergence: str = "warn",
        *,
        max_actions: int = 3,
        raise_on: str | None = None,
        trial: Any = None,
        every_n_steps: int = 20,
        logits: Sequence[str] = (),
        ignore: Sequence[str] = (),
    ) -> None:
        options = DivergenceOptions(on_divergence, max_actions, raise_on, trial, every_n_steps, logits, ignore)
        super().__init__(divergence=options)
        self._validation = ValidationLosses()

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As every monitor; and what the check before training has shown of validation."""
        super().on_train_start(trainer, pl_module)
        self._validation.begin(self._monitor)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What was logged before it is none of its own."""
        self._validation.start(trainer)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Its loss, where the module logs one, goes to the rules."""
        self._validation.take(trainer, self._monitor)

    def summary(self) -> str:
        """All findings as a Markdown table."""
        return findings_table(self.findings)
