"""Where numbers, pictures and words go: one file per kind of logger, known by what it can do."""

from lightning_adam.sinks.hyperparameters import merged_hyperparameters
from lightning_adam.sinks.kinds import sink_of, sinks_of

__all__ = ["merged_hyperparameters", "sink_of", "sinks_of"]
