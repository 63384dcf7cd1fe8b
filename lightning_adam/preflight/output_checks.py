"""What is wrong with the output that the loss gets: its last activation, its range, its size at the start."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch.nn import functional as F

from lightning_adam.diagnosis import Finding
from lightning_adam.preflight.data_checks import value_pair
from lightning_adam.preflight.facts import Check, Facts, found
from lightning_adam.preflight.loss_checks import at, is_output
from lightning_adam.preflight.recorder import BINARY_LOSSES, CLASS_LOSSES, made_by

RANGES = {
    "Relu": (0.0, math.inf),
    "Sigmoid": (0.0, 1.0),
    "Tanh": (-1.0, 1.0),
    "Softmax": (0.0, 1.0),
    "Softplus": (0.0, math.inf),
    "Exp": (0.0, math.inf),
    "Abs": (0.0, math.inf),
}
"""What a last layer can give, by autograd's name of it."""
SLACK = 0.05


def relu_logits(facts: Facts) -> Iterator[Finding]:
    """Logits need both signs."""
    fed = [c for c in facts.step.record.losses if c.name in ("cross_entropy", "binary_cross_entropy_with_logits")]
    fed += [c for c in facts.step.record.squashes if is_output(c, facts) and facts.step.main is not None]
    for call in fed:
        if call.made_by == "Relu" and _feeds_classes(facts):
            yield found(
                "RELU-LOGITS",
                "warning",
                f"A ReLU stands between the last layer and {call.name}: no logit can be below 0.",
                "Take the last ReLU out.",
                at(call),
            )
            return


def _feeds_classes(facts: Facts) -> bool:
    main = facts.step.main
    return main is not None and main.name in (*CLASS_LOSSES, *BINARY_LOSSES)


def output_range(facts: Facts) -> Iterator[Finding]:
    """The last layer cannot give what the targets ask."""
    main, pair = facts.step.main, value_pair(facts)
    if main is not None and main.name == "binary_cross_entropy":
        low, high = float(main.input.detach().min()), float(main.input.detach().max())
        if low < 0 or high > 1:
            yield found(
                "OUTPUT-RANGE",
                "critical",
                f"binary_cross_entropy needs values from 0 to 1, and gets {low:.3g} to {high:.3g}.",
                "Use F.binary_cross_entropy_with_logits, which takes the net's output as it is.",
                at(main, low=low, high=high),
            )
        return
    if pair is None:
        return
    maker = main.made_by if main is not None else made_by(facts.step.trace.outer[facts.step.prediction][1])
    if maker not in RANGES:
        return
    low, high = RANGES[maker]
    out = float(((pair[1] < low - SLACK) | (pair[1] > high + SLACK)).double().mean())
    if out > 0.01:
        reach = f"{low:g} to {high:g}" if math.isfinite(high) else f"{low:g} or more"
        evidence: dict[str, float | str] = {"outside": out, "lowest": float(pair[1].min()), "highest": float(pair[1].max())}
        yield found(
            "OUTPUT-RANGE",
            "warning",
            f"The net ends in a {maker.lower()}, which gives {reach}; {out:.0%} of the targets lie outside.",
            "Take the last activation out, or scale the targets into its range.",
            evidence | (at(main) if main else {}),
        )


def initial_loss(facts: Facts) -> Iterator[Finding]:
    """Far above what guessing gives, the first steps only undo the initialisation. A scale that cosines are multiplied by
    is chosen (Deng et al. 2019)."""
    main = facts.step.main
    if (
        main is None
        or facts.step.record.directions
        or main.target is None
        or main.options.get("weight") is not None
        or main.options.get("pos_weight") is not None
    ):
        return
    measured, guess, said = _first_losses(facts)
    if guess is None or not math.isfinite(measured) or measured <= guess:
        return
    yield found(
        "INITIAL-LOSS",
        "warning",
        f"The first loss is {measured:.3g}; {said}.",
        "Start the last layer smaller, e.g. nn.init.normal_(head.weight, std=0.02) with a zero bias (tied embeddings "
        "too), and "
        "standardise inputs and targets.",
        at(main, loss=measured),
    )


def _first_losses(facts: Facts) -> tuple[float, float | None, str]:
    main = facts.step.main
    assert main is not None and main.target is not None
    values, target = main.input.detach().float(), main.target
    if main.name == "cross_entropy" and values.dim() > 1 and values.shape[1] > 1 and not target.is_floating_point():
        chance = math.log(values.shape[1])
        ignore = main.options.get("ignore_index", -100)
        kept = target[target != ignore]
        if not kept.numel() or int(kept.max()) >= values.shape[1] or int(kept.min()) < 0:
            return math.nan, None, ""
        loss = float(F.cross_entropy(values, target, ignore_index=ignore))
        return loss, 2 * chance + 0.5, f"guessing among {values.shape[1]} classes gives {chance:.3g}"
    if main.name == "binary_cross_entropy_with_logits" and values.shape == target.shape:
        return (
            float(F.binary_cross_entropy_with_logits(values, target.float())),
            2 * math.log(2) + 0.5,
            "guessing gives 0.693",
        )
    pair = value_pair(facts)
    if main.name == "mse_loss" and values.shape == target.shape and pair is not None and facts.step.target:
        zero = float(pair[1].pow(2).mean())
        return (
            float((values - target).pow(2).mean()),
            (20 * zero if zero > 1e-12 else None),
            f"predicting 0 would give {zero:.3g}",
        )
    return math.nan, None, ""


CHECKS = (
    Check("RELU-LOGITS", ("step",), relu_logits),
    Check("OUTPUT-RANGE", ("data", "step"), output_range),
    Check("INITIAL-LOSS", ("data", "step"), initial_loss),
)
