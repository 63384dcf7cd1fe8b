"""Trials of tuning tools that diverge: each tool is told in its own way, with the reason.

Optuna's is :class:`~lightning_adam.callbacks.DivergenceMonitor`'s argument ``trial``. For Hyperopt and Ray Tune give the
monitor ``raise_on="critical"`` and decorate the objective.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

from lightning_adam.monitoring import DivergenceError
from lightning_adam.monitoring.stopping import REASON


def hyperopt_objective(objective: Callable[[Mapping[str, Any]], float]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """For ``hyperopt.fmin``: a trial that diverges has failed, and its result says why.

    Example:
        >>> @hyperopt_objective
        ... def objective(arguments):
        ...     return train(LitModel(**arguments))  # with DivergenceMonitor(raise_on="critical")
    """

    @functools.wraps(objective)
    def reporting(arguments: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return {"status": "ok", "loss": float(objective(arguments))}
        except DivergenceError as error:
            return {"status": "fail", REASON: str(error)}

    return reporting


def ray_trainable(
    trainable: Callable[[dict[str, Any]], Any], metric: str = "loss", worst: float = math.inf
) -> Callable[..., None]:
    """For ``ray.tune.Tuner``: a trial that diverges stops at once, with the worst metric and the reason.

    Args:
        trainable: takes the configuration, and reports or returns what Ray Tune expects.
        metric: that is reported.
        worst: what is reported of a trial that diverged; ``-math.inf`` where the metric is to be large.
    """

    @functools.wraps(trainable)
    def reporting(config: dict[str, Any]) -> None:
        from ray import tune

        try:
            trainable(config)
        except DivergenceError as error:
            tune.report({metric: worst, REASON: str(error), "done": True})

    return reporting
