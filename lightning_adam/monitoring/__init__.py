"""One object per optimizer that measures, diagnoses, records and acts; asks whoever trains through a small protocol."""

from lightning_adam.monitoring.actions import DivergenceError
from lightning_adam.monitoring.heatmap import Heatmap
from lightning_adam.monitoring.monitor import Monitor
from lightning_adam.monitoring.optimizer_diagnosis import DivergenceOptions, Record
from lightning_adam.monitoring.optimizer_statistics import Granularity, StatisticsOptions
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
