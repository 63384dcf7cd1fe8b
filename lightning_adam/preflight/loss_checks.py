"""What is wrong with how the loss is called."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_adam.diagnosis import Finding
from lightning_adam.preflight.facts import Check, Facts, found
from lightning_adam.preflight.recorder import BINARY_LOSSES, CLASS_LOSSES, SIGNED_LOSSES, VALUE_LOSSES, Call, made_from
from lightning_adam.preflight.step import Step, same_values


def at(call: Call, **evidence: float | str) -> dict[str, float | str]:
    return {**evidence, "at": call.place} if call.place else dict(evidence)


def broadcast(facts: Facts) -> Iterator[Finding]:
    """(N, 1) against (N,) makes (N, N): every prediction is compared with every target."""
    calls = [
        c for c in facts.step.record.losses if c.name in (*VALUE_LOSSES, "gaussian_nll_loss", "poisson_nll_loss", "kl_div")
    ]
    calls += [c for c in facts.step.record.broadcasts if _pairs_all(c, facts.step.samples)]
    for call in calls:
        if call.target is None or call.input.shape == call.target.shape or not call.target.numel():
            continue
        try:
            made = torch.broadcast_shapes(call.input.shape, call.target.shape)  # type: ignore[no-untyped-call]
        except RuntimeError:  # the step raises, and says so itself
            continue
        if made.numel() > max(call.input.numel(), call.target.numel()):
            one, other = tuple(call.input.shape), tuple(call.target.shape)
            yield found(
                "BROADCAST",
                "critical",
                f"{call.name} gets shapes {one} and {other}, which broadcast to {tuple(made)}: every sample is compared "
                "with every "
                "other.",
                "Give both the same shape: pred.squeeze(-1), or y.unsqueeze(-1).",
                at(call, input=str(one), target=str(other)),
            )
            return


def _pairs_all(call: Call, samples: int) -> bool:
    """Of arithmetic only the slip itself: one value per sample, once with and once without a dimension of 1."""
    one, other = call.input, call.target
    if other is None or abs(one.dim() - other.dim()) != 1 or min(one.dim(), other.dim()) == 0:
        return False
    large, small = (one, other) if one.dim() > other.dim() else (other, one)
    if not large.shape[0] == small.shape[0] == samples > 1:
        return False
    return large.shape[-1] == 1 or (_lacks_one(small, large) and not _is_opened(large))


def _lacks_one(small: Tensor, large: Tensor) -> bool:
    """Whether a dimension of 1 behind the first is all that tells their shapes apart, such as a map's single channel."""
    shape = tuple(large.shape)
    return any(shape[k] == 1 and shape[:k] + shape[k + 1 :] == tuple(small.shape) for k in range(1, len(shape)))


def _is_opened(tensor: Tensor) -> bool:
    """Whether the dimension was put in by hand, as ``x[:, None]``: then all pairs are meant."""
    node = tensor.grad_fn
    return tensor._is_view() if node is None else node.name().startswith(("Unsqueeze", "Slice", "Index"))


def double_softmax(facts: Facts) -> Iterator[Finding]:
    """Cross entropy has a softmax of its own."""
    for call in facts.step.record.losses:
        is_of_classes = call.name == "cross_entropy" and call.input.dim() > 1 and call.input.shape[1] > 1
        if is_of_classes and (call.made_by in ("Softmax", "Sigmoid") or _is_distribution(call.input)):
            yield _doubled(call, call.made_by if call.made_by == "Sigmoid" else "Softmax")
            return
    for call in facts.step.record.squashes:
        if call.name == "log_softmax" and call.made_by == "Softmax":
            yield _doubled(call, "Softmax")
            return


def _doubled(call: Call, by: str) -> Finding:
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
    for call in facts.step.record.losses:
        if call.name == "binary_cross_entropy_with_logits" and call.made_by in ("Sigmoid", "Softmax"):
            yield found(
                "DOUBLE-SIGMOID",
                "critical",
                f"{call.name} has a sigmoid of its own, and gets the output of a {call.made_by.lower()}.",
                f"Take the {call.made_by.lower()} out and give it the logits; or keep it and use F.binary_cross_entropy.",
                at(call, fed_by=call.made_by.lower()),
            )
            return
        if (
            call.name == "binary_cross_entropy"
            and call.made_by == "Sigmoid"
            and made_from(call.input) in ("Sigmoid", "Softmax")
        ):
            yield found(
                "DOUBLE-SIGMOID",
                "critical",
                "The net ends in a sigmoid, and another is applied before the loss.",
                "Apply it once; better, none and F.binary_cross_entropy_with_logits.",
                at(call),
            )
            return


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


def _is_log_probability(call: Call) -> bool:
    values = call.input.detach().float()
    if float(values.max()) > 1e-4:
        return False
    if call.name == "kl_div" or values.dim() < 2:
        return True  # of a binary or a flattened distribution the sum is not known
    total = values.logsumexp(-1 if call.name == "ctc_loss" else 1)
    return bool((total.abs() < 0.05).double().mean() > 0.5) or call.made_by == "LogSoftmax" or call.made_by == "LogSigmoid"


def log_of_probability(facts: Facts) -> Iterator[Finding]:
    """-inf as soon as one probability rounds to 0; with an eps or a clamp before it, it does not."""
    for call in facts.step.record.logarithms:
        if call.made_by in ("Softmax", "Sigmoid", "Relu"):
            better = {"Softmax": "F.log_softmax", "Sigmoid": "F.logsigmoid"}.get(
                call.made_by, "torch.log(x.clamp_min(1e-8))"
            )
            yield found(
                "LOG-OF-PROBABILITY",
                "warning",
                f"{call.name} of a {call.made_by.lower()}: it is -inf, and its gradient NaN, as soon as one value "
                "rounds to 0.",
                f"Use {better}, or the loss that takes logits.",
                at(call, smallest=float(call.input.detach().min())),
            )
            return


def softmax_dim(facts: Facts) -> Iterator[Finding]:
    """Over the samples of the batch. A square matrix of similarities may well be normalised both ways."""
    yield from _over_other_axis(facts)
    n = facts.step.samples
    for call in facts.step.record.squashes:
        dim, shape = call.options.get("dim"), call.input.shape
        if call.name == "sigmoid" or not isinstance(dim, int) or len(shape) < 2 or shape[0] != n or n < 2:
            continue
        if dim % len(shape) == 0 and shape[1] != n and shape[1] > 1 and len(shape) == 2 and is_output(call, facts):
            yield found(
                "SOFTMAX-DIM",
                "critical",
                f"{call.name} goes over dimension 0, which is the batch: samples compete with each other.",
                f"{call.name}(..., dim=-1).",
                at(call, shape=str(tuple(shape)), dim=dim),
            )
            return


def _over_other_axis(facts: Facts) -> Iterator[Finding]:
    """A log-softmax whose exponentials sum to 1 elsewhere than over the classes, such as over time for CTC."""
    for call in facts.step.record.losses:
        if call.name not in ("nll_loss", "ctc_loss") or call.made_by != "LogSoftmax" or call.input.dim() < 3:
            continue
        axis = call.input.dim() - 1 if call.name == "ctc_loss" else 1
        total = call.input.detach().float().logsumexp(axis)
        if bool((total.abs() > 0.05).double().mean() > 0.5):
            yield found(
                "SOFTMAX-DIM",
                "critical",
                f"{call.name} has its classes in dimension {axis} of {tuple(call.input.shape)}, and the log_softmax before "
                "it goes over another one: the classes' probabilities do not sum to 1.",
                "F.log_softmax(logits, dim=-1), before any transpose or permute.",
                at(call, shape=str(tuple(call.input.shape)), dim=axis),
            )
            return


def classes_reshaped(facts: Facts) -> Iterator[Finding]:
    """(N, T, C) viewed as (N, C, T) for cross entropy: the values stay where they are, and classes and places are mixed."""
    for call in facts.step.record.rearranged:
        main = facts.step.main
        if main is not None and main.name in CLASS_LOSSES and main.input.shape == call.output.shape and main.input.dim() > 2:
            one, other = tuple(call.input.shape), tuple(call.output.shape)
            yield found(
                "SOFTMAX-DIM",
                "critical",
                f"{call.name} turns {one} into {other}: it does not move the class dimension, it mixes classes and places.",
                "Use output.transpose(1, 2), or flatten both: output.flatten(0, 1) against y.flatten().",
                at(call, before=str(one), after=str(other)),
            )
            return


def is_output(call: Call, facts: Facts) -> bool:
    """Whether the loss, or a hand-written one, gets it; attention over a graph's nodes is inside of the net."""
    main = facts.step.main
    return main is None or main.input.numel() == call.input.numel()


def one_class(facts: Facts) -> Iterator[Finding]:
    """A softmax over one number is always 1."""
    for call in facts.step.record.losses:
        if call.name in CLASS_LOSSES and call.input.dim() > 1 and call.input.shape[1] == 1:
            text = f"{call.name} over a single class is always 0."
        elif (
            call.made_by in ("Softmax", "LogSoftmax")
            and call.input.shape[-1:] == (1,)
            and bool((call.input == call.input.flatten()[0]).all())
        ) or _is_one(call, facts):
            text = "A softmax over a single output is always 1."
        else:
            continue
        yield found(
            "ONE-CLASS",
            "critical",
            text,
            "One output needs F.binary_cross_entropy_with_logits; for a softmax give the last layer one output per class.",
            at(call),
        )
        return


def _is_one(call: Call, facts: Facts) -> bool:
    """After a squeeze the single output is not to be seen any more, but the softmax was."""
    if call.made_by != "Softmax" or not bool((call.input == 1).all()):
        return False
    return any(s.input.shape[s.options.get("dim") or -1] == 1 for s in facts.step.record.squashes if s.name == "softmax")


def label_range(facts: Facts) -> Iterator[Finding]:
    """Classes that the net does not have; binary targets that are neither 0, 1 nor between."""
    main = facts.step.main
    if main is None or main.target is None or not main.target.numel():
        return
    labels = main.target
    if facts.step.target and facts.has("data"):
        labels = torch.cat([t.flatten() for t in facts.data.targets])
    yield from _signs(main, labels)
    if main.name in CLASS_LOSSES and not labels.is_floating_point() and main.input.dim() > 1:
        count = main.input.shape[1]
        kept = labels[labels != main.options.get("ignore_index", -100)]
        low, high = (int(kept.min()), int(kept.max())) if kept.numel() else (0, 0)
        if low < 0 or high >= count:
            yield found(
                "LABEL-RANGE",
                "critical",
                f"Labels reach from {low} to {high}; the net has {count} classes, 0 to {count - 1}.",
                f"Give the last layer {high + 1} outputs, or count the labels from 0."
                if low >= 0
                else "Count the labels from 0.",
                at(main, lowest=low, highest=high, classes=count),
            )
    if main.name in BINARY_LOSSES and (float(labels.min()) < 0 or float(labels.max()) > 1):
        yield found(
            "LABEL-RANGE",
            "critical",
            f"{main.name} needs targets from 0 to 1; these reach from {float(labels.min()):g} to {float(labels.max()):g}.",
            "Map the two labels to 0 and 1; more classes need F.cross_entropy.",
            at(main, lowest=float(labels.min()), highest=float(labels.max())),
        )


def _signs(main: Call, labels: Tensor) -> Iterator[Finding]:
    """Losses of pairs and margins multiply by their target: 0 takes a sample out, and 0 and 1 have no other side."""
    if main.name in SIGNED_LOSSES and not bool((labels.abs() == 1).all()):
        low, high = float(labels.min()), float(labels.max())
        yield found(
            "LABEL-RANGE",
            "critical",
            f"{main.name} needs targets of 1 and -1; these reach from {low:g} to {high:g}.",
            "Map the labels 0 and 1 to -1 and 1: 2 * y - 1.",
            at(main, lowest=low, highest=high),
        )


def wrong_sign(facts: Facts) -> Iterator[Finding]:
    """All of the losses go into the total with a minus; an adversary has others that do not."""
    known = [(c, s) for c, s in zip(facts.step.record.losses, facts.step.slopes, strict=False)]
    if known and all(slope < 0 for _, slope in known) and facts.task.manual is False:
        call, slope = known[-1]
        yield found(
            "WRONG-SIGN",
            "critical",
            f"The loss that is returned falls when {call.name} rises: training would make it worse.",
            "Take the minus out: return the loss itself.",
            at(call, derivative=slope),
        )
    elif facts.step.punished is not None:
        yield found(
            "WRONG-SIGN",
            "critical",
            "The loss makes each move less likely by as much as it is rewarded: the policy climbs down.",
            "Put a minus in front: -(log_prob * reward).mean().",
            at(facts.step.punished),
        )
    elif not known and facts.step.lowered is not None and facts.task.manual is False:
        yield found(
            "WRONG-SIGN",
            "critical",
            "The loss that is returned falls as the log-probabilities do that are written by hand: training makes what was "
            "seen less likely.",
            "Put a minus in front: the mean log-probability is to rise.",
            at(facts.step.lowered),
        )


def subtracted(facts: Facts) -> Iterator[Finding]:
    """An autoencoder's reconstruction, and what is taken off it: a divergence is at least 0 (Kingma and Welling 2014,
    eq. 3), and without its right sign the code runs away."""
    main, rest = facts.step.main, _rest(facts)
    if main is not None and rest < 0 and rest < -0.01 * abs(float(main.output)) and _is_told_again(facts.step):
        yield found(
            "WRONG-SIGN",
            "warning",
            f"What is added to {main.name} of the input itself is {rest:.3g}: a divergence is at least 0, here it is "
            "subtracted.",
            "Add it: KL = -0.5 * (1 + log_var - mean**2 - exp(log_var)) is at least 0.",
            at(main, rest=rest),
        )


def _rest(facts: Facts) -> float:
    """The loss without its one known part; 0 where that is not known."""
    losses, slopes = facts.step.record.losses, facts.step.slopes
    if facts.task.manual or len(losses) != 1 or len(slopes) != 1 or not slopes[0] > 0 or losses[0].output.numel() != 1:
        return 0.0
    return facts.step.loss - slopes[0] * float(losses[0].output)


def _is_told_again(step: Step) -> bool:
    target = step.main.target if step.main is not None and step.target else None
    return target is not None and any(
        given is not None and given.numel() == target.numel() and same_values(given, target) for given in step.trace.asked
    )


CHECKS = (
    Check("BROADCAST", ("step",), broadcast),
    Check("LABEL-RANGE", ("step",), label_range),
    Check("ONE-CLASS", ("step",), one_class),
    Check("DOUBLE-SOFTMAX", ("step",), double_softmax),
    Check("DOUBLE-SIGMOID", ("step",), double_sigmoid),
    Check("NLL-NEEDS-LOG", ("step",), needs_log),
    Check("LOG-OF-PROBABILITY", ("step",), log_of_probability),
    Check("SOFTMAX-DIM", ("step",), softmax_dim),
    Check("SOFTMAX-DIM", ("step",), classes_reshaped),
    Check("WRONG-SIGN", ("step",), wrong_sign),
    Check("WRONG-SIGN", ("step",), subtracted),
)
