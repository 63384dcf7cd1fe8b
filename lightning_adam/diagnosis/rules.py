"""All rules: each a pure function of one case (the step, the steps before, the run).

Adding a rule is one function in a ``rules_*`` file and one row here; ``tests/test_every_rule.py`` asks for its examples.
Where a docstring gives "healthy" and "sick" figures, they are of 84 healthy and 184 sick recorded runs.
"""

from __future__ import annotations

from collections.abc import Callable

from lightning_adam.diagnosis import rules_gradients, rules_loss, rules_state, rules_steps
from lightning_adam.diagnosis.finding import Finding
from lightning_adam.diagnosis.history import Case

Rule = Callable[[Case], Finding | None]

LINTS: tuple[Rule, ...] = (rules_state.beta2_low, rules_state.eps_lint, rules_state.warmup_lint)
"""What the configuration alone shows, at the first step."""

RULES: dict[str, Rule] = {
    "NON-FINITE": rules_loss.non_finite,
    "BETA2-LOW": rules_state.beta2_low,
    "SCALER-SKIPS": rules_state.scaler_skips,
    "STATE-LOST": rules_state.state_lost,
    "STATE-CORRUPT": rules_state.state_corrupt,
    "GRAD-NOT-ZEROED": rules_gradients.gradient_not_zeroed,
    "INPUT-SCALE": rules_gradients.input_scale,
    "DECAY-DOMINATES": rules_state.decay_dominates,
    "BF16-STALL": rules_state.bf16_stall,
    "CLIP-ALWAYS": rules_state.clip_always,
    "EPS-HIGH": rules_state.eps_high,
    "GRAD-VANISHING": rules_gradients.gradient_vanishing,
    "LOGIT-GROWTH": rules_gradients.logit_growth,
    "LR-HIGH": rules_steps.lr_high,
    "NO-WARMUP": rules_steps.no_warmup,
    "DEAD-PARAMETER": rules_gradients.dead_parameter,
    "GRAD-EXPLODING": rules_gradients.gradient_exploding,
    "BAD-BATCH": rules_gradients.bad_batch,
    "BETA2-STALE": rules_state.beta2_stale,
    "LR-LOW": rules_steps.lr_low,
    "SCHEDULE-COLLAPSED": rules_steps.schedule_collapsed,
    "OSCILLATION": rules_steps.oscillation,
    "UNUSED-PARAMETER": rules_gradients.unused_parameter,
    "NO-LEARNING": rules_loss.no_learning,
    "PLATEAU": rules_loss.plateau,
    "LOSS-SPIKE": rules_loss.loss_spike,
    "LOSS-DIVERGED": rules_loss.loss_diverged,
}
"""In the order in which causes precede consequences within one step."""

_ROOTS = ("NON-FINITE", "BETA2-LOW", "STATE-LOST", "STATE-CORRUPT", "GRAD-NOT-ZEROED", "INPUT-SCALE", "SCALER-SKIPS")
_LARGE_STEPS = (*_ROOTS, "LR-HIGH", "NO-WARMUP", "BETA2-STALE", "LOGIT-GROWTH")
_ANY = (*_LARGE_STEPS, "BAD-BATCH", "GRAD-EXPLODING", "DECAY-DOMINATES", "DEAD-PARAMETER", "LOSS-DIVERGED", "OSCILLATION")

CAUSES: dict[str, tuple[str, ...]] = {
    "SCALER-SKIPS": ("NON-FINITE",),
    "STATE-CORRUPT": ("STATE-LOST", "BETA2-LOW", "NON-FINITE"),
    "STATE-LOST": ("STATE-CORRUPT", "NON-FINITE"),
    "EPS-HIGH": ("CLIP-ALWAYS", "DEAD-PARAMETER", "GRAD-VANISHING", "LR-HIGH", "NO-WARMUP", "NON-FINITE"),
    "LR-HIGH": (*_ROOTS, "NO-WARMUP", "DECAY-DOMINATES", "LOGIT-GROWTH", "BETA2-STALE"),
    "NO-WARMUP": (*_ROOTS, "LR-HIGH"),
    "LOGIT-GROWTH": _LARGE_STEPS,
    "DECAY-DOMINATES": (*_LARGE_STEPS, "DEAD-PARAMETER"),
    "BETA2-STALE": (*_LARGE_STEPS, "LOSS-DIVERGED"),
    "BAD-BATCH": _ANY,
    "GRAD-EXPLODING": _ANY,
    "DEAD-PARAMETER": (*_LARGE_STEPS, "DECAY-DOMINATES", "NO-LEARNING", "BAD-BATCH", "GRAD-EXPLODING", "LOSS-DIVERGED"),
    "GRAD-VANISHING": (*_LARGE_STEPS, "DEAD-PARAMETER", "NO-LEARNING", "DECAY-DOMINATES", "LOSS-DIVERGED"),
    "OSCILLATION": _ANY,
    "LOSS-SPIKE": _ANY,
    "LOSS-DIVERGED": _ANY,
    "LR-LOW": ("BF16-STALL", "EPS-HIGH", "CLIP-ALWAYS", "SCHEDULE-COLLAPSED", *_ANY),
    "SCHEDULE-COLLAPSED": (*_ROOTS, "LR-HIGH", "NO-WARMUP"),
    "NO-LEARNING": (*_ANY, "LR-LOW", "EPS-HIGH", "CLIP-ALWAYS", "BF16-STALL", "GRAD-VANISHING", "SCHEDULE-COLLAPSED"),
    "PLATEAU": (
        *_ANY,
        "LR-LOW",
        "EPS-HIGH",
        "CLIP-ALWAYS",
        "BF16-STALL",
        "GRAD-VANISHING",
        "SCHEDULE-COLLAPSED",
        "NO-LEARNING",
    ),
}
"""What explains a finding that follows it: it is told under its cause, and makes that critical where it is."""

BETTER: dict[str, tuple[str, ...]] = {
    "BAD-BATCH": ("GRAD-EXPLODING", "BETA2-STALE", "STATE-CORRUPT", "STATE-LOST", "LR-HIGH"),
    "LR-HIGH": ("BETA2-STALE", "STATE-CORRUPT", "STATE-LOST", "GRAD-NOT-ZEROED"),
    "GRAD-EXPLODING": ("BETA2-STALE",),
    "NON-FINITE": ("SCALER-SKIPS",),
    "LOSS-SPIKE": ("LOSS-DIVERGED",),
    "LOSS-DIVERGED": ("BETA2-STALE", "STATE-CORRUPT", "STATE-LOST"),
}
"""What a first diagnosis turns into when the steps after it show more."""
