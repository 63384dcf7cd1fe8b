"""The numbers per parameter tensor: what is measured, and how it is summed up."""

from lightning_adam.statistics.headline import headline
from lightning_adam.statistics.quantities import COLUMNS, DIAGNOSTICS, LOG10_EDGES, QUANTITIES
from lightning_adam.statistics.reading import Before, TensorReading, copy_parameters, read_optimizer, tensor_names
from lightning_adam.statistics.snapshot import Snapshot, take_snapshot, update_ratios

__all__ = [
    "COLUMNS",
    "DIAGNOSTICS",
    "LOG10_EDGES",
    "QUANTITIES",
    "Before",
    "Snapshot",
    "TensorReading",
    "copy_parameters",
    "headline",
    "read_optimizer",
    "take_snapshot",
    "tensor_names",
    "update_ratios",
]
