"""What an optimizer was configured with, as a run's own records tell."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from lightning_adam.diagnosis import RunSignals
from lightning_adam.doctor.evidence import Record
from lightning_adam.tensorboard.configuration import CONFIG, configured
from lightning_adam.tensorboard.reader import RunLog

SHOWN = {
    "optimizer": "optimizer",
    "lr": "configured learning rate",
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
        whose = f"{prefix} " if len(records) > 1 else ""
        known = next((r for r in recorded if isinstance(r, RunSignals)), None)
        words = _words(known, SHOWN) if known is not None else _written(run, prefix)
        told |= {f"{whose}{label}": word for label, word in words.items()}
    return told


def _written(run: RunLog, prefix: str) -> dict[str, str]:
    """In OptimizerMonitor's table, which does not tell the types; nothing where there is none."""
    texts = run.texts.get(prefix + CONFIG, [])
    known = configured(texts[-1][1].decode(errors="replace")) if texts else None
    return _words(known, SHOWN.keys() - {"dtype", "scaled", "tensors"}) if known is not None else {}


def _words(known: RunSignals, fields: Collection[str]) -> dict[str, str]:
    return {SHOWN[field]: word for field in SHOWN if field in fields and (word := _word(getattr(known, field)))}


def _word(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:g}"
    return "" if value is None else str(value)
