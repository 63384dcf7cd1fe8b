"""What is connected wrongly: gradients that do not arrive or are never cleared, layers in the wrong mode, inputs."""

from __future__ import annotations

import math

from lightning_adam.diagnosis.case import Case
from lightning_adam.diagnosis.finding import Finding
from lightning_adam.diagnosis.history import PASSES, median
from lightning_adam.diagnosis.theory import FAR_INPUT, LARGE_INPUT, TINY_INPUT
from lightning_adam.diagnosis.wording import loss_clause, number

ZERO_GRAD = {
    "automatic": "Lightning clears gradients itself: your optimizer_zero_grad override (or a hook of a callback) does not.",
    "manual": "Call optimizer.zero_grad() before self.manual_backward(loss) in training_step.",
}
"""By who trains."""


FLAT = {
    "start": "Look between the model and the loss for round(), sign(), argmax() or a clamp, for weights that are all zero, "
    "and for ReLUs that are under zero for every example.",
    "died": "Units have died or saturated: look for a sigmoid or softmax before a logarithm, a clamp, and ReLUs under zero "
    "for every example; restart from a checkpoint before this step with a lower lr.",
    "adversary": "The other network is sure of everything: use a loss that does not saturate (for a generator "
    "F.softplus(-logits) instead of log(1 - D)), and let the other one learn more slowly.",
}
"""What makes a loss flat."""
SPREADLESS = 1e4
"""|mean|/standard deviation of what is one number but for its rounding."""
DIFFERS = 1e-3
"""Relative difference of two batches' rms: of the same rows it is none."""


def gradient_not_zeroed(case: Case) -> Finding | None:
    """The gradients of the last step were still there, and this step's were added to them; exact, twice in a row."""
    if case.past.unzeroed < 2:
        return None
    return Finding(
        "GRAD-NOT-ZEROED",
        "warning",
        case.now.step,
        "gradients that were already stepped with are added to again; their norm is "
        f"{number(case.now.gradient_norm)}{loss_clause(case)}.",
        {"steps": case.past.unzeroed, "gradient_norm": case.now.gradient_norm},
        remedy=ZERO_GRAD.get(case.run.mode, "Call optimizer.zero_grad() before loss.backward()."),
    )


def optimizer_stale(case: Case) -> Finding | None:
    """The optimizer holds tensors that are not the model's and get no gradient, and the model's own are in no optimizer.

    Three steps in a row; exact. It happens where a layer is replaced, or a model copied, after the optimizer was made.
    """
    run, past = case.run, case.past
    if not run.strangers or not run.left_out or past.without_gradient < 3 or case.now.without_gradient < run.strangers:
        return None
    return Finding(
        "OPTIMIZER-STALE",
        "critical" if run.strangers >= run.tensors else "warning",
        case.now.step,
        f"{number(run.strangers)} of the optimizer's tensors are not the model's and never had a gradient, and no optimizer "
        f"has {_some(run.left_out)} of the model.",
        {"strangers": run.strangers, "tensors": run.tensors},
        run.left_out,
        "Make the optimizer after the model is complete (after layers are replaced, copied or moved), from "
        "model.parameters().",
    )


def optimizer_misses(case: Case) -> Finding | None:
    """Parameters of the model are trainable and get gradients, and no optimizer has them; a fact, told at the first step.

    Information where they may have been trained before: then it is a way to keep them. Where a layer is as its
    initialisation left it, between sharp edges (``lightning_adam.statistics.looks_untrained``), a suspicion that a slow loss
    confirms.
    """
    run = case.run
    if case.past.count > 0 or run.position > 0 or run.strangers or not run.missed:
        return None
    return Finding(
        "OPTIMIZER-MISSES",
        "warning" if run.misses_untrained else "info",
        case.now.step,
        f"{_some(run.missed)} of the model have gradients, and no optimizer has them: they stay as "
        f"{'they were initialised' if run.misses_untrained else 'they are'}.",
        {"tensors": len(run.missed)},
        run.missed,
        "Pass model.parameters() to the optimizer; what is to stay as it is, freeze with requires_grad_(False), which saves "
        "the time of its gradients.",
    )


def no_gradient(case: Case) -> Finding | None:
    """No parameter has any gradient, five steps in a row.

    Where all gradients are there and exactly zero, ten steps in a row and before the loss is learnt, it is
    ``ZERO-GRADIENT``: the loss is connected to the model, and flat.
    """
    run, past, now = case.run, case.past, case.now
    if _are_zero(case):
        return _zero_gradient(case)
    if not (past.without_gradient >= 5 and now.without_gradient >= run.tensors > 0):
        return None
    return Finding(
        "NO-GRADIENT",
        "critical",
        now.step,
        "no parameter of the optimizer has a gradient: the loss is not connected to the model, and nothing is learnt.",
        {"without_gradient": now.without_gradient, "tensors": run.tensors},
        now.unused,
        "Return the loss that the model computed: no torch.tensor(loss), .item(), .detach() or no_grad() on its way, and no "
        "zero_grad() between backward and step; requires_grad must be True.",
    )


def _are_zero(case: Case) -> bool:
    """By their norm, and by each element where a pass has looked: squares of what is under 1e-23 are zero in float32.

    A margin that every example keeps gives zeros, too, and a loss that is learnt.
    """
    past = case.past
    zero = case.now.gradient_norm == 0 and len(past.norms) >= 9 and not any(past.norms[-9:])
    return zero and case.loss_is_high and all(share == 1 for share in past.recent("zero_gradients", 1))


def _zero_gradient(case: Case) -> Finding:
    """From the start it is the loss call; later something has died or saturated, against an adversary mostly."""
    died = any((*case.past.norms, *case.past.first_norms))
    cause = "adversary" if died and case.run.optimizers > 1 else "died" if died else "start"
    return Finding(
        "ZERO-GRADIENT",
        "warning" if died else "critical",
        case.now.step,
        f"all gradients {'have become' if died else 'are'} exactly zero{loss_clause(case)}: nothing is learnt.",
        {"gradient_norm": 0.0, "loss": case.now.loss},
        remedy=FLAT[cause],
    )


def unused_parameter(case: Case) -> Finding | None:
    """In the optimizer, trainable, and without a gradient for ten steps in a row.

    Advice for a few: they cost memory, no accuracy. Of a quarter of all tensors it may be why nothing is learnt.
    """
    past, now = case.past, case.now
    if past.without_gradient < 10 or now.without_gradient >= case.run.tensors > 0:
        return None
    more = f" and {now.without_gradient - 1} more" if now.without_gradient > 1 else ""
    return Finding(
        "UNUSED-PARAMETER",
        "warning" if now.without_gradient >= 0.25 * max(4, case.run.tensors) else "info",
        now.step,
        f"{now.unused[0] if now.unused else 'a parameter'}{more} never had a gradient in {past.without_gradient} steps.",
        {"without_gradient": now.without_gradient, "steps": past.without_gradient},
        now.unused,
        "Use it in forward (a detach() or no_grad() may cut it off), or leave it out of the optimizer.",
    )


def eval_mode(case: Case) -> Finding | None:
    """Layers that are trained stand in eval mode: BatchNorm keeps its old statistics, Dropout drops nothing; a fact.

    Some mean it so; a suspicion, which a loss that gets nowhere confirms. A warning where BatchNorm has no statistics yet:
    nobody trains so on purpose, and the layer does nothing.
    """
    run = case.run
    if case.past.count > 0 or not run.eval_modules:
        return None
    idle = f"; BatchNorm that never saw a batch normalises nothing there: {_some(run.idle_norms)}" if run.idle_norms else ""
    return Finding(
        "EVAL-MODE",
        "warning",
        case.now.step,
        f"layers that are trained stand in eval mode: {_some(run.eval_modules)}{idle}.",
        {"modules": len(run.eval_modules)},
        run.eval_modules,
        "Call model.train() before training (models of libraries often come in eval mode); keep eval() for frozen parts.",
    )


def input_constant(case: Case) -> Finding | None:
    """All examples of the batch are the same, on four passes over nine steps or more; of whole rows it is ``DUPLICATES``."""
    past, heavy = case.past, case.now.heavy
    if heavy is None or past.count < 9 or not past.lasts("input_change", 4, 9, -1.0, 1e-12) or _reads_no_batch(case):
        return None
    if _repeats_one_row(case):
        return _one_row(case)
    return Finding(
        "INPUT-CONSTANT",
        "warning",
        case.now.step,
        f"all examples of a batch have the same inputs (largest value {number(heavy.input_max)}){loss_clause(case)}.",
        {"input_change": heavy.input_change, "input_max": heavy.input_max},
        remedy="Look at the data set and its transforms: one example for all, values cut off, or all of them zero.",
    )


def _reads_no_batch(case: Case) -> bool:
    """The batch is all zeros, and the first layer is given something else: an environment's states, a graph that the module
    holds."""
    largest = max(case.past.recent("input_max", PASSES), default=math.nan)
    return largest == 0 and case.past.first_given > TINY_INPUT


def _repeats_one_row(case: Case) -> bool:
    """Batches differ from each other, and in each the targets are one as well."""
    past = case.past
    scales, targets = past.recent("input_rms", 4), past.recent("target_offset", 4)
    has_one_target = past.lasts("target_classes", 4, 9, 0.5, 1.5) or (bool(targets) and min(targets) > SPREADLESS)
    return has_one_target and max(scales, default=0.0) > (1 + DIFFERS) * min(scales, default=math.inf)


def _one_row(case: Case) -> Finding:
    return Finding(
        "DUPLICATES",
        "warning",
        case.now.step,
        f"each batch is one example, again and again: inputs and targets of all its rows are the same{loss_clause(case)}.",
        {"input_change": 0.0},
        remedy="Look at the index in the data set's __getitem__, and at what collate_fn and the sampler repeat.",
    )


def input_scale(case: Case) -> Finding | None:
    """Inputs or targets far from unit scale: rms > 30, or |mean| > 10 standard deviations with |g| > 30.

    Initialisations assume inputs of unit variance (Glorot & Bengio 2010; He et al. 2015, arXiv:1502.01852). Inputs as the
    first weight matrix is given them: a model may normalise before it. At the fifth step by the median of the first five;
    sooner where the loss is gone by then. Later, and whatever |g|, where they have saturated the first layer. Or inputs so
    small, rms < 0.01, that biases drown them.
    """
    past, heavy, run = case.past, case.now.heavy, case.run
    if heavy is None or run.scaled or run.first_step > 0:
        return None
    if past.count == 4 and 0 < median(past.recent("layer_rms", PASSES)) < TINY_INPUT:
        return _tiny_inputs(case)
    rms, offset = _scale(case)
    norm = median([*past.first_norms, *([case.now.gradient_norm] if math.isfinite(case.now.gradient_norm) else [])])
    shows = (norm > 30 or rms > LARGE_INPUT) and (past.count == 4 or (past.count < 4 and _is_gone(case)))
    if not (rms > LARGE_INPUT or offset > FAR_INPUT) or not (shows or _saturates(case)):
        return None
    first = past.initial_loss if past.losses else case.now.loss
    subject, what = (
        ("the targets have", "targets")
        if _only_targets_are_off(case)
        else ("the model is given values with", "inputs (and targets of a regression)")
    )
    return Finding(
        "INPUT-SCALE",
        "warning" if case.now.non_finite is None else "critical",
        case.now.step,
        f"{subject} an rms of {number(rms)} (mean over standard deviation {number(offset, 2)}; "
        f"healthy: about 1 and 0), the loss starts at {number(first, 4)} and the gradient norm at {number(norm)}.",
        {"input_rms": rms, "input_offset": offset, "loss": first, "gradient_norm": norm},
        remedy=f"Standardise {what}: subtract the mean, divide by the standard deviation.",
    )


def _only_targets_are_off(case: Case) -> bool:
    """What the first layer is given was seen, and is near unit scale."""
    rms, offset = (median(case.past.recent(f"layer_{of}", PASSES)) for of in ("rms", "offset"))
    return rms <= LARGE_INPUT and not offset > FAR_INPUT


def _tiny_inputs(case: Case) -> Finding:
    rms = median(case.past.recent("layer_rms", PASSES))
    return Finding(
        "INPUT-SCALE",
        "warning",
        case.now.step,
        f"the model is given values with an rms of {number(rms)} (healthy: about 1): its biases drown them.",
        {"input_rms": rms},
        remedy="Standardise inputs: subtract the mean, divide by the standard deviation.",
    )


def _saturates(case: Case) -> bool:
    """Squashed by its own inputs, the first layer gets a thousandth of the last layers' gradient, on five passes."""
    past = case.past
    known = bool(past.recent("layer_rms", PASSES))
    return known and past.count >= 9 and past.lasts("first_last", 5, 4, -1.0, 1e-3) and case.loss_is_high


def _is_gone(case: Case) -> bool:
    """Within its first steps: not finite, over a hundred times its start, or a step of ten times the weights."""
    exploded = bool(case.past.losses) and case.now.loss > 100 * abs(case.past.losses[0])
    return case.now.non_finite is not None or exploded or case.past.early_ratio > 10


def _scale(case: Case) -> tuple[float, float]:
    """rms and offset of inputs and targets; of the whole batch where nobody saw what the first layer is given."""
    past = case.past
    seen = past.recent("layer_rms", PASSES)
    names = ("layer", "target") if seen else ("input",)
    usual = median if past.count >= 4 else _smallest  # of fewer batches, one with an outlier is no scale
    rms = [usual(past.recent(f"{name}_rms", PASSES)) for name in names]
    offset = [usual(past.recent(f"{name}_offset", PASSES)) for name in names]
    return _largest(rms), _largest(offset)


def _smallest(values: list[float]) -> float:
    return min(values, default=math.nan)


def _largest(values: list[float]) -> float:
    return max((value for value in values if not math.isnan(value)), default=math.nan)


def _some(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
