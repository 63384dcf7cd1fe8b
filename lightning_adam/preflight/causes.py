"""One sickness is one finding: what a graver cause explains is not told beside it."""

from __future__ import annotations

from collections.abc import Iterable

from lightning_adam.diagnosis import Finding

LEARNING = ("CANNOT-OVERFIT", "NO-SIGNAL", "PROBE-DIVERGES", "LR-HIGH", "NO-WARMUP", "LR-LOW")
STARTING = ("INITIAL-LOSS", "GRAD-EXPLODING", "GRAD-VANISHING", "DEAD-UNITS", "ZERO-GRADIENT")
OUTPUT = (
    "INITIAL-LOSS",
    "IGNORES-INPUT",
    "ZERO-GRADIENT",
    "CANNOT-OVERFIT",
    "NO-SIGNAL",
    "UPDATE-LOST",
    "DEAD-UNITS",
    "GRAD-VANISHING",
)

EXPLAINS: dict[str, tuple[str, ...]] = {
    "DATA-NONFINITE": (*LEARNING, *STARTING, "UPDATE-LOST", "NO-GRADIENT"),
    "INPUT-CONSTANT": (
        "IGNORES-INPUT",
        "DUPLICATES",
        "DEAD-UNITS",
        "ZERO-GRADIENT",
        *LEARNING,
        "INPUT-SCALE",
        "GRAD-VANISHING",
    ),
    "INPUT-SCALE": (*STARTING, *LEARNING, "INIT-SCALE", "IGNORES-INPUT", "UPDATE-LOST", "CLIP-ALWAYS"),
    "TARGET-SCALE": ("INITIAL-LOSS", "GRAD-EXPLODING", *LEARNING, "CLIP-ALWAYS"),
    "LABEL-RANGE": (*LEARNING, "INITIAL-LOSS"),
    "SORTED": ("ONE-LABEL", "IMBALANCE", *LEARNING),
    "DUPLICATES": ("IGNORES-INPUT", "DEAD-UNITS", "ZERO-GRADIENT", "ONE-LABEL", *LEARNING),
    "ONE-LABEL": ("IMBALANCE", *LEARNING),
    "IGNORED": (*LEARNING, "ZERO-GRADIENT", "DATA-NONFINITE"),
    "BROADCAST": ("WRONG-SIGN", "CANNOT-OVERFIT", "NO-SIGNAL", "BATCH-MIXING", "INITIAL-LOSS", "IGNORES-INPUT"),
    "DOUBLE-SOFTMAX": ("CANNOT-OVERFIT", "NO-SIGNAL", "INITIAL-LOSS", "LR-LOW", "LOG-OF-PROBABILITY", "GRAD-VANISHING"),
    "DOUBLE-SIGMOID": ("CANNOT-OVERFIT", "NO-SIGNAL", "INITIAL-LOSS", "GRAD-VANISHING"),
    "NLL-NEEDS-LOG": ("WRONG-SIGN", "CANNOT-OVERFIT", "NO-SIGNAL", "DOUBLE-SOFTMAX", "PROBE-DIVERGES"),
    "LOG-OF-PROBABILITY": ("PROBE-DIVERGES",),
    "ONE-CLASS": (*OUTPUT, "DOUBLE-SOFTMAX", "DOUBLE-SIGMOID", "LABEL-RANGE", "NO-GRADIENT", "OUTPUT-RANGE"),
    "SOFTMAX-DIM": (
        "ZERO-GRADIENT",
        "BATCH-MIXING",
        "NOT-CAUSAL",
        "CANNOT-OVERFIT",
        "NO-SIGNAL",
        "NLL-NEEDS-LOG",
        "INITIAL-LOSS",
        "DOUBLE-SOFTMAX",
    ),
    "OUTPUT-RANGE": ("TARGET-SCALE", "CANNOT-OVERFIT", "NO-SIGNAL", "INITIAL-LOSS", "DEAD-UNITS", "DATA-NONFINITE"),
    "RELU-LOGITS": ("CANNOT-OVERFIT", "DEAD-UNITS", "NO-SIGNAL"),
    "WRONG-SIGN": ("PROBE-DIVERGES", "LR-HIGH", "CANNOT-OVERFIT", "NO-SIGNAL"),
    "LOSS-IS-SUM": ("GRAD-EXPLODING", "LR-HIGH", "PROBE-DIVERGES", "CLIP-ALWAYS"),
    "OPTIMIZER-STALE": ("OPTIMIZER-MISSES", "UPDATE-LOST", "CANNOT-OVERFIT", "GRAD-NOT-ZEROED"),
    "NOT-REGISTERED": ("CANNOT-OVERFIT", "NO-SIGNAL"),
    "FROZEN": ("CANNOT-OVERFIT", "NO-SIGNAL", "NO-GRADIENT"),
    "EVAL-MODE": (),
    "SYMMETRIC-INIT": (*OUTPUT, "NO-GRADIENT", *LEARNING, "INIT-SCALE"),
    "INIT-SCALE": (*STARTING, *LEARNING, "IGNORES-INPUT", "UPDATE-LOST"),
    "DEAD-UNITS": ("ZERO-GRADIENT", "IGNORES-INPUT", "CANNOT-OVERFIT", "NO-SIGNAL", "GRAD-VANISHING", "INITIAL-LOSS"),
    "GRAD-EXPLODING": (*LEARNING, "INITIAL-LOSS", "CLIP-ALWAYS"),
    "GRAD-VANISHING": ("UPDATE-LOST", "CANNOT-OVERFIT", "NO-SIGNAL", "LR-LOW", "IGNORES-INPUT", "ZERO-GRADIENT"),
    "GRAD-NOT-ZEROED": ("LR-HIGH", "PROBE-DIVERGES"),
    "BATCH-MIXING": ("IGNORES-INPUT", "CANNOT-OVERFIT", "NO-SIGNAL"),
    "IGNORES-INPUT": ("CANNOT-OVERFIT", "NO-SIGNAL", "ZERO-GRADIENT", "UPDATE-LOST", "GRAD-VANISHING"),
    "SCHEDULE-COLLAPSED": ("LR-LOW", "UPDATE-LOST"),
    "SCHEDULE-NEVER-ARRIVES": ("LR-LOW", "UPDATE-LOST"),
    "EPS-HIGH": ("UPDATE-LOST", "LR-LOW"),
    "LR-HIGH": ("NO-WARMUP", "PROBE-DIVERGES"),
    "NO-GRADIENT": ("ZERO-GRADIENT",),
}
"""A cause's code to the codes of its symptoms; causes stand before what they explain."""


def without_symptoms(findings: Iterable[Finding]) -> list[Finding]:
    """The causes, gravest first; only what is more than ``info`` explains."""
    left = list(findings)
    for cause, symptoms in EXPLAINS.items():
        if any(f.rule == cause and f.severity != "info" for f in left):
            left = [f for f in left if f.rule == cause or f.rule not in symptoms]
    return sorted(left, key=lambda f: ("critical", "warning", "info").index(f.severity))
