"""Which way the loss pulls what it is made of: log-probabilities, likenesses, differences."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lightning_adam.preflight.batches import leaves, path_of
from lightning_adam.preflight.nodes import slope_to
from lightning_adam.preflight.recorder import DIFFERENCES, Call, Record, softmax_axis

REWARDS = ("reward", "rewards", "return", "returns", "advantage", "advantages")
"""Names of what is to be large, in a batch of moves."""


def slopes(loss: Tensor, calls: list[Call]) -> list[float]:
    """The derivative of the loss to the output of each loss call; its mean over the elements; NaN where there is none."""
    outputs = [c.output for c in calls if isinstance(c.output, Tensor) and c.output.requires_grad]
    if not loss.requires_grad or not outputs:
        return []
    found = torch.autograd.grad(loss, outputs, retain_graph=True, allow_unused=True)
    return [math.nan if g is None else float(g.sum()) if bool((g <= 0).all() or (g >= 0).all()) else math.nan for g in found]


def lowered(loss: Tensor, record: Record) -> Call | None:
    """Log-probabilities, or what they are normalised by, that go into the loss with the sign that makes them smaller.

    Weights that differ are left alone: a policy's log-probabilities are weighed by rewards of either sign. So are those of
    all classes at once, which an entropy takes, and those of an answer that is compared with a better one (Rafailov et al.
    2023, eq. 7).
    """
    told = [(call, slope_to(loss, call.output)) for call in record.squashes if call.name == "log_softmax"]
    made = [(call, -slope_to(loss, call.output)) for call in record.normalisers]
    if any(_is_one_number(-slope) for _, slope in (*told, *made)):
        return None
    chosen = [call for call, slope in told if _is_one_number(slope) and bool((slope == 0).any())]
    normalised = (call for call, slope in made if _is_one_number(slope) and _shifts(loss, call))
    return chosen[0] if chosen else next(normalised, None)


def favoured(loss: Tensor, record: Record) -> Call | None:
    """Probabilities of which the loss is minus a mean: one of each sample, and each as much as the others."""
    for call in (call for call in record.squashes if call.name == "softmax"):
        slope, shares = slope_to(loss, call.output), call.output.detach()
        is_picked = _is_one_number(-slope) and bool(((slope != 0).sum(softmax_axis(call)) == 1).all())
        if is_picked and math.isclose(float(loss.detach()), float((slope * shares).sum()), rel_tol=1e-4):
            return call
    return None


def parted(loss: Tensor, record: Record) -> Call | None:
    """Cosines that the loss makes smaller, each by as much, where it is made of nothing else but a whole number."""
    cosines = [call for call in record.directions if call.name == "cosine_similarity"]
    pulls = [slope_to(loss, call.output) for call in cosines]
    rest = float(loss.detach()) - sum(float((p * c.output.detach()).sum()) for p, c in zip(pulls, cosines, strict=True))
    is_all = bool(cosines) and all(_is_one_number(pull) for pull in pulls) and abs(rest - round(rest)) < 1e-4
    return cosines[0] if is_all else None


def rewards_in(batch: Any) -> list[Tensor]:
    """By their names."""
    return [leaf for path, leaf in leaves(batch) if path.rpartition(".")[2].lower() in REWARDS]


def punished(loss: Tensor, record: Record, batch: Any) -> Call | None:
    """Log-probabilities of moves that the loss makes smaller where their reward is large, and larger where it is not."""
    rewards = rewards_in(batch)
    told = [(c, 1.0) for c in record.squashes if c.name == "log_softmax"] + [(c, -1.0) for c in record.normalisers]
    for call, sign in told if rewards else ():
        pull = sign * slope_to(loss, call.output).flatten(1).sum(1) if call.output.dim() > 1 else torch.zeros(0)
        if any(reward.shape == pull.shape and _goes_along(pull * reward) for reward in rewards):
            return call
    return None


def _goes_along(product: Tensor) -> bool:
    """Nearly all of what acts is above 0: an entropy beside it turns a few, where a clipped ratio leaves nothing else."""
    whole = float(product.abs().sum())
    return whole > 0 and float(product.clamp_min(0).sum()) > 0.95 * whole


def repelled(loss: Tensor, record: Record, batch: Any) -> Call | None:
    """A prediction's difference from a tensor of the batch: nearly everywhere the loss falls as it grows."""
    spread = [call for call in record.broadcasts if call.name in DIFFERENCES]  # several means, as of a mixture
    for call in (*record.differences, *spread):
        pull = slope_to(loss, call.output) * call.output.detach()
        acting = pull[pull != 0]
        is_away = acting.numel() > 8 and float((acting < 0).double().mean()) > 0.99
        compared = (value for value in (call.input, call.target) if value is not None and not value.requires_grad)
        if is_away and any(path_of(value, batch) for value in compared):
            return call
    return None


def _is_one_number(slope: Tensor) -> bool:
    """Above 0, wherever it is not 0."""
    acting = slope[slope != 0]
    return acting.numel() > 0 and float(acting.min()) > 0.99 * float(acting.max()) > 0


def _shifts(loss: Tensor, call: Call) -> bool:
    """Whether adding a number to all scores changes nothing: they are compared with their own normaliser, which the
    logarithm of a mixture's density is not."""
    slope = slope_to(loss, call.input)
    return abs(float(slope.sum())) < 1e-3 * float(slope.abs().sum())


def unlikely(loss: Tensor, record: Record, batch: Any) -> Call | None:
    """``log_prob`` of what the batch has, which the loss makes smaller, all of it by as much. Samples of one's own may
    become less likely, and so may the wrong ones of several that are compared."""
    given = [call for call in record.densities if call.target is not None and _comes_from_batch(call.target, batch)]
    is_all = bool(given) and all(_is_one_number(slope_to(loss, call.output)) for call in given)
    return given[0] if is_all else None


def draws_its_own(record: Record, batch: Any) -> bool:
    """Whether a log-probability is asked of what the batch has not, as of moves that the step has drawn: rewards then say
    what is right, and the targets do not."""
    return any(call.target is not None and not _comes_from_batch(call.target, batch) for call in record.densities)


def _comes_from_batch(values: Tensor, batch: Any) -> bool:
    """Whether the batch has it, or what it is a part of."""
    storage = values.untyped_storage().data_ptr()
    is_part = any(leaf.untyped_storage().data_ptr() == storage for _, leaf in leaves(batch))
    return is_part or bool(path_of(values, batch))


def grows_without_end(loss: Tensor, told: Tensor) -> bool:
    """Whether the loss is minus the squares of a net's output, each as much, and nothing else holds the output back: as of a
    normal density's logarithm that lacks its minus (Dinh et al. 2017, eq. 2 is made large)."""
    slope, values = slope_to(loss, told), told.detach()
    if told.dim() < 2 or told.numel() < 64 or not bool(slope.any()):
        return False
    factor = float((slope * values).sum() / values.square().sum())
    return factor < 0 and float((slope - factor * values).norm()) < 1e-3 * float(slope.norm())


def remainder(loss: Tensor, calls: list[Call]) -> float:
    """What the loss has beside its one call of a loss, whose elements all count the same; NaN where that is not so, or where
    it goes in by its logarithm or the like: its slope then has a slope itself."""
    output = calls[0].output if len(calls) == 1 else None
    if not isinstance(output, Tensor) or not output.requires_grad or not loss.requires_grad:
        return math.nan
    (slope,) = torch.autograd.grad(loss, [output], retain_graph=True, create_graph=True, allow_unused=True)
    is_even = slope is not None and not slope.requires_grad and 0 < float(slope.max()) < 1.01 * float(slope.min())
    return float((loss - (slope * output).sum()).detach()) if is_even else math.nan
