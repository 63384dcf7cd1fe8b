"""Callbacks for Lightning; they listen and hand over."""

from lightning_adam.callbacks.companions import HessianForSophia, LossForAdamZ, ScheduleFreeModes
from lightning_adam.callbacks.divergence_monitor import DivergenceMonitor
from lightning_adam.callbacks.manual_run import ManualRun
from lightning_adam.callbacks.optimizer_monitor import OptimizerMonitor
from lightning_adam.callbacks.plateau import PlateauWatch
from lightning_adam.callbacks.preflight import Preflight, PreflightError
from lightning_adam.callbacks.run_plan import RunPlan

__all__ = [
    "DivergenceMonitor",
    "HessianForSophia",
    "LossForAdamZ",
    "ManualRun",
    "OptimizerMonitor",
    "PlateauWatch",
    "Preflight",
    "PreflightError",
    "RunPlan",
    "ScheduleFreeModes",
]
