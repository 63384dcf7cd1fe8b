"""One call to set up any Adam-family optimizer in Lightning, and the numbers and diagnoses that show what it does."""

from lightning_adam.clipping import ClipAdaptive, ClipNorm, ClipPercentile, ClipValue, ZClip
from lightning_adam.config import OptimizerConfig
from lightning_adam.configure import configure_optimizers
from lightning_adam.describe import describe, plot_schedule
from lightning_adam.diagnosis import Finding
from lightning_adam.errors import ConfigError, LightningAdamWarning
from lightning_adam.optimizers import available_optimizers

__version__ = "0.1.0"

__all__ = [
    "ClipAdaptive",
    "ClipNorm",
    "ClipPercentile",
    "ClipValue",
    "ConfigError",
    "Finding",
    "LightningAdamWarning",
    "OptimizerConfig",
    "ZClip",
    "__version__",
    "available_optimizers",
    "configure_optimizers",
    "describe",
    "plot_schedule",
]
