"""For the user's own tests."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from lightning_adam.preflight import PreflightReport, preflight


def assert_trains(
    module: Any, data: Any, *, trainer: Any = None, budget: float = 60, allow: Collection[str] = (), **plain: Any
) -> PreflightReport:
    """Fail a test where preflight finds more than advice.

    Args:
        module: a LightningModule; or an ``nn.Module``, with its ``loss`` and ``optimizer``.
        data: its loader or datamodule.
        trainer: whose settings hold.
        budget: seconds.
        allow: codes that may be found, such as ``{"IMBALANCE"}``.
        plain: ``loss`` and ``optimizer`` of an ``nn.Module``, as :func:`lightning_adam.preflight` takes them.

    Returns:
        The report.

    Raises:
        AssertionError: a warning or worse that is not allowed, or a training step that raises; the message is the report.
    """
    report = preflight(module, data, trainer=trainer, budget=budget, **plain)
    grave = [f.rule for f in report.findings if f.severity != "info" and f.rule not in allow]
    if grave or report.raised:
        raise AssertionError(f"{', '.join([*filter(None, [report.raised]), *grave])}\n{report}")
    return report
