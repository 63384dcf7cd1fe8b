"""What gradients show: heavy ones, and ones that fade or die on their way."""

from __future__ import annotations

import math

from lightning_adam.diagnosis.advice import Advice, clip_to, lower_rate
from lightning_adam.diagnosis.case import Case
from lightning_adam.diagnosis.due import HEAVY as HEAVY
from lightning_adam.diagnosis.due import LARGE_LOGIT
from lightning_adam.diagnosis.finding import Finding
from lightning_adam.diagnosis.harm import MOST_DROPPED
from lightning_adam.diagnosis.history import ODD_INPUT, WINDOW, median, spread
from lightning_adam.diagnosis.wording import batch_name, loss_clause, named, number, percent


def stands_out(case: Case) -> bool:
    """|g| > 20 medians of 50, and the loss is out of its noise, too: alone, deep nets near zero loss reach 65 medians.

    Out of its noise: over 3 medians and over the median by 8 robust deviations and 5 % of the first loss. Ten times as much
    where fewer than 20 norms are known.
    """
    past, now = case.past, case.now
    if len(past.norms) < 10 or not math.isfinite(now.gradient_norm) or not now.gradient_norm > HEAVY * case.usual_norm:
        return False
    if not case.usual_norm > 0 or (len(past.norms) < 20 and not now.gradient_norm > 10 * HEAVY * case.usual_norm):
        return False
    if not math.isfinite(now.loss) or not past.losses:
        return now.gradient_norm > 10 * HEAVY * case.usual_norm
    usual, width = case.usual_loss, spread(past.losses[-50:])
    if past.is_signed:
        return now.loss > usual + max(8 * width, 0.5 * case.curve.progress)
    return now.loss > max(3 * usual, usual + 8 * width, 0.05 * past.initial_loss)


def bad_batch(case: Case) -> Finding | None:
    """One heavy gradient in a run that had none before: a batch, not the optimizer. Advice only where clipping held it."""
    past, now = case.past, case.now
    if past.spikes or not stands_out(case) or case.rate_was_raised:
        return None
    held, times = now.clip_coefficient < 0.5, number(now.gradient_norm / max(case.usual_norm, 1e-300))
    advice = _clip_advice(case)
    return Finding(
        "BAD-BATCH",
        "info" if held else "warning",
        now.step,
        f"{batch_name(case)} gave a gradient {times} times the usual norm{loss_clause(case)}{_inputs_clause(case)}"
        f"{'; clipping held it' if held else ''}.",
        {"gradient_norm": now.gradient_norm, "median": case.usual_norm, "loss": now.loss, "batch": now.batch},
        remedy=f"Look at {batch_name(case)} (labels, outliers, padding), or skip it{advice.text}.",
        changes=advice.changes,
    )


def _clip_advice(case: Case) -> Advice:
    """Twice the usual norm; nothing where it is clipped to less already."""
    advice = clip_to(case, 2 * case.usual_norm)
    return Advice(f", or use {advice.text} (twice the usual norm)", advice.changes) if advice.text else advice


def _inputs_clause(case: Case) -> str:
    if case.now.heavy is None:
        return ""
    usual, largest = median(case.past.recent("input_max", 16)[:-1]), case.now.heavy.input_max
    return f"; its values reach {number(largest)}, usually {number(usual)}" if largest > ODD_INPUT * usual else ""


def gradient_exploding(case: Case) -> Finding | None:
    """Heavy gradients that recur, with usual ones (under 5 medians) between; or that grow for five steps.

    What follows a single bad batch is neither: momentum carries its step on for 2/(1-β₁) steps, so that what stands out
    sooner is still the same batch; and a gradient under a hundredth of the largest is the damaged model's.
    """
    past, now = case.past, case.now
    if not past.spikes or not stands_out(case) or case.rate_was_raised or not (_recurs(case) or _grows(case)):
        return None
    if now.gradient_norm < 0.01 * max(past.norms):
        return None
    times = number(now.gradient_norm / max(case.usual_norm, 1e-300))
    advice = _clip_advice(case)
    return Finding(
        "GRAD-EXPLODING",
        "info" if now.clip_coefficient < 0.5 else "warning",
        now.step,
        f"the gradient norm is {number(now.gradient_norm)}, {times} times its usual value; {len(past.spikes) + 1} steps "
        f"stood out so far{loss_clause(case)}.",
        {"gradient_norm": now.gradient_norm, "median": case.usual_norm, "times": len(past.spikes) + 1},
        remedy=f"If targets have outliers, use a robust loss{advice.text}.",
        changes=advice.changes,
    )


def _recurs(case: Case) -> bool:
    past = case.past
    gap = past.count - past.spikes[-1]
    first = next(count for count in past.spikes if past.count - count <= WINDOW or count == past.spikes[-1])
    between = past.norms[-(gap - 1) :]
    return past.count - first >= _momentum_steps(case) and gap >= 5 and min(between, default=math.inf) < 5 * case.usual_norm


def _grows(case: Case) -> bool:
    """For five steps; but not soon after a batch whose values stood out: then the batch is what did it."""
    past = case.past
    if past.spikes[-4:] != list(range(past.count - 4, past.count)):
        return False
    began = next(count for k, count in enumerate(reversed(past.spikes)) if count - 1 != _at(past.spikes, -2 - k))
    follows = past.odd_input >= 0 and began - past.odd_input <= _momentum_steps(case)
    return case.now.gradient_norm > max(past.norms[-4:]) and not follows


def _momentum_steps(case: Case) -> float:
    """Steps over which momentum carries one step on."""
    return 2 / (1 - case.now.beta1) if 0 <= case.now.beta1 < 1 else 20.0


def _at(counts: list[int], index: int) -> int:
    return counts[index] if -index <= len(counts) else -1


def gradient_vanishing(case: Case) -> Finding | None:
    """The first quarter of the weight matrices gets 1e-4 of the last quarter's gradient, on five passes.

    In the order in which the model uses them, and by the best of the early ones: a side branch may be faint. Healthy runs
    keep 3.6e-3 and more (the smallest: embeddings with rare tokens), sick ones have 3.3e-7 and less.
    """
    past, heavy = case.past, case.now.heavy
    if heavy is None or past.count < 9 or not past.lasts("first_last", 5, 4, 0.0, 1e-4) or not case.loss_is_high:
        return None
    return Finding(
        "GRAD-VANISHING",
        "warning",
        case.now.step,
        f"the gradient of {heavy.first_matrix or 'the first layer'} is {heavy.first_last:.1g} of the last layers': early "
        "layers learn nothing.",
        {"first_last": heavy.first_last, "loss": case.now.loss},
        named(heavy.first_matrix),
        "Normalise between the layers (LayerNorm, BatchNorm), add residual connections, use ReLU or GELU instead of "
        "sigmoid or tanh, and kaiming initialisation.",
    )


def dead_parameter(case: Case) -> Finding | None:
    """A tensor's gradient is zero in every element, on four passes over nine steps or more, while the loss is high.

    Exact zeros: dead ReLUs, a cut graph, all-zero weights; a warning for half of the weight matrices, advice for fewer (an
    expert that no token chose). Or, over all weight matrices but embeddings, 80 % of the elements (healthy at most 47 %,
    sick nearly all). Not where Dropout makes the zeros.
    """
    past, heavy = case.past, case.now.heavy
    if heavy is None or past.count < 9 or not case.loss_is_high or case.run.dropout >= MOST_DROPPED:
        return None
    whole, most = past.lasts("dead_tensors", 4, 9, 0.5), past.lasts("zero_gradients", 4, 9, 0.8)
    if not (whole or most):
        return None
    name = heavy.zero_gradients_max_in
    return Finding(
        "DEAD-PARAMETER",
        "warning" if most or 2 * heavy.dead_tensors >= case.run.matrices else "info",
        case.now.step,
        f"the gradient of {name or 'a weight matrix'} is zero in {percent(heavy.zero_gradients_max)} of its elements, of "
        f"all weight matrices in {percent(heavy.zero_gradients)}{loss_clause(case)}.",
        {"zero_gradients": heavy.zero_gradients, "dead_tensors": heavy.dead_tensors, "loss": case.now.loss},
        named(name),
        "Units are dead (ReLU under zero for every example) or the graph is cut (detach, argmax): start again from the "
        "initialisation with smaller biases, LeakyReLU or GELU, and a lower lr if they died on the way.",
    )


def logit_growth(case: Case) -> Finding | None:
    """Watched logits > 100 and five times what they began with; healthy models stay under 17, spikes follow 1000.

    Dehghani et al. 2023 (arXiv:2302.05442); Wortsman et al. 2023 (arXiv:2309.14322).
    """
    past, now = case.past, case.now
    if past.count < 10 or not now.logit_max > max(LARGE_LOGIT, 5 * median(past.logits)) or not math.isfinite(now.logit_max):
        return None
    advice = lower_rate(case)
    return Finding(
        "LOGIT-GROWTH",
        "warning",
        now.step,
        f"watched logits reach {number(now.logit_max)}, and began at {number(median(past.logits))}{loss_clause(case)}.",
        {"logit_max": now.logit_max, "first": median(past.logits), "lr": now.lr},
        remedy="Normalise queries and keys (qk-norm), or add a z-loss of 1e-4 to output logits. " + advice.text,
        changes=advice.changes,
    )
