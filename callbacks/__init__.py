"""The callbacks: they listen to Lightning, ask the rooms below, and hand over the result."""

from lightning_adam.callbacks.divergence_monitor import DivergenceMonitor
from lightning_adam.callbacks.optimizer_monitor import OptimizerMonitor

__all__ = ["DivergenceMonitor", "OptimizerMonitor"]
