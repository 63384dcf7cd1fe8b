"""Padding behind the ends of sequences of numbers, which a regression learns to tell again."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_adam.diagnosis import Finding
from lightning_adam.preflight.batches import leaves
from lightning_adam.preflight.facts import Check, Facts, found
from lightning_adam.preflight.loss_checks import at
from lightning_adam.preflight.recorder import VALUE_LOSSES, Call
from lightning_adam.preflight.step import Step, is_asked


def padding(facts: Facts) -> Iterator[Finding]:
    """Rows of the target and of an input end in runs of one number, as long in both, that is nowhere else."""
    main = facts.step.main
    target = main.target if main is not None and facts.step.target else None
    if main is None or target is None or main.name not in VALUE_LOSSES or main.options.get("reduction") == "none":
        return
    runs = _runs(target)
    if (
        runs is None
        or is_asked(facts.step, target)
        or not _is_padding(target, runs)
        or not _is_padded_too(facts.step, target, runs)
    ):
        return
    share = float(runs.sum()) / (len(target) * target.shape[1])
    if share > 0.2 and _is_told(main, target, runs):
        number = float(target[:, -1].flatten().mode().values)
        yield found(
            "PADDING-COUNTS",
            "warning",
            f"{share:.0%} of the targets are the {number:g} that stands behind the ends of sequences: padding counts in the "
            "loss.",
            f"real = torch.arange(y.shape[1]) < lengths[:, None]; F.{main.name}(told[real], y[real]).",
            at(main, share=share),
            [facts.data.target] if facts.has("data") and facts.data.target else [],
        )


def _runs(values: Tensor) -> Tensor | None:
    """How many places at the end of each row have the most usual last number; None without rows of places."""
    if values.dim() < 2 or values.shape[1] < 4 or not values.numel() or not values.is_floating_point():
        return None
    is_last = (values == values[:, -1].flatten().mode().values).reshape(*values.shape[:2], -1).all(2)
    return is_last.flip(1).int().cumprod(1).sum(1)


def _is_padding(target: Tensor, runs: Tensor) -> bool:
    """Runs of several lengths, of a number that is hardly anywhere before them."""
    number = target[:, -1].flatten().mode().values
    ahead = torch.arange(target.shape[1], device=target.device) < target.shape[1] - runs[:, None]
    strays = float((target[ahead] == number).double().mean()) if bool(ahead.any()) else 1.0
    return bool((runs >= 2).double().mean() > 0.25) and len(torch.unique(runs)) > 2 and strays < 0.02


def _is_padded_too(step: Step, target: Tensor, runs: Tensor) -> bool:
    """Whether something else in the batch ends where the target does, or one place off."""
    others = [leaf for _, leaf in leaves(step.given) if leaf.dim() > 1 and leaf.shape[:2] == target.shape[:2]]
    ends = [_runs(leaf) for leaf in others if leaf is not target and leaf.data_ptr() != target.data_ptr()]
    return any(one is not None and bool(((one - runs).abs() <= 1).double().mean() > 0.95) for one in ends)


def _is_told(main: Call, target: Tensor, runs: Tensor) -> bool:
    """Whether the prediction is not set to the padding's number there: then padding costs nothing."""
    if main.input.shape != target.shape:
        return False
    behind = torch.arange(target.shape[1], device=target.device) >= target.shape[1] - runs[:, None]
    return not torch.equal(main.input.detach()[behind], target[behind].to(main.input))


CHECKS = (Check("PADDING-COUNTS", ("step",), padding),)
