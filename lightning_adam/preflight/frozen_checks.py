"""Layers that are frozen and were meant to learn."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from lightning_adam.diagnosis import Finding
from lightning_adam.preflight.facts import Check, Facts, found, some
from lightning_adam.preflight.recorder import BINARY_LOSSES, CLASS_LOSSES
from lightning_adam.statistics import looks_untrained

FEWEST = 64
"""Elements of a head whose values tell how it was drawn."""


def frozen(facts: Facts) -> Iterator[Finding]:
    """Nothing but norms and biases is trained; or a tenth of the weights is frozen as its initialisation left it."""
    every = list(facts.task.module.parameters())
    trained = [p for p in every if p.requires_grad]
    share = sum(p.numel() for p in trained) / max(1, sum(p.numel() for p in every))
    is_shared = bool(_frozen_elsewhere(facts.task.module))
    if not every or share >= 0.1 or (any(p.dim() > 1 for p in trained) and not is_shared):
        yield from _frozen_untrained(facts)
        return
    rest = "only norms and biases are trained" if trained else "nothing is trained"
    shared = "matrices among them that a part frozen as a whole shares with one that is trained"
    yield found(
        "FROZEN",
        "warning" if trained else "critical",
        f"{1 - share:.0%} of the weights are frozen, {shared if is_shared else f'all matrices among them: {rest}'}.",
        "Call requires_grad_(True) on the layers that are to learn, at least on the head.",
        {"trainable share": share},
    )


def _frozen_untrained(facts: Facts) -> Iterator[Finding]:
    """Random projections may be meant so, hence no warning; a target network begins as a copy of what is trained.

    With several optimizers a training step freezes what the others train.
    """
    named = dict(facts.task.module.named_parameters())
    trained, total = [p for p in named.values() if p.requires_grad], sum(p.numel() for p in named.values())
    still = [n for n, p in named.items() if not p.requires_grad and looks_untrained(p) and not _is_copy(p, trained)]
    share = sum(named[n].numel() for n in still) / max(1, total)
    if not trained or len(facts.task.optimizers) > 1:
        return
    if (head := _frozen_head(facts)) is not None:
        yield found(
            "FROZEN",
            "warning",
            f"{head}, the last layer, is frozen as it was initialised, and all layers before it are trained.",
            "Call requires_grad_(True) on the head, and freeze the layers that have learnt before.",
            {"classes": named[head].shape[0]},
            [head],
        )
    elif share >= 0.1:
        yield from _frozen_body(share, still)
    else:
        yield from _frozen_late(facts.task.module)


def _frozen_body(share: float, still: list[str]) -> Iterator[Finding]:
    yield found(
        "FROZEN",
        "info",
        f"{share:.0%} of the weights are frozen as they were initialised: {some(still)}.",
        "Load their trained weights, or call requires_grad_(True) on them before the optimizer is made.",
        {"frozen share": share},
        still,
    )


def _frozen_late(module: nn.Module) -> Iterator[Finding]:
    """The last frozen matrix, where it is a linear layer as torch draws it, and those before it are not."""
    still = [(name, p) for name, p in module.named_parameters() if not p.requires_grad and p.dim() > 1]
    if len(still) < 3:
        return
    (name, last), rest = still[-1], [p for _, p in still[:-1] if p.numel() >= FEWEST]
    if last.dim() == 2 and _is_as_made(last) and rest and not any(looks_untrained(p) for p in rest):
        yield found(
            "FROZEN",
            "info",
            f"{name} is frozen as it was initialised, behind layers that are frozen as they were trained.",
            "Call requires_grad_(True) on it: put new layers on after the others have been frozen.",
            {},
            [name],
        )


def _is_copy(parameter: Tensor, others: Sequence[Tensor]) -> bool:
    return any(p.shape == parameter.shape and p.device == parameter.device and torch.equal(p, parameter) for p in others)


def _frozen_elsewhere(module: nn.Module) -> list[str]:
    """Matrices that a part frozen as a whole shares with one that is trained: whoever takes over a layer takes over that it
    is frozen; ``copy.deepcopy`` does not."""
    owners: dict[int, set[str]] = {}
    for name, p in module.named_parameters(remove_duplicate=False):
        if not p.requires_grad and p.dim() > 1:
            owners.setdefault(id(p), set()).add(name.partition(".")[0])
    still = {name for name, part in module.named_children() if not any(p.requires_grad for p in part.parameters())}
    names = (name for name, p in module.named_parameters() if owners.get(id(p), set()) & still and owners[id(p)] - still)
    return list(names)


def _frozen_head(facts: Facts) -> str | None:
    """The last matrix, where it gives a score for each class, has torch's own values, and is the only one frozen."""
    every = [(name, p) for name, p in facts.task.module.named_parameters() if p.dim() > 1]
    main = facts.step.main if facts.has("step") else None
    if len(every) < 2 or main is None or main.name not in (*CLASS_LOSSES, *BINARY_LOSSES) or main.input.dim() < 2:
        return None
    (name, last), rest = every[-1], [p for _, p in every[:-1]]
    is_head = last.dim() == 2 and last.shape[0] == main.input.shape[1] and not last.requires_grad
    return name if is_head and all(p.requires_grad for p in rest) and _is_as_made(last) else None


def _is_as_made(weight: Tensor) -> bool:
    """Whether a matrix, be it small, is uniform up to 1/√(fan in), as ``nn.Linear`` draws it."""
    sizes = weight.detach().float().abs() * math.sqrt(weight.shape[1])
    is_even = abs(float(sizes.square().mean()) - 1 / 3) < 0.1
    return weight.numel() >= FEWEST and is_even and 0.9 < float(sizes.max()) <= 1 + 1e-5


CHECKS = (Check("FROZEN", (), frozen),)
