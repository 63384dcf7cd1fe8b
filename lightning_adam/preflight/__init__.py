"""What can be known of a run before it starts."""

from lightning_adam.preflight.report import PreflightReport
from lightning_adam.preflight.run import preflight

__all__ = ["PreflightReport", "preflight"]
