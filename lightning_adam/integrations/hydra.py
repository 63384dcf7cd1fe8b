"""Hydra's structured configs: :class:`lightning_adam.OptimizerConfig` as OmegaConf can check it.

OmegaConf takes neither Literals, nor unions with classes, nor Mappings; what is chosen here is checked by the helper.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Number = int | float | str | None
"""A duration, or a rate with its unit."""


@dataclass
class OptimizerSchema:
    """The fields of :class:`lightning_adam.OptimizerConfig`, which ``hydra.utils.instantiate`` makes of it::

    ConfigStore.instance().store(group="optim", name="adam", node=OptimizerSchema)
    config = hydra.utils.instantiate(cfg.optim)
    la.configure_optimizers(self, config)
    """

    _target_: str = "lightning_adam.OptimizerConfig"
    optimizer: Any = None
    lr: float | None = None
    betas: tuple[float, ...] | None = None
    eps: Any = None
    weight_decay: float | None = None
    schedule: str | None = None
    warmup: Number = None
    decay: Number = None
    min_lr: Number = None
    total_steps: Number = None
    clip: Any = "default"
    parameters: str | None = None
    param_groups: dict[str, Any] | None = None
    layer_decay: float | None = None
    schedule_options: dict[str, Any] | None = None
    monitor: str = "val_loss"
    mode: str | None = None
    preset: str | None = None
    reset_optimizer: bool = False
    options: dict[str, Any] = field(default_factory=dict)
