"""torchtest2 (Apache-2.0): one batch, one call; it has a plugin for LightningModules."""

from __future__ import annotations

from typing import Any

from tests.benchmarks.preflight.peers.case import Case

REQUIREMENTS = ("torchtest2==0.1.0",)

NAMES = {
    "batch_independence": ("BATCH-MIXING", "SOFTMAX-DIM"),
    "eval_determinism": ("NONDETERMINISTIC",),
    "gradient_flow": ("NO-GRADIENT", "ZERO-GRADIENT", "FROZEN", "DEAD-UNITS"),
    "gradient_magnitude": ("GRAD-EXPLODING",),
    "initial_loss": ("INITIAL-LOSS", "INIT-SCALE"),
    "input_dependency": ("IGNORES-INPUT",),
    "loss": ("NO-GRADIENT",),
    "optimizer_coverage": ("OPTIMIZER-STALE", "OPTIMIZER-MISSES"),
    "output_finite": ("DATA-NONFINITE",),
    "output_varies": ("INPUT-CONSTANT", "IGNORES-INPUT"),
    "overfit_batch": ("CANNOT-OVERFIT", "PROBE-DIVERGES"),
    "params_change": ("UPDATE-LOST", "LR-LOW"),
}
"""What each check says, generously, in the codes of the cases. That the batch is not learnt names no cause."""


def _callable(case: Case) -> bool:
    """Whether the module can be called with what its batch begins with, or with a batch that is a dict."""
    pair = isinstance(case.batch, (list, tuple)) and len(case.batch) == 2
    return case.has_forward and (pair or isinstance(case.batch, dict))


def _options(case: Case) -> dict[str, Any]:
    """As its page tells. Where there are no outputs to compare, the step stands for them.

    A step may draw random numbers, and it takes labels and weights, which need not all matter.
    """
    from torchtest2.plugins.lightning import LightningPlugin

    if not _callable(case):
        return {
            "inputs": case.batch,
            "plugin": LightningPlugin(make_batch=lambda inputs, _: inputs),
            "eval_forward_fn": lambda module, inputs: module.training_step(inputs, 0),
            "batch_dim": None,
            "skip": ("eval_determinism", "input_dependency"),
        }
    if isinstance(case.batch, dict):
        return {"inputs": (case.batch,), "plugin": LightningPlugin(make_batch=lambda inputs, _: inputs[0])}
    return {"inputs": case.batch[0], "targets": case.batch[1], "plugin": LightningPlugin()}


def alarms(case: Case) -> list[str]:
    """Checks that warn or fail; a step that cannot be evaluated without gradients is no fault of the model."""
    from torchtest2 import check_model

    report = check_model(case.automatic().module, optimizer=case.optimizer(), **_options(case))
    ignored = () if _callable(case) else ("forward",)
    return [result.name for result in (*report.failures, *report.warnings) if result.name not in ignored]
