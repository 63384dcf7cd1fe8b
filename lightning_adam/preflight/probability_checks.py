"""Probabilities, logarithms and logits: what the loss takes, and what it gets."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from lightning_adam.diagnosis import Finding
from lightning_adam.preflight.behaviour import CHANGED
from lightning_adam.preflight.facts import Check, Facts, found
from lightning_adam.preflight.graph_mixing import has_edges
from lightning_adam.preflight.loss_checks import at, is_output
from lightning_adam.preflight.nodes import can_be_read
from lightning_adam.preflight.reach import number
from lightning_adam.preflight.recorder import CLASS_LOSSES, Call, makers, softmax_axis


def double_softmax(facts: Facts) -> Iterator[Finding]:
    """Cross entropy has a softmax of its own."""
    for call in facts.step.record.losses:
        is_of_classes = call.name == "cross_entropy" and call.input.dim() > 1 and call.input.shape[1] > 1
        by = _before_a_temperature(call) if call.made_by in ("Div", "Mul") else _before_a_clamp(call)
        if is_of_classes and (by in ("Softmax", "Sigmoid") or _is_distribution(call.input)):
            yield _double_softmax(call, "Sigmoid" if by == "Sigmoid" else "Softmax")
            return
    squashes = [call for call in facts.step.record.squashes if call.name == "log_softmax"]
    for call in (*squashes, *facts.step.record.normalisers):
        if _before_a_temperature(call) == "Softmax":
            yield _double_softmax(call, "Softmax")
            return


def _before_a_temperature(call: Call) -> str:
    """What made the input, before it was divided by a number or multiplied with one."""
    node = call.input.grad_fn
    is_scaled = (
        call.made_by in ("Div", "Mul") and can_be_read(node) and number(getattr(node, "_saved_other", None)) is not None
    )
    return (*makers(call.input, 2), "", "")[1] if is_scaled else call.made_by


def _double_softmax(call: Call, by: str) -> Finding:
    return found(
        "DOUBLE-SOFTMAX",
        "critical",
        f"{call.name} has a softmax of its own, and gets the output of a {by.lower()}.",
        f"Take the {by.lower()} out and give {call.name} the logits; apply it only when predicting.",
        at(call, fed_by=by.lower()),
    )


def _is_distribution(values: Tensor) -> bool:
    values = values.detach().float()
    if values.numel() == 0 or float(values.min()) < 0:
        return False
    return bool(((values.sum(1) - 1).abs() < 1e-3).all())


def double_sigmoid(facts: Facts) -> Iterator[Finding]:
    """The loss with logits has a sigmoid of its own."""
    for call in _binary_losses_of_logits(facts):
        by = _before_a_clamp(call)
        if by in ("Sigmoid", "Hardsigmoid", "Softmax"):
            yield found(
                "DOUBLE-SIGMOID",
                "critical",
                f"{call.name} has a sigmoid of its own, and gets the output of a {by.lower()}.",
                f"Take the {by.lower()} out and give it the logits; or keep it and use F.binary_cross_entropy.",
                at(call, fed_by=by.lower()),
            )
            return
    for call in facts.step.record.losses:
        last, before = (*makers(call.input, 2), "", "")[:2]
        if call.name == "binary_cross_entropy" and last == "Sigmoid" and before in ("Sigmoid", "Softmax"):
            yield found(
                "DOUBLE-SIGMOID",
                "critical",
                "The net ends in a sigmoid, and another is applied before the loss.",
                "Apply it once; better, none and F.binary_cross_entropy_with_logits.",
                at(call),
            )
            return


def _before_a_clamp(call: Call) -> str:
    """What made the input, before it was kept away from 0 and 1."""
    is_clamped = call.made_by in ("Clamp", "ClampMin", "ClampMax")
    return (*makers(call.input, 2), "", "")[1] if is_clamped else call.made_by


def _binary_losses_of_logits(facts: Facts) -> list[Call]:
    """torch's own, and what is written by hand of log-sigmoids; softplus is a piece of it only where no other loss is."""
    record = facts.step.record
    by_hand = [call for call in record.binary_pieces if call.name != "softplus" or not record.losses]
    return [call for call in record.losses if call.name == "binary_cross_entropy_with_logits"] + by_hand


def needs_log(facts: Facts) -> Iterator[Finding]:
    """Logarithms of probabilities are at most 0, and their exponentials sum to 1."""
    for call in facts.step.record.losses:
        if call.name not in ("nll_loss", "kl_div", "ctc_loss") or not call.input.numel():
            continue
        if _is_log_probability(call):
            continue
        is_probability = call.made_by in ("Softmax", "Sigmoid") or _is_distribution(call.input)
        got = "probabilities" if is_probability else "logits or other numbers"
        yield found(
            "NLL-NEEDS-LOG",
            "critical",
            f"{call.name} needs log-probabilities, and gets {got}.",
            "Use F.log_softmax(logits, dim=...) as its input"
            + ("." if call.name != "nll_loss" else ", or F.cross_entropy(logits, y)."),
            at(call, largest=float(call.input.detach().max())),
        )
        return
    if facts.step.favoured is not None and not facts.step.record.losses:
        yield found(
            "NLL-NEEDS-LOG",
            "critical",
            "The loss is minus the mean probability of the right classes, without the logarithm: what is sure and wrong has "
            "next to no gradient.",
            "F.cross_entropy(logits, y), or -(one_hot * F.log_softmax(logits, dim=1)).sum(1).mean().",
            at(facts.step.favoured),
        )


def _is_log_probability(call: Call) -> bool:
    values = call.input.detach().float()
    if float(values.max()) > 1e-4:
        return False
    if call.name == "kl_div" or values.dim() < 2:
        return True  # of a binary or a flattened distribution the sum is not known
    is_made_so = call.made_by in ("LogSoftmax", "LogSigmoid")
    return is_made_so or _are_log_shares(values, -1 if call.name == "ctc_loss" else 1)


def _are_log_shares(values: Tensor, dim: int) -> bool:
    """Whether the exponentials sum to 1, in half of the places: others may be padding."""
    total = values.detach().float().logsumexp(dim)
    return bool((total.abs() < 0.05).double().mean() >= 0.5)


BETTER = {
    "softmax": "F.log_softmax",
    "sigmoid": "F.logsigmoid",
    "relu": "torch.log(x.clamp_min(1e-8))",
    "sigmoid taken from 1": "F.logsigmoid(-logits)",
    "softmax taken from 1": "the logarithm of what is left, (1 - p).clamp_min(1e-8)",
    "softmax written by hand": "F.log_softmax",
}
"""What a logarithm may be of, and what to write instead."""


def log_of_probability(facts: Facts) -> Iterator[Finding]:
    """-inf as soon as one probability rounds to 0; with an eps or a clamp before it, it does not."""
    for call in facts.step.record.logarithms:
        what = _vanishing_value(call)
        if what:
            yield found(
                "LOG-OF-PROBABILITY",
                "warning",
                f"{call.name} of a {what}: it is -inf, and its gradient NaN, as soon as one value rounds to 0.",
                f"Use {BETTER[what]}, or the loss that takes logits.",
                at(call, smallest=float(call.input.detach().min())),
            )
            return


def _vanishing_value(call: Call) -> str:
    """What the logarithm is of, where that rounds to 0; empty for anything else."""
    last, before = (*makers(call.input, 2), "", "")[:2]
    if call.name != "log1p" and last in ("Softmax", "Sigmoid", "Relu"):
        return last.lower()
    if (call.name == "log1p", last) in ((True, "Neg"), (False, "Rsub")) and before in ("Softmax", "Sigmoid"):
        return f"{before.lower()} taken from 1"
    is_by_hand = call.name != "log1p" and (last, before) == ("Div", "Exp") and call.input.dim() > 1
    return "softmax written by hand" if is_by_hand and _is_distribution(call.input) else ""


def softmax_dim(facts: Facts) -> Iterator[Finding]:
    """Over the samples of the batch. A square matrix of similarities may well be normalised both ways."""
    elsewhere = list(_over_other_axis(facts))
    yield from elsewhere
    if not elsewhere:
        yield from _by_hand_over_samples(facts)
    for call in () if elsewhere else _over_samples(facts):
        shape = call.input.shape
        is_seen = is_output(call, facts) or _has_one_each(facts)
        is_table = len(shape) == 2 and shape[1] != shape[0] and shape[1] > 1 and is_seen
        if is_table or (facts.step.main is None and _is_of_places(call, facts)):
            yield _over_the_batch(call)
            return


def _is_of_places(call: Call, facts: Facts) -> bool:
    """Scores of (batch, places, classes) that no places are weighed by: without ``dim`` torch takes the batch."""
    shape, size = call.input.shape, call.input.numel()
    is_weight = any(w.input.numel() == size for w in facts.step.record.weighted)
    return len(shape) == 3 and shape[0] not in shape[1:] and min(shape) > 1 and not is_weight


def _by_hand_over_samples(facts: Facts) -> Iterator[Finding]:
    """What a logarithm is taken of sums to 1 over the batch, and not over the classes: a softmax written by hand."""
    for call in facts.step.record.logarithms:
        shares = call.input.detach().float()
        is_table = shares.dim() == 2 and shares.shape[0] == facts.step.samples and shares.shape[1] not in (1, len(shares))
        if is_table and bool((shares >= 0).all()) and _sums_to_one(shares, 0) and not _sums_to_one(shares, 1):
            yield found(
                "SOFTMAX-DIM",
                "critical",
                f"{call.name} is taken of shares that sum to 1 over dimension 0, which is the batch: samples compete with "
                "each other.",
                "F.log_softmax(logits, dim=1); by hand, sum over dim=1 with keepdim=True.",
                at(call, shape=str(tuple(call.input.shape)), dim=0),
            )
            return


def _has_one_each(facts: Facts) -> bool:
    """Whether the loss compares one output of each sample with its own target: then samples are no parts of a whole."""
    main = facts.step.main
    is_of_samples = main is not None and main.input.dim() > 0 and main.input.shape[0] == facts.step.samples
    return is_of_samples and bool(facts.step.target) and not has_edges(facts.step.given)


def single_axis(facts: Facts) -> Iterator[Finding]:
    """Weights of several places, each normalised by itself: all are 1. Attention to a single key is a product, and meant."""
    for call in facts.step.record.squashes:
        shape = call.input.shape
        if call.name == "sigmoid" or len(shape) < 3 or shape[softmax_axis(call)] != 1 or max(shape[1:]) < 2:
            continue
        if not any(w.input.numel() == call.input.numel() for w in facts.step.record.weighted):
            yield found(
                "SOFTMAX-DIM",
                "critical",
                f"{call.name} of shape {tuple(shape)} goes over a dimension of one entry: every weight is 1.",
                "Let it go over the dimension whose entries are to be weighed, e.g. dim=1 of (N, T, 1).",
                at(call, shape=str(tuple(shape)), dim=softmax_axis(call)),
            )
            return


def softmax_mixes(facts: Facts) -> Iterator[Finding]:
    """Inside of a net whose samples were seen to hang on each other."""
    call = next(iter(_over_samples(facts)), None)
    if call is not None and facts.behaviour.mixing > CHANGED:
        yield _over_the_batch(call)


def _over_samples(facts: Facts) -> list[Call]:
    """Softmaxes over the dimension of the batch."""
    n = facts.step.samples
    calls = [c for c in facts.step.record.squashes if c.name != "sigmoid" and c.input.dim() > 1 and n > 1]
    return [c for c in calls if softmax_axis(c) == 0 and c.input.shape[0] == n]


def _over_the_batch(call: Call) -> Finding:
    return found(
        "SOFTMAX-DIM",
        "critical",
        f"{call.name} goes over dimension 0, which is the batch: samples compete with each other.",
        f"{call.name}(..., dim=-1), or over the dimension whose entries are to be weighed.",
        at(call, shape=str(tuple(call.input.shape)), dim=0),
    )


def attention_axis(facts: Facts) -> Iterator[Finding]:
    """What a place looks at is weighed by numbers that sum to 1 over the places that look: queries and keys are swapped.

    Only of a square: slots (Locatello et al. 2020) compete for what they look at, and are normalised afterwards.
    """
    for call in facts.step.record.weighted:
        weights, axis = call.input.detach().float(), _summed_axis(call)
        if weights.dim() < 3 or axis is None or _sums_to_one(weights, axis):
            continue
        others = [dim for dim in range(1, weights.dim()) if dim != axis and weights.shape[dim] == weights.shape[axis] > 2]
        if any(_sums_to_one(weights, dim) for dim in others):
            yield found(
                "SOFTMAX-DIM",
                "critical",
                f"Attention weights of shape {tuple(weights.shape)} sum to 1 over the queries, not over the keys that are "
                "weighed.",
                "torch.softmax(scores, dim=-1), with queries in the last dimension but one.",
                at(call, shape=str(tuple(weights.shape)), dim=axis),
            )
            return


def _summed_axis(call: Call) -> int | None:
    """The dimension of the first factor that the product sums over; None where there is no single one."""
    if call.name != "einsum":
        return call.input.dim() - 1
    given, _, result = str(call.options["equation"]).replace(" ", "").partition("->")
    first, _, second = given.partition(",")
    summed = [letter for letter in first if letter in second and letter not in result and letter != "."]
    return first.index(summed[0]) - len(first) + call.input.dim() if len(summed) == 1 else None


def _sums_to_one(weights: Tensor, dim: int) -> bool:
    return bool(((weights.sum(dim) - 1).abs() < 1e-2).double().mean() > 0.5)


def _over_other_axis(facts: Facts) -> Iterator[Finding]:
    """A log-softmax whose exponentials sum to 1 elsewhere than over the classes, such as over time for CTC."""
    for call in facts.step.record.losses:
        if call.name not in ("nll_loss", "ctc_loss") or call.made_by != "LogSoftmax" or call.input.dim() < 2:
            continue
        axis = call.input.dim() - 1 if call.name == "ctc_loss" else 1
        if not _are_log_shares(call.input, axis) and (call.input.dim() > 2 or _is_flattened(call, facts)):
            yield found(
                "SOFTMAX-DIM",
                "critical",
                f"{call.name} has its classes in dimension {axis} of {tuple(call.input.shape)}, and the log_softmax before "
                "it goes over another one: the classes' probabilities do not sum to 1.",
                "F.log_softmax(logits, dim=-1), before any transpose or permute.",
                at(call, shape=str(tuple(call.input.shape)), dim=axis),
            )
            return


def _is_flattened(call: Call, facts: Facts) -> bool:
    """Whether rows are a view of what a log-softmax gave along another dimension; some of its classes may be left out."""
    outputs = [(s.output, softmax_axis(s)) for s in facts.step.record.squashes if s.name == "log_softmax"]
    values = call.input.untyped_storage().data_ptr()
    ours = [out.stride(axis) for out, axis in outputs if out.untyped_storage().data_ptr() == values]
    return bool(ours) and call.input.stride(1) not in ours


def chosen_along_another_axis(facts: Facts) -> Iterator[Finding]:
    """Log-probabilities of the labels are picked by hand along a dimension that the log-softmax did not go over."""
    for call in facts.step.record.chosen:
        axis = call.options.get("dim")
        if call.made_by != "LogSoftmax" or not isinstance(axis, int) or call.input.shape[axis] < 2:
            continue
        if not _are_log_shares(call.input, axis):
            yield found(
                "SOFTMAX-DIM",
                "critical",
                f"gather picks along dimension {axis % call.input.dim()} of {tuple(call.input.shape)}, and the log_softmax "
                "before it goes over another one: the classes' probabilities do not sum to 1.",
                "F.log_softmax(logits, dim=-1), of the dimension that has the classes.",
                at(call, shape=str(tuple(call.input.shape)), dim=axis),
            )
            return


def classes_reshaped(facts: Facts) -> Iterator[Finding]:
    """(N, T, C) viewed as (N, C, T), or (N, C, T) as (N T, C), for cross entropy: the values stay where they are, and
    classes and places are mixed."""
    for call in facts.step.record.rearranged:
        main = facts.step.main
        if main is not None and main.name in CLASS_LOSSES and main.input.shape == call.output.shape:
            one, other = tuple(call.input.shape), tuple(call.output.shape)
            yield found(
                "SOFTMAX-DIM",
                "critical",
                f"{call.name} turns {one} into {other}: it does not move the class dimension, it mixes classes and places.",
                "Use output.transpose(1, 2), or flatten both: output.flatten(0, 1) against y.flatten(); of (N, C, H, W) "
                "output.movedim(1, -1).flatten(0, -2).",
                at(call, before=str(one), after=str(other)),
            )
            return


CHECKS = (
    Check("DOUBLE-SOFTMAX", ("step",), double_softmax),
    Check("DOUBLE-SIGMOID", ("step",), double_sigmoid),
    Check("NLL-NEEDS-LOG", ("step",), needs_log),
    Check("LOG-OF-PROBABILITY", ("step",), log_of_probability),
    Check("SOFTMAX-DIM", ("step",), softmax_dim),
    Check("SOFTMAX-DIM", ("step",), classes_reshaped),
    Check("SOFTMAX-DIM", ("step",), chosen_along_another_axis),
    Check("SOFTMAX-DIM", ("step",), attention_axis),
    Check("SOFTMAX-DIM", ("step",), single_axis),
    Check("SOFTMAX-DIM", ("step", "behaviour"), softmax_mixes),
)
