"""What an optimizer was configured with, as a run's own records tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lightning_adam.diagnosis import RunSignals
from lightning_adam.doctor.configuration import run_signals
from lightning_adam.doctor.evidence import Record
from lightning_adam.tensorboard.reader import RunLog

SHOWN = {
    "optimizer": "optimizer",
    "beta1": "β₁",
    "beta2": "β₂",
    "eps": "ε",
    "weight_decay": "weight decay",
    "schedule": "schedule",
    "warmup": "warmup steps",
    "total_steps": "planned steps",
    "clip": "clip norm",
    "dtype": "weights",
    "state_dtype": "optimizer's state",
    "scaled": "fp16 loss scaling",
    "tensors": "trainable tensors",
}
"""Fields of the recorded configuration, and what a reader calls them."""


def settings(run: RunLog, records: Mapping[str, Sequence[Record]]) -> dict[str, str]:
    """What is known, in words; with the optimizer's prefix where there are several."""
    told: dict[str, str] = {}
    for prefix, recorded in records.items():
        known = next((r for r in recorded if isinstance(r, RunSignals)), None) or run_signals(
            run, prefix, 0, 0, len(records)
        )
        whose = f"{prefix} " if len(records) > 1 else ""
        told |= {f"{whose}{label}": word for field, label in SHOWN.items() if (word := _word(getattr(known, field)))}
    return told


def _word(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:g}"
    return "" if value is None else str(value)
