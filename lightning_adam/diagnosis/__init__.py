"""Plain numbers per step in, findings out: knows neither Lightning nor TensorBoard."""

from lightning_adam.diagnosis.engine import Diagnosis
from lightning_adam.diagnosis.finding import Finding, findings_table
from lightning_adam.diagnosis.rules import RULES
from lightning_adam.diagnosis.signals import History, NonFinite, StepSignals

__all__ = ["RULES", "Diagnosis", "Finding", "History", "NonFinite", "StepSignals", "findings_table"]
