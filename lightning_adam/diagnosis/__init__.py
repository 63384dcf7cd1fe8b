"""Plain numbers per step in, findings out: knows neither Lightning nor TensorBoard."""

from typing import TYPE_CHECKING

from lightning_adam._lazy import lazy

if TYPE_CHECKING:
    from lightning_adam.diagnosis.codec import decode, encode
    from lightning_adam.diagnosis.engine import Diagnosis, replay
    from lightning_adam.diagnosis.finding import Finding, findings_table
    from lightning_adam.diagnosis.rules import RULES
    from lightning_adam.diagnosis.signals import FirstStepSignals, HeavySignals, NonFinite, RunSignals, StepSignals

__all__ = [
    "RULES",
    "Diagnosis",
    "Finding",
    "FirstStepSignals",
    "HeavySignals",
    "NonFinite",
    "RunSignals",
    "StepSignals",
    "decode",
    "encode",
    "findings_table",
    "replay",
]

if not TYPE_CHECKING:  # imported when they are first used: a callback is made long before the first step
    __getattr__ = lazy(
        __name__,
        {
            "Diagnosis": "lightning_adam.diagnosis.engine",
            "Finding": "lightning_adam.diagnosis.finding",
            "FirstStepSignals": "lightning_adam.diagnosis.signals",
            "HeavySignals": "lightning_adam.diagnosis.signals",
            "NonFinite": "lightning_adam.diagnosis.signals",
            "RULES": "lightning_adam.diagnosis.rules",
            "RunSignals": "lightning_adam.diagnosis.signals",
            "StepSignals": "lightning_adam.diagnosis.signals",
            "decode": "lightning_adam.diagnosis.codec",
            "encode": "lightning_adam.diagnosis.codec",
            "findings_table": "lightning_adam.diagnosis.finding",
            "replay": "lightning_adam.diagnosis.engine",
        },
    )
