"""The numbers per parameter tensor: what is measured, and how it is summed up."""

from lightning_adam.statistics.headline import effective_lr_quantiles, headline, log10, step_size_quantiles
from lightning_adam.statistics.initial import looks_untrained, most_look_untrained
from lightning_adam.statistics.quantities import COLUMNS, DIAGNOSTICS, LOG10_EDGES, QUANTITIES
from lightning_adam.statistics.reading import (
    Before,
    TensorReading,
    copy_gradients,
    copy_parameters,
    read_optimizer,
    tensor_names,
)
from lightning_adam.statistics.repeated_pass import RepeatedPass
from lightning_adam.statistics.rules_table import RulesPass, RulesTable
from lightning_adam.statistics.sharded import flat_shards, is_sharded, take_sharded_snapshot
from lightning_adam.statistics.snapshot import Snapshot, take_snapshot

__all__ = [
    "COLUMNS",
    "DIAGNOSTICS",
    "LOG10_EDGES",
    "QUANTITIES",
    "Before",
    "RepeatedPass",
    "RulesPass",
    "RulesTable",
    "Snapshot",
    "TensorReading",
    "copy_gradients",
    "copy_parameters",
    "effective_lr_quantiles",
    "flat_shards",
    "headline",
    "is_sharded",
    "log10",
    "looks_untrained",
    "most_look_untrained",
    "read_optimizer",
    "step_size_quantiles",
    "take_sharded_snapshot",
    "take_snapshot",
    "tensor_names",
]
