"""Says what is wrong before the first step is taken."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from typing_extensions import override

from lightning_adam.diagnosis.finding import SEVERITIES
from lightning_adam.errors import ConfigError, check_choice
from lightning_adam.monitoring.guard import Guard
from lightning_adam.preflight import PreflightReport, preflight
from lightning_adam.preflight.placing import is_sharded


class PreflightError(RuntimeError):
    """Preflight has found something as severe as ``raise_on``; the message is its report."""


class Preflight(Callback):
    """Runs :func:`lightning_adam.preflight` as ``fit`` starts, prints the report, and leaves everything as it was.

    Args:
        raise_on: raise :class:`PreflightError` on a finding of this severity or a graver one.
        budget: seconds at most.

    Attributes:
        report: of the last run; None before it, and where the model is sharded.

    Raises:
        ConfigError: ``raise_on`` is no severity, or the budget is not positive.
    """

    def __init__(self, raise_on: str | None = None, *, budget: float = 60) -> None:
        if raise_on is not None:
            check_choice("raise_on", raise_on, SEVERITIES)
        if isinstance(budget, bool) or not isinstance(budget, (int, float)) or not budget > 0:
            raise ConfigError(f"budget={budget!r}: give seconds, more than 0.")
        self.raise_on, self.budget = raise_on, budget
        self.report: PreflightReport | None = None

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The model is on its device, and its optimizers are there. Of several processes the first one probes."""
        self.report = None
        if getattr(trainer, "fast_dev_run", False) or is_sharded(trainer):
            return
        loader = _loader(trainer)  # by all: the strategy waits for them
        found = self._probed(trainer, pl_module, loader) if trainer.is_global_zero else None
        found = trainer.strategy.broadcast(found)
        if isinstance(found, str):
            raise RuntimeError(f"preflight failed in the first process: {found}")
        self.report = found
        if trainer.is_global_zero:
            console = Console(highlight=False, soft_wrap=False)
            Guard().run("the printed report", console.print, self.report)
        if self.raise_on is not None and self.report is not None and self.report.reaches(self.raise_on):
            raise PreflightError(f"raise_on={self.raise_on!r}:\n{self.report}")

    def _probed(self, trainer: Trainer, module: LightningModule, loader: Any) -> PreflightReport | str:
        """What an exception says is handed to the other processes, which would wait for a report that never comes."""
        try:
            return preflight(module, loader, trainer=trainer, budget=self.budget)
        except Exception as error:
            if trainer.world_size == 1:
                raise
            return f"{type(error).__name__}: {error}"


def _loader(trainer: Trainer) -> Any:
    """As training will read it, with the sampler that the strategy has put in."""
    trainer.fit_loop.setup_data()
    return trainer.train_dataloader
