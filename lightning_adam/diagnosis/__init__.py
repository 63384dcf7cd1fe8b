"""Plain numbers per step in, findings out: knows neither Lightning nor TensorBoard."""

from lightning_adam.diagnosis.codec import decode, encode
from lightning_adam.diagnosis.engine import Diagnosis, replay
from lightning_adam.diagnosis.finding import Finding, findings_table
from lightning_adam.diagnosis.rules import RULES
from lightning_adam.diagnosis.signals import HeavySignals, NonFinite, RunSignals, StepSignals

__all__ = [
    "RULES",
    "Diagnosis",
    "Finding",
    "HeavySignals",
    "NonFinite",
    "RunSignals",
    "StepSignals",
    "decode",
    "encode",
    "findings_table",
    "replay",
]
