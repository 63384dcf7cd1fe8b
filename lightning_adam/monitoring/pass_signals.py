"""From the table of all tensors to what the rules read of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_adam.diagnosis import HeavySignals
from lightning_adam.diagnosis.theory import update_bound
from lightning_adam.monitoring.first_look import scale_of
from lightning_adam.statistics import RulesTable

Floats = NDArray[np.float64]

MOST_LABELS, MOST_CLASSES = 10_000, 1000
"""Looked at in a batch; of more classes a batch holds too few examples to say how often each comes."""
FEWEST = 4
"""Examples of a batch that are of one class by chance seldom enough."""
BUNCH = 1 << 18
"""Elements of small tensors that are copied into one: what many small operations cost, one costs."""
TINY_START = 0.1
"""A matrix that begins under so many times 1/√fan-in began at zero on purpose (heads, LoRA's B): its ratio says nothing."""


def heavy_signals(
    table: RulesTable,
    norms_before: Mapping[str, float],
    embeddings: frozenset[str],
    inputs: BatchScale,
    order: Mapping[int, int] | None = None,
) -> HeavySignals:
    """One pass over all tensors, summed up.

    Args:
        table: of the step just taken.
        norms_before: ‖θ‖ before the step by name, where it was taken: a first step can be larger than the weights.
        embeddings: names of embedding tables, whose gradients are zero for tokens that a batch has not.
        inputs: of the batch, from :func:`batch_scale`.
        order: by the parameter's identity, when the model uses it; parameters that it does not name keep their place.
    """
    rows = _Rows(table, norms_before, embeddings, order or {})
    with np.errstate(all="ignore"):  # what is not finite is a signal, too
        return HeavySignals(
            **rows.updates(),
            **rows.normalised(),
            **rows.gradients(),
            **rows.state(),
            alignment=_alignment(table),
            **vars(inputs),
        )


class _Rows:
    """The table's columns, with which rows are weights: matrices but embeddings, or what there is instead."""

    def __init__(
        self, table: RulesTable, before: Mapping[str, float], embeddings: frozenset[str], order: Mapping[int, int]
    ) -> None:
        self._of, self._column = table, table.values
        self.names, parameters = table.columns.names, table.parameters
        self.sizes = table.columns.total.astype(np.float64)
        matrix = np.array([p.dim() >= 2 for p in parameters])
        if not matrix.any():
            matrix[:] = True
        self.tables = np.array([name in embeddings for name in self.names])
        usual = matrix & ~self.tables
        self.weights = usual if usual.any() else matrix
        places = [order.get(id(p), index) for index, p in enumerate(parameters)]
        self.depth = np.argsort(np.asarray(places), kind="stable")
        self.before = np.array([before.get(name, math.nan) for name in self.names])

    def updates(self) -> dict[str, Any]:
        """How far the step moved the weights."""
        norm = np.where(np.isnan(self.before), self._column["parameter_norm"], self.before)
        moved = self._column["step_size_rms"] * np.sqrt(self.sizes)
        rows = np.array([p.shape[0] if p.dim() else 1 for p in self._of.parameters], dtype=np.float64)
        usual = np.sqrt(rows)  # the norm of a matrix whose elements have the size 1/√fan-in
        ratio = np.where(self.weights & (norm > TINY_START * usual), moved / np.maximum(norm, 1e-300), math.nan)
        largest, where = _largest(ratio, self.names)
        lost, lost_in = _largest(self._column["lost_update_share"], self.names)
        return {
            "update_ratio_p50": _middle(ratio),
            "update_ratio_max": largest,
            "update_ratio_max_in": where,
            "lost_updates": _mean(self._column["lost_update_share"], self.sizes),
            "lost_updates_max_in": lost_in if lost == lost else "",
            **self._decay(moved),
        }

    def _decay(self, moved: Floats) -> dict[str, Any]:
        """The decay of all tensors together over their step; of tensors alone it is large where a step is small."""
        against = np.where(self._of.columns.decoupled, moved, self._column["gradient_norm"])
        pull = np.nan_to_num(self._column["decay_ratio"] * against)
        total = float(np.sqrt(np.nansum(against**2)))
        _, where = _largest(np.where(pull > 0, pull, math.nan), self.names)
        return {
            "decay_ratio": float(np.sqrt((pull**2).sum())) / total if total > 0 else math.nan,
            "decay_ratio_max_in": where,
        }

    def normalised(self) -> dict[str, Any]:
        """|m̂|/(√v̂+ε) against its floor and bound."""
        rms = self._column["normalised_update_rms"]
        excess, excess_in = _largest(rms / _bounds(self._of), self.names)
        return {
            "normalised_rms": math.sqrt(_mean(rms**2, self.sizes)),
            "normalised_rms_max": _largest(rms, self.names)[0],
            "bound_excess": excess,
            "bound_excess_in": excess_in,
        }

    def gradients(self) -> dict[str, Any]:
        """Zeros, surprise, and the first layer's against the last one's."""
        zeros = np.where(self.weights, self._column["zero_gradient_share"], math.nan)
        zeros[self.tables & (zeros < 1)] = math.nan  # an optimizer of tables only: a batch has few of their rows
        share, where = _largest(zeros, self.names)
        surprise, surprise_in = _largest(self._column["gradient_surprise"], self.names)
        first_last, first = self._first_over_last()
        return {
            "zero_gradients": _mean(zeros, np.ones_like(zeros)),
            "zero_gradients_max": share,
            "zero_gradients_max_in": where,
            "dead_tensors": int((zeros == 1).sum()),
            "surprise_max": surprise,
            "surprise_max_in": surprise_in,
            "first_last": first_last,
            "first_matrix": first,
        }

    def _first_over_last(self) -> tuple[float, str]:
        """The best of the first quarter of the matrices against the middle of the last quarter, in the order of use."""
        rms = self._column["gradient_norm"] / np.sqrt(self.sizes)
        rows = self.depth[self.weights[self.depth]]
        quarter, first = max(1, len(rows) // 4), self.names[rows[0]]
        if len(rows) < 2:
            return math.nan, first
        early, late = float(np.max(rms[rows[:quarter]])), float(np.median(rms[rows[-quarter:]]))
        return early / late if late > 0 else math.nan, first

    def state(self) -> dict[str, Any]:
        """The second moment, ε in it, and the state's own count."""
        eps = self._column["eps_dominated"]
        return {
            "eps_share": _mean(eps, np.ones_like(eps)),
            "eps_share_max_in": _largest(eps, self.names)[1],
            "second_moment_p50": _middle(self._column["second_moment_rms"]),
            "state_step": float(np.fmax.reduce(self._of.step)),
            "tensors": len(self.names),
        }


def _bounds(table: RulesTable) -> Floats:
    """Of each tensor; NaN where it has no moments."""
    kinds = list(zip(table.beta1.tolist(), table.beta2.tolist(), table.step.tolist(), strict=True))
    known = {kind: math.nan if math.isnan(kind[2]) else update_bound(*kind) for kind in set(kinds)}
    return np.array([known[kind] for kind in kinds])


def _largest(values: Floats, names: Sequence[str]) -> tuple[float, str]:
    """NaN left out."""
    largest = float(np.fmax.reduce(values))
    return (math.nan, "") if math.isnan(largest) else (largest, names[int((values == largest).argmax())])


def _middle(values: Floats) -> float:
    known = np.sort(values[~np.isnan(values)])
    half = len(known) // 2
    if not len(known):
        return math.nan
    return float(known[half] if len(known) % 2 else 0.5 * (known[half - 1] + known[half]))


def _mean(values: Floats, weights: Floats) -> float:
    known = ~np.isnan(values)
    return float((values[known] * weights[known]).sum() / weights[known].sum()) if known.any() else math.nan


def _gradients_with_moments(table: RulesTable) -> Iterator[tuple[tuple[Any, ...], tuple[Tensor, Tensor]]]:
    """g and m of each weight matrix, with β₁ and what small neighbours have in common: these are reckoned with as one."""
    end = 0
    numbers = table.beta1.tolist(), table.step.tolist()
    for parameter, gradient, first, beta1, step in zip(
        table.parameters, table.gradients, table.firsts, *numbers, strict=True
    ):
        if first is None or gradient is None or parameter.dim() < 2 or not (beta1 > 0 and step >= 2):
            continue
        if first.shape != gradient.shape or first.is_complex():
            continue
        begin, end = end, end + gradient.numel()
        bunch = (begin // BUNCH, end // BUNCH)  # a tensor that reaches into the next one, as a large one does, is alone
        yield (beta1, bunch, gradient.device, gradient.dtype, first.dtype), (gradient, first)


@torch.no_grad()
def _alignment(table: RulesTable) -> float:
    """cos(gₜ, mₜ₋₁) over the weight matrices, with mₜ₋₁ = (mₜ - (1-β₁)·gₜ)/β₁: needs no copy of the last gradient."""
    sums = []
    for (beta1, *_), bunch in groupby(_gradients_with_moments(table), itemgetter(0)):
        pairs = [pair for _, pair in bunch]
        g, m = (torch._C._nn.flatten_dense_tensors(list(part)).float() for part in zip(*pairs, strict=True))
        before = torch.sub(m, g, alpha=1 - beta1).div_(beta1)
        sums.append(torch.stack([torch.dot(g, before), g.square().sum(), before.square().sum()]))
    if not sums:
        return math.nan
    dot, gradient, momentum = torch.stack([s.to(sums[0].device) for s in sums]).sum(0).tolist()
    return float(dot / math.sqrt(gradient * momentum)) if gradient > 0 and momentum > 0 else math.nan


@dataclass(frozen=True)
class BatchScale:
    """What the batch, its targets and the first weight matrix' input look like; fields as in :class:`HeavySignals`."""

    input_max: float = math.nan
    input_rms: float = math.nan
    input_offset: float = math.nan
    input_change: float = math.nan
    layer_rms: float = math.nan
    layer_offset: float = math.nan
    target_rms: float = math.nan
    target_offset: float = math.nan
    target_entropy: float = math.nan
    target_classes: float = math.nan
    target_label: float = math.nan


@torch.no_grad()
def batch_scale(batch: Any, layer: Floats | None = None) -> BatchScale:
    """Of the batch's floating-point tensors the largest values; the last one, with any tensor before it, is the target.

    Args:
        batch: as the loader gives it.
        layer: rms and offset of what the first weight matrix is given.
    """
    tensors = _tensors(batch)
    rows = [scale_of(t) for t in tensors if t.is_floating_point() and t.numel() > 1]
    largest = [_largest(column, [""] * len(column))[0] for column in np.array(rows).T] if rows else [math.nan] * 3
    has_target = len(rows) > 1 or (len(rows) == 1 and len(tensors) > 1 and _is_numbers(tensors[-1]))
    target = rows[-1][1:] if has_target else np.full(2, math.nan)
    seen = np.full(2, math.nan) if layer is None else layer
    values = [*map(float, largest), _change(tensors), *map(float, seen), *map(float, target), *_labelled(tensors)]
    return BatchScale(*values)


def _is_numbers(tensor: Tensor) -> bool:
    """Ratings of a user and an item, say: floating-point, and more than zeros and ones, which are classes or a mask."""
    return tensor.is_floating_point() and tensor.numel() > 1 and not bool(((tensor == 0) | (tensor == 1)).all())


def _labelled(tensors: Sequence[Tensor]) -> tuple[float, float, float]:
    """The entropy of the batch's labels; of inputs with one label each, how many classes there are, and the smallest."""
    labels = _labels(tensors)
    if labels is None:
        return math.nan, math.nan, math.nan
    classes, counts = torch.unique(labels[labels >= 0], return_counts=True)
    entropy, known = _entropy(counts.double()), len(classes)
    if not known or not _is_one_each(tensors):
        return entropy, math.nan, math.nan
    return entropy, float(known), float(classes[0])


def _is_one_each(tensors: Sequence[Tensor]) -> bool:
    """Inputs and their labels, and nothing else: the last of more tensors may be a mask, or whether an episode is over."""
    if len(tensors) != 2 or not tensors[0].dim():
        return False
    return len(tensors[0]) == len(tensors[1]) == tensors[1].numel() >= FEWEST


def _labels(tensors: Sequence[Tensor]) -> Tensor | None:
    """The batch's last tensor, where it holds whole numbers, or zeros and ones. Negative ones stand for "ignored".

    A batch of nothing but token numbers, (examples, tokens), is a language model's: they are the targets, too.
    """
    if not tensors or tensors[-1].is_complex() or tensors[-1].numel() < 2:
        return None
    if len(tensors) == 1 and not (tensors[0].dtype in (torch.int64, torch.int32) and tensors[0].dim() == 2):
        return None
    labels = tensors[-1].detach().flatten()
    labels = labels[:: 1 + len(labels) // MOST_LABELS]
    if labels.is_floating_point() and not bool(((labels == 0) | (labels == 1)).all()):
        return None
    return labels


def _entropy(counts: Tensor) -> float:
    """In nats; NaN for a single class, or for very many.

    With the correction for few examples, (classes - 1)/(2·examples), by Miller (1955).
    """
    if not 1 < len(counts) <= MOST_CLASSES:
        return math.nan
    share = counts / counts.sum()
    return float(-(share * share.log()).sum() + (len(counts) - 1) / (2 * counts.sum()))


def _change(tensors: Sequence[Tensor]) -> float:
    """Largest difference of an example to the first one, in the batch's first tensor that holds several examples."""
    first = next((t for t in tensors if t.dim() > 0 and len(t) > 1 and not t.is_complex()), None)
    return math.nan if first is None else float((first.detach()[1:].float() - first.detach()[:1].float()).abs().max())


def _tensors(batch: Any, depth: int = 4) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch]
    if depth and isinstance(batch, Mapping):
        batch = list(batch.values())
    if depth and isinstance(batch, (list, tuple)):
        return [t for part in batch for t in _tensors(part, depth - 1)]
    return []
