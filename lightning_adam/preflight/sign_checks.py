"""A loss with the wrong sign."""

from __future__ import annotations

from collections.abc import Iterator

from lightning_adam.diagnosis import Finding
from lightning_adam.preflight.facts import Check, Facts, found
from lightning_adam.preflight.loss_checks import at
from lightning_adam.preflight.step import Step, same_values


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
    if main is not None and rest < 0 and rest < -0.01 * abs(float(main.output)) and _reconstructs_its_input(facts.step):
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


def _reconstructs_its_input(step: Step) -> bool:
    target = step.main.target if step.main is not None and step.target else None
    return target is not None and any(
        given is not None and given.numel() == target.numel() and same_values(given, target) for given in step.trace.asked
    )


CHECKS = (
    Check("WRONG-SIGN", ("step",), wrong_sign),
    Check("WRONG-SIGN", ("step",), subtracted),
)
