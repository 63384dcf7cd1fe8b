"""What gradients show: heavy ones, missing ones, ones that were never cleared; and what feeds them."""

from __future__ import annotations

import math

from lightning_adam.diagnosis.finding import Finding
from lightning_adam.diagnosis.history import WINDOW, Case, median
from lightning_adam.diagnosis.wording import loss_clause, percent, rounded

HEAVY = 20
"""Times the median of 50 gradient norms. Healthy: 95th percentile 15; sick: 540 and more."""


def stands_out(case: Case) -> bool:
    """|g| > 20 medians of 50, and the loss at 3 medians too: alone, deep nets near zero loss reach 65 medians."""
    past, now = case.past, case.now
    if (
        len(past.norms) < 20
        or not now.gradient_norm > HEAVY * median(past.norms[-50:])
        or not math.isfinite(now.gradient_norm)
    ):
        return False
    if not math.isfinite(now.loss) or not past.losses:
        return now.gradient_norm > 10 * HEAVY * median(past.norms[-50:])
    usual = median(past.losses[-50:])
    return now.loss > max(3 * usual, 0.05 * abs(past.initial_loss))


def bad_batch(case: Case) -> Finding | None:
    """One heavy gradient in a run that had none before: a batch, not the optimizer. Advice only where clipping held it."""
    past, now = case.past, case.now
    if not stands_out(case) or past.spikes:
        return None
    level = median(past.norms[-50:])
    inputs = _inputs_clause(case)
    held = now.clip_coefficient < 0.5
    return Finding(
        "BAD-BATCH",
        "info" if held else "warning",
        now.step,
        f"batch {now.batch} gave a gradient {now.gradient_norm / level:.3g} times the usual norm{loss_clause(case)}{inputs}"
        f"{'; clipping held it' if held else ''}.",
        {"gradient_norm": now.gradient_norm, "median": level, "loss": now.loss, "batch": now.batch},
        remedy=f"Look at batch {now.batch} (labels, outliers, padding), skip it, or use clip={rounded(2 * level)} "
        "(twice the usual norm).",
        changes={"clip": rounded(2 * level)},
    )


def _inputs_clause(case: Case) -> str:
    if case.now.heavy is None:
        return ""
    usual, largest = median(case.past.recent("input_max", 16)[:-1]), case.now.heavy.input_max
    return f"; its values reach {largest:.3g}, usually {usual:.3g}" if largest > 5 * usual else ""


def gradient_exploding(case: Case) -> Finding | None:
    """Heavy gradients that recur, with usual ones (under 5 medians) between; or that grow for five steps.

    What follows a single bad batch is neither: momentum carries its step on for 2/(1-β₁) steps, so that what stands out
    sooner is still the same batch; and a gradient under a hundredth of the largest is the damaged model's.
    """
    past, now = case.past, case.now
    if not stands_out(case) or not past.spikes:
        return None
    level, gap = median(past.norms[-50:]), past.count - past.spikes[-1]
    first = next(count for count in past.spikes if past.count - count <= WINDOW or count == past.spikes[-1])
    carried = 2 / (1 - now.beta1) if 0 <= now.beta1 < 1 else 20.0
    again = past.count - first >= carried and gap >= 5 and min(past.norms[-(gap - 1) :]) < 5 * level
    lasting = past.spikes[-4:] == list(range(past.count - 4, past.count)) and now.gradient_norm > max(past.norms[-4:])
    if not (again or lasting) or now.gradient_norm < 0.01 * max(past.norms):
        return None
    held = now.clip_coefficient < 0.5
    return Finding(
        "GRAD-EXPLODING",
        "info" if held else "warning",
        now.step,
        f"the gradient norm is {now.gradient_norm:.3g}, {now.gradient_norm / level:.3g} times its usual value, "
        f"for the {len(past.spikes) + 1}th time{loss_clause(case)}.",
        {"gradient_norm": now.gradient_norm, "median": level, "times": len(past.spikes) + 1},
        remedy=f"Use clip={rounded(2 * level)} (twice the usual norm); if targets have outliers, use a robust loss.",
        changes={"clip": rounded(2 * level)},
    )


def gradient_vanishing(case: Case) -> Finding | None:
    """The first weight matrix gets 1e-4 of the last one's gradient, on five passes, while the loss is high.

    Healthy runs keep 3.6e-3 and more (the smallest: embeddings with rare tokens), sick ones have 3.3e-7 and less.
    """
    past, heavy = case.past, case.now.heavy
    if heavy is None or past.count < 9 or not past.lasts("first_last", 5, 4, 0.0, 1e-4) or not case.loss_is_high:
        return None
    return Finding(
        "GRAD-VANISHING",
        "warning",
        case.now.step,
        f"the gradient of {heavy.first_matrix} is {heavy.first_last:.1g} of the last layer's: early layers learn nothing.",
        {"first_last": heavy.first_last, "loss": case.now.loss},
        (heavy.first_matrix,) if heavy.first_matrix else (),
        "Normalise between the layers (LayerNorm, BatchNorm), add residual connections, use ReLU or GELU instead of "
        "sigmoid or tanh, and kaiming initialisation.",
    )


def dead_parameter(case: Case) -> Finding | None:
    """A tensor's gradient is zero in every element, on four passes over nine steps or more, while the loss is high.

    Exact zeros: dead ReLUs, a cut graph, all-zero weights; a warning for half of the weight matrices, advice for fewer (an
    expert that no token chose). Or, over all weight matrices but embeddings, 80 % of the elements (healthy at most 47 %,
    sick nearly all).
    """
    past, heavy = case.past, case.now.heavy
    if heavy is None or past.count < 9 or not case.loss_is_high:
        return None
    whole, most = past.lasts("dead_tensors", 4, 9, 0.5), past.lasts("zero_gradients", 4, 9, 0.8)
    if not (whole or most):
        return None
    name = heavy.zero_gradients_max_in
    return Finding(
        "DEAD-PARAMETER",
        "warning" if most or 2 * heavy.dead_tensors >= case.run.matrices else "info",
        case.now.step,
        f"the gradient of {name} is zero in {percent(heavy.zero_gradients_max)} of its elements, of all weight matrices in "
        f"{percent(heavy.zero_gradients)}{loss_clause(case)}.",
        {"zero_gradients": heavy.zero_gradients, "dead_tensors": heavy.dead_tensors, "loss": case.now.loss},
        (name,) if name else (),
        "Units are dead (ReLU under zero for every example) or the graph is cut (detach, argmax): start again from the "
        "initialisation with smaller biases, LeakyReLU or GELU, and a lower lr if they died on the way.",
    )


def gradient_not_zeroed(case: Case) -> Finding | None:
    """The gradients of the last step were still there, and this step's were added to them; exact, twice in a row."""
    if case.past.unzeroed < 2:
        return None
    return Finding(
        "GRAD-NOT-ZEROED",
        "warning",
        case.now.step,
        f"gradients that were already stepped with are added to again; their norm is {case.now.gradient_norm:.3g}"
        f"{loss_clause(case)}.",
        {"steps": case.past.unzeroed, "gradient_norm": case.now.gradient_norm},
        remedy="Call optimizer.zero_grad() before self.manual_backward(loss) in training_step.",
    )


def unused_parameter(case: Case) -> Finding | None:
    """In the optimizer, trainable, and without a gradient for ten steps in a row; advice: it costs memory, no accuracy."""
    past, now = case.past, case.now
    if past.without_gradient < 10:
        return None
    more = f" and {now.without_gradient - 1} more" if now.without_gradient > 1 else ""
    return Finding(
        "UNUSED-PARAMETER",
        "info",
        now.step,
        f"{now.unused[0] if now.unused else 'a parameter'}{more} never had a gradient in {past.without_gradient} steps.",
        {"without_gradient": now.without_gradient, "steps": past.without_gradient},
        now.unused,
        "Use it in forward, or leave it out of the optimizer (requires_grad_(False)).",
    )


def input_scale(case: Case) -> Finding | None:
    """Inputs or targets far from unit scale, and it shows: rms > 30 or |mean| > 10 standard deviations, with |g| > 30.

    Initialisations assume inputs of unit variance (Glorot & Bengio 2010; He et al. 2015, arXiv:1502.01852). The norm is the
    median of the first five steps: a model that normalises its input itself shows none of it.
    """
    past, heavy = case.past, case.now.heavy
    if past.count != 4 or heavy is None or case.run.scaled or case.run.first_step > 0:
        return None
    rms, offset = median(past.recent("input_rms", 5)), median(past.recent("input_offset", 5))
    norm = median([*past.first_norms, case.now.gradient_norm])
    if not (rms > 30 or offset > 10) or not norm > 30:
        return None
    return Finding(
        "INPUT-SCALE",
        "warning",
        case.now.step,
        f"the batch's values have an rms of {rms:.3g} (mean over standard deviation {offset:.2g}; healthy: about 1 and 0), "
        f"the loss starts at {past.initial_loss:.4g} and the gradient norm at {norm:.3g}.",
        {"input_rms": rms, "input_offset": offset, "loss": past.initial_loss, "gradient_norm": norm},
        remedy="Standardise inputs (and targets of a regression): subtract the mean, divide by the standard deviation.",
    )


def logit_growth(case: Case) -> Finding | None:
    """Watched logits > 100 and five times what they began with; healthy models stay under 17, spikes follow 1000.

    Dehghani et al. 2023 (arXiv:2302.05442); Wortsman et al. 2023 (arXiv:2309.14322).
    """
    past, now = case.past, case.now
    if past.count < 10 or not now.logit_max > max(100.0, 5 * median(past.logits)):
        return None
    lower = rounded(now.lr / 3)
    return Finding(
        "LOGIT-GROWTH",
        "critical" if now.logit_max > 1000 else "warning",
        now.step,
        f"watched logits reach {now.logit_max:.3g}, and began at {median(past.logits):.3g}{loss_clause(case)}.",
        {"logit_max": now.logit_max, "first": median(past.logits), "lr": now.lr},
        remedy=f"Normalise queries and keys (qk-norm), add a z-loss of 1e-4 to output logits, or try lr={lower} "
        f"(now {now.lr:.3g}).",
        changes={"lr": lower},
    )
