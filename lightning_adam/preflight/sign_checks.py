"""A loss with the wrong sign."""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.utils.parametrize
from torch import Tensor

from lightning_adam.diagnosis import Finding
from lightning_adam.preflight.facts import Check, Facts, found
from lightning_adam.preflight.loss_checks import at
from lightning_adam.preflight.recorder import Call
from lightning_adam.preflight.rivals import helped, scorned
from lightning_adam.preflight.step import is_asked
from lightning_adam.preflight.task import own_hook


def wrong_sign(facts: Facts) -> Iterator[Finding]:
    """All of the losses go into the total with a minus; an adversary has others that do not."""
    step = facts.step
    known = [(call, slope) for call, slope in zip(step.record.losses, step.slopes, strict=False)]
    if optimizer_maximises(facts):
        yield from _maximised_errors(known)
    elif not facts.task.is_adversarial and known and all(slope < 0 for _, slope in known):
        call, slope = known[-1]
        said = f"The loss that is returned falls when {call.name} rises: training would make it worse."
        yield _wrong(call, said, "Take the minus out: return the loss itself.", derivative=slope)
    elif step.punished is not None:
        said = "The loss makes each move less likely by as much as it is rewarded: the policy climbs down."
        yield _wrong(step.punished, said, "Put a minus in front: -(log_prob * reward).mean().")
    elif not facts.task.is_adversarial and not known:
        yield from _by_hand(facts)


def _by_hand(facts: Facts) -> Iterator[Finding]:
    """Of a loss that is none of torch's."""
    step = facts.step
    if step.lowered is not None:
        whose = "log_prob gives" if step.lowered.name == "log_prob" else "are written by hand"
        said = (
            f"The loss that is returned falls as the log-probabilities do that {whose}: training makes what was seen less "
            "likely."
        )
        yield _wrong(step.lowered, said, "Put a minus in front: the mean log-probability is to rise.")
    elif step.parted is not None:
        said = "The loss that is returned falls as the likeness of each pair does: training drives apart what is compared."
        yield _wrong(step.parted, said, "Return 1 - cosine_similarity(a, b).mean(): training makes the loss smaller.")
    elif step.repelled is not None:
        said = "The loss that is returned falls as the prediction's difference from the target grows."
        yield _wrong(step.repelled, said, "Change the sign of the loss: training makes it smaller.")
    elif step.runs_away and not _is_bound(facts):
        said = "The loss that is returned falls without end as the net's output grows: it is minus the output's squares."
        yield found("WRONG-SIGN", "critical", said, "Change its sign: of a log-likelihood, return the negative one.")


def optimizer_maximises(facts: Facts) -> bool:
    """Whether the one optimizer makes what it is given larger: then a loss is right with a minus, and a reward as it is."""
    optimizers = facts.task.optimizers
    return len(optimizers) == 1 and all(group.get("maximize", False) for group in optimizers[0].param_groups)


def _maximised_errors(known: list[tuple[Call, float]]) -> Iterator[Finding]:
    """Each of the losses goes into the total with its own sign, and the total is made larger."""
    if known and all(slope > 0 for _, slope in known):
        call, slope = known[-1]
        said = f"The optimizer has maximize=True, and is given {call.name} as it is: training would make it worse."
        yield _wrong(call, said, "Take maximize=True away.", derivative=slope)


def _is_bound(facts: Facts) -> bool:
    """Whether weights are kept to a length, or orthogonal, or may be by a hook behind the step: the largest variance is then
    that of the first components."""
    module = facts.task.module
    has_hook = any(own_hook(module, name) for name in ("optimizer_step", "on_train_batch_end", "on_train_batch_start"))
    return has_hook or any(torch.nn.utils.parametrize.is_parametrized(part) for part in module.modules())


def _wrong(call: Call, message: str, remedy: str, **evidence: float | str) -> Finding:
    return found("WRONG-SIGN", "critical", message, remedy, at(call, **evidence))


def helping(facts: Facts) -> Iterator[Finding]:
    """Two players of whom one is pulled to the side where the other one does not want it."""
    plays = facts.step.plays
    critic, judge = scorned(plays), helped(plays.pulls)
    if critic is not None:
        yield found(
            "WRONG-SIGN",
            "critical",
            f"{_name_of(critic, facts)} learns what rewards there will be, and the loss of who chooses the moves falls as "
            "it expects less.",
            "Put a minus in front: -critic(state, actor(state)).mean().",
        )
    elif judge is not None:
        name = _name_of(judge, facts)
        yield found(
            "WRONG-SIGN",
            "critical",
            f"What is made is pulled to the side where {name} tells it from the data: both players want the same.",
            "Give who makes it the other sign: -judge(made).mean(), or cross entropy with the label of the data.",
        )


def _name_of(net: torch.nn.Module, facts: Facts) -> str:
    return next((name for name, module in facts.task.module.named_modules() if module is net), "one net")


def subtracted(facts: Facts) -> Iterator[Finding]:
    """An autoencoder's reconstruction, and what is taken off it: a divergence is at least 0 (Kingma and Welling 2014,
    eq. 3), and without its right sign the code runs away."""
    main, rest = facts.step.main, facts.step.rest
    target = main.target if main is not None and facts.step.target else None
    if main is None or target is None or facts.task.manual or not is_asked(facts.step, target):
        return
    if rest < -0.01 * _of_one(main, target):
        yield found(
            "WRONG-SIGN",
            "warning",
            f"What is added to {main.name} of the input itself is {rest:.3g}: a divergence is at least 0, here it is "
            "subtracted.",
            "Add it: KL = -0.5 * (1 + log_var - mean**2 - exp(log_var)) is at least 0.",
            at(main, rest=rest),
        )


def _of_one(main: Call, target: Tensor) -> float:
    """What one number of the target contributes to the loss call."""
    is_sum = main.options.get("reduction") == "sum"
    return abs(float(main.output.mean())) / (max(1, target.numel()) if is_sum else 1)


CHECKS = (
    Check("WRONG-SIGN", ("step",), wrong_sign),
    Check("WRONG-SIGN", ("step",), helping),
    Check("WRONG-SIGN", ("step",), subtracted),
)
