"""The catalogue: one row per optimizer. Libraries are imported when their optimizer is asked for."""

from __future__ import annotations

from lightning_adam.errors import ConfigError, nearest
from lightning_adam.optimizers.rows_bitsandbytes import BITSANDBYTES
from lightning_adam.optimizers.rows_own import OWN
from lightning_adam.optimizers.rows_pytorch_optimizer import PYTORCH_OPTIMIZER
from lightning_adam.optimizers.rows_schedule_free import AVERAGING
from lightning_adam.optimizers.rows_torch import TORCH
from lightning_adam.optimizers.spec import OptimizerSpec, build_optimizer

__all__ = ["OPTIMIZERS", "OptimizerSpec", "available_optimizers", "build_optimizer", "get_optimizer"]


OPTIMIZERS: dict[str, OptimizerSpec] = {
    row.name: row for row in (*TORCH, *BITSANDBYTES, *PYTORCH_OPTIMIZER, *AVERAGING, *OWN)
}


def available_optimizers() -> tuple[OptimizerSpec, ...]:
    """Every optimizer of the catalogue."""
    return tuple(OPTIMIZERS.values())


def get_optimizer(name: str) -> OptimizerSpec:
    """The row of this name.

    Raises:
        ConfigError: there is none; the message has the nearest and all names.
    """
    if not isinstance(name, str) or name not in OPTIMIZERS:
        known = ", ".join(OPTIMIZERS)
        raise ConfigError(f"optimizer={name!r} is not in the catalogue.{nearest(str(name), OPTIMIZERS)} Known: {known}.")
    return OPTIMIZERS[name]
