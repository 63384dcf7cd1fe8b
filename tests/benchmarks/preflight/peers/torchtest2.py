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


def _options(case: Case) -> dict[str, Any]:
    """As its page tells: a module without ``forward`` has no outputs to compare, so its step stands for them.

    A step may draw random numbers, and it takes labels and weights, which need not all matter.
    """
    if case.has_forward:
        return {}
    return {
        "eval_forward_fn": lambda module, inputs: module.training_step(inputs, 0),
        "batch_dim": None,
        "skip": ("eval_determinism", "input_dependency"),
    }


def alarms(case: Case) -> list[str]:
    """Checks that warn or fail."""
    from torchtest2 import check_model
    from torchtest2.plugins.lightning import LightningPlugin

    pairs = isinstance(case.automatic().batch, (list, tuple)) and len(case.batch) == 2 and case.has_forward
    inputs, targets = case.batch if pairs else ((case.batch,), None)
    plugin = LightningPlugin() if pairs else LightningPlugin(make_batch=lambda inputs, _: inputs[0])
    if not pairs and not case.has_forward:
        inputs, plugin = case.batch, LightningPlugin(make_batch=lambda inputs, _: inputs)
    report = check_model(case.module, inputs, targets, plugin=plugin, optimizer=case.optimizer(), **_options(case))
    return [result.name for result in (*report.failures, *report.warnings)]
