"""A logger of which nothing is known but that it takes scalars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_adam.monitoring.sink import Sink


class ScalarSink(Sink):
    """Scalars through ``log_metrics``.

    Args:
        logger: has ``log_metrics(values, step=)``, as Lightning's loggers have.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._logger.log_metrics(dict(values), step=step)
