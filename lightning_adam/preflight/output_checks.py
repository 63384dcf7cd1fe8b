"""What is wrong with the output that the loss gets: its last activation, its range, its size at the start."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn
from torch.nn import functional as F

from lightning_adam.diagnosis import Finding
from lightning_adam.preflight.facts import Check, Facts, found
from lightning_adam.preflight.loss_checks import at, is_output
from lightning_adam.preflight.reach import reach_of
from lightning_adam.preflight.recorder import BINARY_LOSSES, CLASS_LOSSES, VALUE_LOSSES, Call, makers
from lightning_adam.preflight.value_pairs import value_pairs

ONE_SIDED = ("Relu", "Softplus", "Abs", "Exp", "Gelu", "Silu")
"""Last layers that give no, or hardly any, number below 0."""
FLOORS = ("ClampMin", "Clamp", "Threshold", "Hardtanh")
"""Last layers that may cut off at 0: where they do, many numbers are exactly that."""
SLACK = 0.05


def relu_logits(facts: Facts) -> Iterator[Finding]:
    """Logits need both signs."""
    fed = [c for c in facts.step.record.losses if c.name in ("cross_entropy", "binary_cross_entropy_with_logits")]
    fed += [c for c in facts.step.record.squashes if is_output(c, facts) and facts.step.main is not None]
    by_hand = [c for c in facts.step.record.normalisers if not facts.step.record.losses and c.input.dim() == 2]
    for call in [*(fed if _feeds_classes(facts) else ()), *by_hand]:
        if _is_one_sided(call):
            what = "ReLU" if call.made_by == "Relu" else call.made_by.lower()
            yield found(
                "RELU-LOGITS",
                "warning",
                f"A {what} stands between the last layer and {call.name}: no logit can be below 0.",
                "Take the last activation out.",
                at(call),
            )
            return


def _is_one_sided(call: Call) -> bool:
    if call.made_by in ONE_SIDED:
        return True
    values = call.input.detach()
    return call.made_by in FLOORS and float(values.min()) == 0 and float((values == 0).double().mean()) > 0.1


def _feeds_classes(facts: Facts) -> bool:
    main = facts.step.main
    return main is not None and main.name in (*CLASS_LOSSES, *BINARY_LOSSES)


def bounded_logits(facts: Facts) -> Iterator[Finding]:
    """Between -1 and 1 no class of C gets more than e² : (e² + C - 1), and the loss stays above what that leaves; cosines
    are multiplied by a scale first (Wang et al. 2017, eq. 5)."""
    for call in facts.step.record.losses:
        floor = _floor(call) if call.made_by == "Tanh" else 0.0
        if floor > 0.2:
            yield found(
                "OUTPUT-RANGE",
                "warning",
                f"A tanh stands between the last layer and {call.name}: no loss can be below {floor:.2g}.",
                "Take the last activation out.",
                at(call, floor=floor),
            )
            return


def _floor(call: Call) -> float:
    """The least loss of logits between -1 and 1."""
    if call.name == "binary_cross_entropy_with_logits":
        return math.log(1 + math.exp(-1))
    is_of_classes = call.name == "cross_entropy" and call.input.dim() > 1
    return math.log(1 + (call.input.shape[1] - 1) * math.exp(-2)) if is_of_classes else 0.0


def output_range(facts: Facts) -> Iterator[Finding]:
    """The last layer cannot give what the targets ask."""
    for call in facts.step.record.losses:
        if call.name == "binary_cross_entropy":
            yield from _not_probabilities(call)
    for pair in value_pairs(facts):
        low, high = pair.reach
        out = float(((pair.target < low - SLACK) | (pair.target > high + SLACK)).double().mean())
        if out > 0.01:
            said = f"{low:.3g} to {high:.3g}" if math.isfinite(high) else f"{low:.3g} or more"
            reach: dict[str, float | str] = {"lowest": float(pair.target.min()), "highest": float(pair.target.max())}
            yield found(
                "OUTPUT-RANGE",
                "warning",
                f"The net ends in a {pair.made_by.lower()} and gives {said}; {out:.0%} of the targets lie outside.",
                "Take the last activation out, or scale the targets into its range.",
                {"outside": out} | reach | (at(pair.call) if pair.call else {}),
            )
            return


def shares_for_several_labels(facts: Facts) -> Iterator[Finding]:
    """A softmax's outputs sum to 1, and samples have more labels than one: they cannot all be near 1."""
    for call in facts.step.record.losses:
        target = call.target
        if call.name != "binary_cross_entropy" or call.made_by != "Softmax" or target is None or target.dim() != 2:
            continue
        several = float((target.sum(1) > 1.5).double().mean())
        if several > 0.1:
            yield found(
                "OUTPUT-RANGE",
                "warning",
                f"The net ends in a softmax, whose outputs sum to 1, and {several:.0%} of the samples have more than one "
                "label.",
                "A sigmoid for each label: F.binary_cross_entropy_with_logits(logits, y), without the softmax.",
                at(call, several=several),
            )
            return


def _not_probabilities(call: Call) -> Iterator[Finding]:
    low, high = float(call.input.detach().min()), float(call.input.detach().max())
    if low < 0 or high > 1:
        yield found(
            "OUTPUT-RANGE",
            "critical",
            f"binary_cross_entropy needs values from 0 to 1, and gets {low:.3g} to {high:.3g}.",
            "Use F.binary_cross_entropy_with_logits, which takes the net's output as it is.",
            at(call, low=low, high=high),
        )


def rate_for_its_logarithm(facts: Facts) -> Iterator[Finding]:
    """``poisson_nll_loss`` takes the logarithm of the rate unless it is told otherwise, and any number may be one."""
    for call in facts.step.record.losses:
        takes_log = call.name == "poisson_nll_loss" and call.options.get("log_input", True) is not False
        if takes_log and call.made_by in ("Exp", "Softplus", "Relu"):
            yield found(
                "OUTPUT-RANGE",
                "warning",
                f"poisson_nll_loss takes the rate's logarithm, and gets the output of a {call.made_by.lower()}: no rate "
                "below 1 can be told.",
                "log_input=False for a rate; or take the last activation out.",
                at(call),
            )
            return


LINEAR = ("Addmm", "Convolution", "Mm")
"""What last layers are to autograd, where no activation follows."""


def logarithm_of_output(facts: Facts) -> Iterator[Finding]:
    """Of what a linear layer gives: below 0 there is none, and a clamp that keeps it above has no gradient there."""
    rates = [c for c in facts.step.record.losses if c.name == "poisson_nll_loss" and c.options.get("log_input") is False]
    for call in (*rates, *facts.step.record.logarithms):
        lost = float((call.input.detach() <= 0).double().mean()) if call.input.numel() else 0.0
        if call.made_by in LINEAR and call.name != "log1p" and bool((call.input < 0).any()):
            yield found(
                "OUTPUT-RANGE",
                "critical",
                f"{call.name} takes the logarithm of what a linear layer gives, and {lost:.0%} of that is below 0.",
                "Put the activation in that keeps the output positive: a softplus or exp for a rate, a sigmoid or softmax "
                "for probabilities; better, the loss that takes the layer's output as it is.",
                at(call, below=lost),
            )
            return


def clamped_for_activation(facts: Facts) -> Iterator[Finding]:
    """A clamp to (0, 1) in the place of a sigmoid: what it cuts has no gradient."""
    losses = [call for call in facts.step.record.losses if call.name == "binary_cross_entropy"]
    for call in (*losses, *facts.step.record.logarithms):
        (low, high), made = reach_of(call.input), (*makers(call.input, 2), "", "")[:2]
        values = call.input.detach()
        cut = float(((values <= low) | (values >= high)).double().mean()) if values.numel() else 0.0
        if 0 <= low < 0.1 and 0.9 < high <= 1 and made[0].startswith("Clamp") and made[1] in LINEAR:
            yield found(
                "OUTPUT-RANGE",
                "critical",
                f"A clamp to {low:.1g} and {high:.3g} makes probabilities of what a linear layer gives, and has no gradient "
                f"for what it cuts ({cut:.0%} of the first batch).",
                "F.binary_cross_entropy_with_logits(output, y), which has its sigmoid inside.",
                at(call, cut=cut),
            )
            return


def initial_loss(facts: Facts) -> Iterator[Finding]:
    """Far above what guessing gives, the first steps only undo the initialisation. A scale that cosines are multiplied by
    is chosen (Deng et al. 2019), up to some size; where most weights are frozen they have learnt, maybe other labels."""
    main = facts.step.main
    if (
        main is None
        or _is_scaled(main, facts)
        or main.target is None
        or main.options.get("weight") is not None
        or main.options.get("pos_weight") is not None
    ):
        return
    guess = _GUESSES.get(main.name, _no_guess)(main, facts)
    if guess is None or not math.isfinite(guess.loss) or guess.loss <= guess.limit:
        return
    yield found(
        "INITIAL-LOSS",
        "info" if _is_mostly_frozen(facts) else "warning",
        f"The first loss is {guess.loss:.3g}; {guess.said}.",
        "Start the last layer smaller, e.g. nn.init.normal_(head.weight, std=0.02) with a zero bias (tied embeddings "
        "too), and standardise inputs and targets.",
        at(main, loss=guess.loss),
    )


def _is_mostly_frozen(facts: Facts) -> bool:
    """By elements; each tensor once."""
    sizes: dict[nn.Parameter, int] = {
        p: p.numel() for p in facts.task.module.parameters() if not isinstance(p, nn.parameter.UninitializedParameter)
    }
    return sum(size for p, size in sizes.items() if not p.requires_grad) > 0.5 * sum(sizes.values())


LARGEST_SCALE = 100
"""Of cosines: beyond it CLIP does not let its own grow (Radford et al. 2021)."""


def _is_scaled(main: Call, facts: Facts) -> bool:
    """Whether scores may be cosines times a number that people choose; a tenth more for a margin."""
    return bool(facts.step.record.directions) and float(main.input.detach().abs().max()) < 1.1 * LARGEST_SCALE


@dataclass(frozen=True)
class Guess:
    """The first loss, from where on it is far above guessing, and what guessing gives in words."""

    loss: float
    limit: float
    said: str


def _no_guess(main: Call, facts: Facts) -> Guess | None:
    return None


def _of_classes(main: Call, facts: Facts) -> Guess | None:
    """Log-probabilities are logits as well: a softmax leaves them as they are."""
    values, target = main.input.detach().float(), main.target
    if target is None or values.dim() < 2 or values.shape[1] < 2 or target.is_floating_point():
        return None
    if main.name == "nll_loss" and main.made_by != "LogSoftmax":
        return None
    ignore = main.options.get("ignore_index", -100)
    kept = target[target != ignore]
    if not kept.numel() or int(kept.max()) >= values.shape[1] or int(kept.min()) < 0:
        return None
    chance = math.log(values.shape[1])
    loss = float(F.cross_entropy(values, target, ignore_index=ignore))
    return Guess(loss, 2 * chance + 0.5, f"guessing among {values.shape[1]} classes gives {chance:.3g}")


def _of_yes_and_no(main: Call, facts: Facts) -> Guess | None:
    values, target = main.input.detach().float(), main.target
    if target is None or values.shape != target.shape:
        return None
    loss = float(F.binary_cross_entropy_with_logits(values, target.float()))
    return Guess(loss, 2 * math.log(2) + 0.5, "guessing gives 0.693")


def _of_values(main: Call, facts: Facts) -> Guess | None:
    """Twenty times as far in squares, of a prediction of 0: also of a loss that takes the distance as it is."""
    values, target = main.input.detach().float(), main.target
    if target is None or values.shape != target.shape or not facts.step.target:
        return None
    known = [pair.target for pair in value_pairs(facts)] if facts.has("data") else [target.float()]
    if not known:
        return None
    zero = float(known[0].pow(2).mean())
    squares = float((values - target).pow(2).mean())
    return Guess(squares, 20 * zero, f"predicting 0 would give {zero:.3g} (in squares)") if zero > 1e-12 else None


_GUESSES: dict[str, Callable[[Call, Facts], Guess | None]] = {
    **dict.fromkeys(CLASS_LOSSES, _of_classes),
    "binary_cross_entropy_with_logits": _of_yes_and_no,
    **dict.fromkeys(VALUE_LOSSES, _of_values),
}


CHECKS = (
    Check("RELU-LOGITS", ("step",), relu_logits),
    Check("OUTPUT-RANGE", ("data", "step"), output_range),
    Check("OUTPUT-RANGE", ("step",), shares_for_several_labels),
    Check("OUTPUT-RANGE", ("step",), bounded_logits),
    Check("OUTPUT-RANGE", ("step",), rate_for_its_logarithm),
    Check("OUTPUT-RANGE", ("step",), logarithm_of_output),
    Check("OUTPUT-RANGE", ("step",), clamped_for_activation),
    Check("INITIAL-LOSS", ("data", "step"), initial_loss),
)
