"""All rules: each a pure function of one case (the step, the steps before, the run).

Adding a rule is one function in a ``rules_*`` file and one row here; ``tests/test_every_rule.py`` asks for its examples.
Where a docstring gives "healthy" and "sick" figures, they are of 84 healthy and 184 sick recorded runs.
"""

from __future__ import annotations

from collections.abc import Callable

from lightning_adam.diagnosis import (
    rules_gradients,
    rules_labels,
    rules_learning,
    rules_loss,
    rules_slow,
    rules_state,
    rules_steps,
    rules_wiring,
)
from lightning_adam.diagnosis.case import Case
from lightning_adam.diagnosis.facts import BY_DESIGN, FACTS
from lightning_adam.diagnosis.finding import Finding

Rule = Callable[[Case], Finding | None]

LINTS: tuple[Rule, ...] = (rules_state.eps_lint,)
"""What the configuration alone shows, at the first step."""

RULES: dict[str, Rule] = {
    "NON-FINITE": rules_loss.non_finite,
    "BETA2-LOW": rules_state.beta2_low,
    "SCALER-SKIPS": rules_state.scaler_skips,
    "STATE-LOST": rules_state.state_lost,
    "STATE-CORRUPT": rules_state.state_corrupt,
    "OPTIMIZER-STALE": rules_wiring.optimizer_stale,
    "OPTIMIZER-MISSES": rules_wiring.optimizer_misses,
    "NO-GRADIENT": rules_wiring.no_gradient,
    "GRAD-NOT-ZEROED": rules_wiring.gradient_not_zeroed,
    "EVAL-MODE": rules_wiring.eval_mode,
    "INPUT-CONSTANT": rules_wiring.input_constant,
    "SORTED": rules_labels.sorted_batches,
    "INPUT-SCALE": rules_wiring.input_scale,
    "DECAY-DOMINATES": rules_state.decay_dominates,
    "BF16-STALL": rules_state.bf16_stall,
    "GRAD-VANISHING": rules_gradients.gradient_vanishing,
    "CLIP-ALWAYS": rules_state.clip_always,
    "LOGIT-GROWTH": rules_gradients.logit_growth,
    "LR-HIGH": rules_steps.lr_high,
    "NO-WARMUP": rules_steps.no_warmup,
    "DEAD-PARAMETER": rules_gradients.dead_parameter,
    "EPS-HIGH": rules_state.eps_high,
    "GRAD-EXPLODING": rules_gradients.gradient_exploding,
    "BAD-BATCH": rules_gradients.bad_batch,
    "BETA2-STALE": rules_state.beta2_stale,
    "LR-LOW": rules_slow.lr_low,
    "SCHEDULE-COLLAPSED": rules_slow.schedule_collapsed,
    "OSCILLATION": rules_steps.oscillation,
    "UNUSED-PARAMETER": rules_wiring.unused_parameter,
    "WRONG-SIGN": rules_loss.wrong_sign,
    "NO-LEARNING": rules_learning.no_learning,
    "PLATEAU": rules_learning.plateau,
    "LOSS-SPIKE": rules_loss.loss_spike,
    "LOSS-DIVERGED": rules_loss.loss_diverged,
}
"""In the order in which causes precede consequences within one step."""

BESIDE = ("SCHEDULE-NEVER-ARRIVES", "ONE-LABEL", "ZERO-GRADIENT", "DUPLICATES")
"""Codes that rules of other names tell, too: what is nearest to theirs."""

OF_A_PASS = frozenset({
    "STATE-LOST", "STATE-CORRUPT", "SORTED", "INPUT-CONSTANT", "INPUT-SCALE", "DECAY-DOMINATES",
    "BF16-STALL", "GRAD-VANISHING", "CLIP-ALWAYS", "EPS-HIGH", "DEAD-PARAMETER", "BETA2-STALE", "LR-LOW", "OSCILLATION",
})  # fmt: skip
"""Rules that have nothing to say of a step without the pass over all tensors: they are not asked there."""

_WIRING = (
    "OPTIMIZER-STALE", "NO-GRADIENT", "ZERO-GRADIENT", "GRAD-NOT-ZEROED", "SORTED", "INPUT-CONSTANT", "DUPLICATES",
    "INPUT-SCALE", "INIT-SCALE", "WRONG-SIGN",
)  # fmt: skip
_ROOTS = ("NON-FINITE", "BETA2-LOW", "STATE-LOST", "STATE-CORRUPT", *_WIRING, "SCALER-SKIPS")
_LARGE_STEPS = (*_ROOTS, "LR-HIGH", "NO-WARMUP", "BETA2-STALE", "LOGIT-GROWTH")
_ANY = (*_LARGE_STEPS, "BAD-BATCH", "GRAD-EXPLODING", "DECAY-DOMINATES", "DEAD-PARAMETER", "LOSS-DIVERGED", "OSCILLATION")
_SLOW = ("BF16-STALL", "GRAD-VANISHING", "CLIP-ALWAYS", "EPS-HIGH", "SCHEDULE-COLLAPSED", "SCHEDULE-NEVER-ARRIVES", "LR-LOW")

CAUSES: dict[str, tuple[str, ...]] = {
    "NON-FINITE": (
        "INPUT-SCALE", "INIT-SCALE", "BETA2-LOW", "STATE-CORRUPT", "STATE-LOST", "GRAD-NOT-ZEROED", "BAD-BATCH", "LR-HIGH",
        "NO-WARMUP", "BETA2-STALE", "LOGIT-GROWTH", "GRAD-EXPLODING", "OSCILLATION", "LOSS-DIVERGED", "WRONG-SIGN",
    ),
    "SCALER-SKIPS": ("NON-FINITE",),
    "ONE-LABEL": ("DUPLICATES", "SORTED"),
    "SORTED": ("DUPLICATES", "INPUT-CONSTANT"),
    "STATE-CORRUPT": ("STATE-LOST", "BETA2-LOW", "NON-FINITE"),
    "STATE-LOST": ("STATE-CORRUPT", "NON-FINITE"),
    "NO-GRADIENT": ("OPTIMIZER-STALE",),
    "ZERO-GRADIENT": tuple(rule for rule in _ANY if rule not in ("NO-GRADIENT", "ZERO-GRADIENT")),
    "UNUSED-PARAMETER": ("OPTIMIZER-STALE", "NO-GRADIENT"),
    "EPS-HIGH": (
        "CLIP-ALWAYS", "DEAD-PARAMETER", "GRAD-VANISHING", "LR-HIGH", "NO-WARMUP", "NON-FINITE", "INPUT-CONSTANT",
        "DUPLICATES",
    ),
    "CLIP-ALWAYS": ("GRAD-VANISHING", "NON-FINITE"),
    "INPUT-SCALE": ("INPUT-CONSTANT", "DUPLICATES"),
    "INIT-SCALE": ("INPUT-SCALE", "WRONG-SIGN", "SYMMETRIC-INIT", "BROADCAST", "LABEL-RANGE"),
    "LR-HIGH": (*_ROOTS, "NO-WARMUP", "DECAY-DOMINATES", "LOGIT-GROWTH", "BETA2-STALE", "BAD-BATCH", "GRAD-EXPLODING"),
    "NO-WARMUP": (*_ROOTS, "LR-HIGH"),
    "LOGIT-GROWTH": _LARGE_STEPS,
    "DECAY-DOMINATES": (*_LARGE_STEPS, "DEAD-PARAMETER"),
    "BETA2-STALE": (*_LARGE_STEPS, "LOSS-DIVERGED", "BAD-BATCH", "GRAD-EXPLODING"),
    "BAD-BATCH": _ANY,
    "GRAD-EXPLODING": _ANY,
    "DEAD-PARAMETER": (*_LARGE_STEPS, "DECAY-DOMINATES", "NO-LEARNING", "BAD-BATCH", "GRAD-EXPLODING", "LOSS-DIVERGED"),
    "GRAD-VANISHING": (*_LARGE_STEPS, "DEAD-PARAMETER", "NO-LEARNING", "DECAY-DOMINATES", "LOSS-DIVERGED", "EVAL-MODE"),
    "OSCILLATION": (*_ANY, "NO-LEARNING"),
    "LOSS-SPIKE": _ANY,
    "LOSS-DIVERGED": tuple(rule for rule in _ANY if rule not in ("NO-GRADIENT", "INPUT-CONSTANT", "DUPLICATES")),
    "SCHEDULE-NEVER-ARRIVES": ("SCHEDULE-COLLAPSED",),
    "LR-LOW": ("EVAL-MODE", *_SLOW, *_ANY),
    "SCHEDULE-COLLAPSED": (*_ROOTS, "LR-HIGH", "NO-WARMUP"),
    "NO-LEARNING": (*sorted(BY_DESIGN), *(rule for rule in _ANY if rule != "OSCILLATION"), *_SLOW),
    "PLATEAU": (*sorted(BY_DESIGN), *_ANY, *_SLOW, "NO-LEARNING"),
}  # fmt: skip
"""What explains a finding that follows it: it is told under its cause, and makes that critical where it is."""
for _rule in ("NO-LEARNING", "PLATEAU", "LR-LOW", "LR-HIGH", "NO-WARMUP", "WRONG-SIGN", "GRAD-VANISHING", "DEAD-PARAMETER"):
    CAUSES[_rule] = (*(fact for fact in FACTS if fact not in BY_DESIGN), *CAUSES.get(_rule, ()))

BETTER: dict[str, tuple[str, ...]] = {
    "ONE-LABEL": ("SORTED",),
    "BAD-BATCH": ("GRAD-EXPLODING", "BETA2-STALE", "STATE-CORRUPT", "STATE-LOST"),
    "LR-HIGH": ("INPUT-SCALE", "BETA2-STALE", "STATE-CORRUPT", "STATE-LOST", "GRAD-NOT-ZEROED", "WRONG-SIGN"),
    "INIT-SCALE": ("INPUT-SCALE", "BF16-STALL"),
    "NO-WARMUP": ("INPUT-SCALE", "GRAD-NOT-ZEROED", "WRONG-SIGN"),
    "GRAD-EXPLODING": ("BETA2-STALE",),
    "DEAD-PARAMETER": ("INPUT-CONSTANT", "DUPLICATES"),
    "NON-FINITE": ("SCALER-SKIPS", "LR-HIGH", "INPUT-SCALE"),
    "LOSS-SPIKE": ("LOSS-DIVERGED",),
    "LOSS-DIVERGED": ("BETA2-STALE", "STATE-CORRUPT", "STATE-LOST", "GRAD-EXPLODING", "LR-HIGH"),
}
"""What a first diagnosis turns into when the steps after it show more."""

_BROKEN = tuple(rule for rule in (*_ANY, "GRAD-VANISHING", "CLIP-ALWAYS") if rule != "WRONG-SIGN")
NEVER_AFTER: dict[str, tuple[str, ...]] = {
    "LR-LOW": _BROKEN,
    "NO-LEARNING": (*_BROKEN, *_SLOW),
    "PLATEAU": (*_BROKEN, *_SLOW, "NO-LEARNING"),
    "OSCILLATION": ("NO-LEARNING", "LR-HIGH", "NO-WARMUP"),
    "BAD-BATCH": ("LR-HIGH", "NO-WARMUP"),
    "GRAD-EXPLODING": ("LR-HIGH", "NO-WARMUP"),
}
"""What a broken run shows for ever: nothing new once one of these was more than information, however long ago."""
