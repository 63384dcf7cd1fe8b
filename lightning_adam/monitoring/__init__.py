"""One object per optimizer that measures, diagnoses, records and acts; asks whoever trains through a small protocol."""

from typing import TYPE_CHECKING

from lightning_adam._lazy import lazy

if TYPE_CHECKING:
    from lightning_adam.monitoring.actions import DivergenceError
    from lightning_adam.monitoring.heatmap import Heatmap
    from lightning_adam.monitoring.monitor import Monitor
    from lightning_adam.monitoring.optimizer_diagnosis import Record
    from lightning_adam.monitoring.options import DivergenceOptions, Granularity, StatisticsOptions
    from lightning_adam.monitoring.run import Plan, Run
    from lightning_adam.monitoring.sink import Sink
    from lightning_adam.monitoring.state import MonitorState

__all__ = [
    "DivergenceError",
    "DivergenceOptions",
    "Granularity",
    "Heatmap",
    "Monitor",
    "MonitorState",
    "Plan",
    "Record",
    "Run",
    "Sink",
    "StatisticsOptions",
]

if not TYPE_CHECKING:  # imported when they are first used: a callback is made long before the first step
    __getattr__ = lazy(
        __name__,
        {
            "DivergenceError": "lightning_adam.monitoring.actions",
            "DivergenceOptions": "lightning_adam.monitoring.options",
            "Granularity": "lightning_adam.monitoring.options",
            "Heatmap": "lightning_adam.monitoring.heatmap",
            "Monitor": "lightning_adam.monitoring.monitor",
            "MonitorState": "lightning_adam.monitoring.state",
            "Plan": "lightning_adam.monitoring.run",
            "Record": "lightning_adam.monitoring.optimizer_diagnosis",
            "Run": "lightning_adam.monitoring.run",
            "Sink": "lightning_adam.monitoring.sink",
            "StatisticsOptions": "lightning_adam.monitoring.options",
        },
    )
