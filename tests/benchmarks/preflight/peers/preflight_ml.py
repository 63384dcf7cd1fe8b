"""preflight-ml (MIT): data, one forward pass, one backward pass."""

from __future__ import annotations

from typing import Any

from torch import nn

from tests.benchmarks.preflight.parts import Learner
from tests.benchmarks.preflight.peers.case import Case

REQUIREMENTS = ("preflight-ml==0.1.1",)

NAMES = {
    "class_imbalance": ("IMBALANCE", "ONE-LABEL"),
    "duplicate_samples": ("DUPLICATES",),
    "gradient_check": ("NO-GRADIENT", "ZERO-GRADIENT", "GRAD-EXPLODING", "FROZEN", "DEAD-UNITS"),
    "nan_inf_detection": ("DATA-NONFINITE",),
    "normalisation_sanity": ("INPUT-SCALE", "TARGET-SCALE", "INPUT-CONSTANT"),
    "shape_mismatch": (),
}
"""What each check says, generously, in the codes of the cases."""


def _net_and_loss(case: Case) -> tuple[nn.Module | None, Any]:
    """It takes a net of one tensor, and a loss of output and target; without them it looks at the data."""
    if not isinstance(case.module, Learner):
        return None, None
    return case.module, case.module.loss_of


def alarms(case: Case) -> list[str]:
    """Checks that are fatal or warn; those that broke say nothing (it names them by their function, ``check_…``)."""
    from preflight import Severity, run_checks

    model, loss = _net_and_loss(case)
    results = run_checks(case.loader, model=model, loss_fn=loss)
    failed = [result for result in results if not result.passed and result.severity is not Severity.INFO]
    return [result.name for result in failed if not result.name.startswith("check_")]
