"""What is known of an optimizer's health, whichever monitor watches it: the pictures of another one show it."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch.optim import Optimizer

from lightning_adam.diagnosis import Diagnosis, Finding

_DIAGNOSES: WeakKeyDictionary[Optimizer, Diagnosis] = WeakKeyDictionary()


def diagnosed_by(optimizer: Optimizer, diagnosis: Diagnosis) -> None:
    """From now on its findings are those on this optimizer."""
    _DIAGNOSES[optimizer] = diagnosis


def findings_on(optimizer: Optimizer) -> list[Finding] | None:
    """All so far; None where nobody watches it."""
    diagnosis = _DIAGNOSES.get(optimizer)
    return None if diagnosis is None else list(diagnosis.findings)
