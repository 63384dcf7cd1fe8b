"""Callbacks for Lightning; they listen and hand over."""

from typing import TYPE_CHECKING

from lightning_adam._lazy import lazy

if TYPE_CHECKING:
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

if not TYPE_CHECKING:  # imported when they are first used: a callback is made long before the first step
    __getattr__ = lazy(
        __name__,
        {
            "DivergenceMonitor": "lightning_adam.callbacks.divergence_monitor",
            "HessianForSophia": "lightning_adam.callbacks.companions",
            "LossForAdamZ": "lightning_adam.callbacks.companions",
            "ManualRun": "lightning_adam.callbacks.manual_run",
            "OptimizerMonitor": "lightning_adam.callbacks.optimizer_monitor",
            "PlateauWatch": "lightning_adam.callbacks.plateau",
            "Preflight": "lightning_adam.callbacks.preflight",
            "PreflightError": "lightning_adam.callbacks.preflight",
            "RunPlan": "lightning_adam.callbacks.run_plan",
            "ScheduleFreeModes": "lightning_adam.callbacks.companions",
        },
    )
