"""The numbers per parameter tensor: what is measured, and how it is summed up."""

from lightning_adam.statistics.headline import headline, histogram_quantiles
from lightning_adam.statistics.quantities import COLUMNS, DIAGNOSTICS, LOG10_EDGES, QUANTITIES
from lightning_adam.statistics.reading import (
    Before,
    TensorReading,
    copy_gradients,
    copy_parameters,
    read_optimizer,
    tensor_names,
)
from lightning_adam.statistics.sharded import flat_shards, is_sharded, take_sharded_snapshot
from lightning_adam.statistics.snapshot import Snapshot, take_snapshot, update_ratios

__all__ = [
    "COLUMNS",
    "DIAGNOSTICS",
    "LOG10_EDGES",
    "QUANTITIES",
    "Before",
    "Snapshot",
    "TensorReading",
    "copy_gradients",
    "copy_parameters",
    "flat_shards",
    "headline",
    "histogram_quantiles",
    "is_sharded",
    "read_optimizer",
    "take_sharded_snapshot",
    "take_snapshot",
    "tensor_names",
    "update_ratios",
]
