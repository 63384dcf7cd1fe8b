"""The raw rows of many tensors at once in plain torch: any device, any dtype, no compiler.

Tensors of a kind are laid one after the other in pieces, so that an operation is launched once for all that share a
piece. Nothing is read back, and what goes to the device (indices, rates) goes in two copies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_adam.statistics.columns import Columns
from lightning_adam.statistics.quantities import log10_counts
from lightning_adam.statistics.raw import MAXIMA, SUMS, RawTable, Sampling, bias_scales
from lightning_adam.statistics.reading import TensorReading
from lightning_adam.statistics.transfer import sent

Parts = dict[str, Tensor]

CPU_PIECE = 1 << 16
"""Elements that are looked at together: the dozen temporaries stay in the cache."""
SMALLEST_PIECE, LARGEST_PIECE = 1 << 20, 1 << 24
"""Elsewhere a sixteenth of the largest tensor, between these: so many elements cost less than the launches saved."""

TINY = torch.finfo(torch.float32).tiny

_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


@dataclass(frozen=True)
class _Kind:
    """What tensors that are computed together have in common."""

    parts: tuple[str, ...]
    eps: float
    first_scale: float
    second_scale: float

    @classmethod
    def of(cls, reading: TensorReading, flat: Parts) -> _Kind:
        moments = reading.moments
        if moments is None or moments.step < 1:
            return cls(tuple(flat), 0.0, 1.0, 1.0)
        betas = np.array([moments.beta1, moments.beta2])
        return cls(tuple(flat), reading.eps, *bias_scales(betas, np.array(moments.step)).tolist())


@dataclass(frozen=True)
class _Stretch:
    """Elements ``begin`` to ``end`` of a row's tensor."""

    row: int
    begin: int
    end: int

    def of(self, flat: Tensor) -> Tensor:
        """These elements."""
        return flat if self.end - self.begin == len(flat) else flat[self.begin : self.end]


@dataclass(frozen=True)
class _Piece:
    """Stretches of tensors of one kind, one after the other; ``picks`` are the sampled elements' indices in it."""

    kind: _Kind
    stretches: list[_Stretch]
    picks: NDArray[np.int64]
    sampled: list[tuple[int, int, int]]
    """For each stretch its row, and from which to which sampled element of the row it has."""


@torch.no_grad()
def reduce_batched(readings: Sequence[TensorReading], rows: Sequence[int], columns: Columns, table: RawTable) -> None:
    """Fills in the rows of some of the readings, and adds their part of the histograms.

    Args:
        readings: all tensors (or shards) of a step.
        rows: which of them.
        columns: of all.
        table: from :func:`~lightning_adam.statistics.raw.empty_table`.
    """
    flats = {row: _flat(readings[row]) for row in rows}
    size = _piece_size(table.sums.device, [len(flat["parameter"]) for flat in flats.values()])
    pieces = list(_pieces(readings, flats, columns, size))
    if not pieces:
        return
    indices = _Indices.of(pieces, columns.sampling, table.sums.device)
    factors = _Factors.of(pieces, readings, columns, table.sums)
    found = [_reduced(piece, flats, picks, table.sums.dtype) for piece, picks in zip(pieces, indices.picks, strict=True)]
    sums, maxima, steps, inverses = (torch.cat(parts, dim=-1) for parts in zip(*found, strict=True))
    sums.select(0, SUMS.index("step_squared")).mul_(factors.rows.square())
    maxima.select(0, MAXIMA.index("step_max")).mul_(factors.rows)
    sums = sums.select_scatter(_lost(readings, pieces, table.sums), 0, SUMS.index("lost"))
    table.sums.index_add_(0, indices.rows, sums.T)
    table.maxima.scatter_reduce_(0, indices.rows.unsqueeze(1).expand(-1, len(MAXIMA)), maxima.T, "amax")
    rates = inverses * factors.rates
    table.sample.index_copy_(0, indices.slots, rates.float())
    table.counts.add_(torch.stack([log10_counts(values, factors.weights) for values in (steps * factors.steps, rates)]))


@dataclass(frozen=True)
class _Indices:
    """On the device, by one copy: the row of each stretch, each piece's picks, and the places of all in the sample."""

    rows: Tensor
    picks: Sequence[Tensor]
    slots: Tensor

    @classmethod
    def of(cls, pieces: Sequence[_Piece], sampling: Sampling, device: torch.device) -> _Indices:
        """All indices of a step in one transfer to the device."""
        rows = np.array([s.row for piece in pieces for s in piece.stretches])
        slots = [np.arange(low, high) + sampling.begins[row] for p in pieces for row, low, high in p.sampled]
        parts = [rows, *(piece.picks for piece in pieces), np.concatenate(slots)]
        packed = sent(np.concatenate(parts), device)
        first, *picks, last = torch.split(packed, [len(part) for part in parts])
        return cls(first, picks, last)


@dataclass(frozen=True)
class _Factors:
    """On the device, by one copy: what the step is to be multiplied by, per stretch (``rows``) and per sampled element
    (``steps``): α, or 1 where it was measured. And per sampled element α (``rates``) and how many it stands for."""

    rows: Tensor
    steps: Tensor
    rates: Tensor
    weights: Tensor

    @classmethod
    def of(cls, pieces: Sequence[_Piece], readings: Sequence[TensorReading], columns: Columns, like: Tensor) -> _Factors:
        measured = np.array([reading.before is not None for reading in readings])
        rates, weights = columns.lr, columns.sampling.weights() * columns.counts
        steps = np.where(measured, 1.0, rates)
        rows = [s.row for piece in pieces for s in piece.stretches]
        places = [(row, high - low) for piece in pieces for row, low, high in piece.sampled]
        sampled = np.repeat(*np.array(places).reshape(-1, 2).T)
        parts = [steps[rows], steps[sampled], rates[sampled], weights[sampled]]
        packed = sent(np.concatenate(parts).astype(_NUMPY[like.dtype]), like.device)
        return cls(*torch.split(packed, [len(part) for part in parts]))


def _flat(reading: TensorReading) -> Parts:
    """The parts that there are, flat; the denominator only where it is not the second moment itself."""
    moments = reading.moments if reading.moments is not None and reading.moments.step > 0 else None
    found = {"parameter": reading.parameter, "gradient": reading.gradient, "step": reading.measured_step}
    if moments is not None:
        found |= {"first": moments.first, "second": moments.second}
        if moments.denominator is not moments.second:
            found["denominator"] = moments.denominator
    return {name: _as_real(tensor).reshape(-1) for name, tensor in found.items() if tensor is not None}


def _as_real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _piece_size(device: torch.device, lengths: Iterable[int]) -> int:
    if device.type == "cpu":
        return CPU_PIECE
    return min(max(max(lengths, default=0) // 16, SMALLEST_PIECE), LARGEST_PIECE)


def _pieces(readings: Sequence[TensorReading], flats: Mapping[int, Parts], columns: Columns, size: int) -> Iterator[_Piece]:
    kinds: dict[_Kind, list[int]] = {}
    for row, flat in flats.items():
        kinds.setdefault(_Kind.of(readings[row], flat), []).append(row)
    for kind, rows in kinds.items():
        for stretches in _cut([(row, len(flats[row]["parameter"])) for row in rows], size):
            yield _drawn(kind, stretches, columns)


def _cut(tensors: Iterable[tuple[int, int]], size: int) -> Iterator[list[_Stretch]]:
    """Rows and their lengths, cut into pieces of at most so many elements."""
    piece, room = list[_Stretch](), size
    for row, length in tensors:
        begin = 0
        while begin < length:
            end = min(length, begin + room)
            piece.append(_Stretch(row, begin, end))
            begin, room = end, room - (end - begin)
            if room == 0:
                yield piece
                piece, room = [], size
    if piece:
        yield piece


def _drawn(kind: _Kind, stretches: list[_Stretch], columns: Columns) -> _Piece:
    picks, sampled, filled = list[NDArray[np.int64]](), list[tuple[int, int, int]](), 0
    for s in stretches:
        places = columns.sampling.positions(s.row) - columns.offset[s.row]
        low, high = np.searchsorted(places, (s.begin, s.end)).tolist()
        picks.append(places[low:high] - s.begin + filled)
        sampled.append((s.row, low, high))
        filled += s.end - s.begin
    return _Piece(kind, stretches, np.concatenate(picks), sampled)


def _reduced(
    piece: _Piece, flats: Mapping[int, Parts], picks: Tensor, wide: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sums [len(SUMS), n_stretches], maxima [len(MAXIMA), n_stretches], and of the sample |Δθ| (where α is known, over α)
    and 1/(√v̂+ε)."""
    kind, stretches = piece.kind, piece.stretches
    parts = {name: torch.cat([s.of(flats[s.row][name]) for s in stretches]).float() for name in kind.parts}
    parts |= _derived(kind, parts)
    lengths = [s.end - s.begin for s in stretches]
    squares = _per_stretch({name: parts[of] for name, of in _SQUARED.items() if of in parts}, lengths, 2, wide)
    sums = _per_stretch({name: parts[of] for name, of in _ADDED.items() if of in parts}, lengths, 1, wide)
    tops = _per_stretch({name: parts[of] for name, of in _LARGEST.items() if of in parts}, lengths, None, wide)
    sums |= {name: norm.square() for name, norm in squares.items()}
    like, unknown = sums["parameter_squared"], torch.full_like(picks, math.nan, dtype=torch.float32)
    step, inverse = (parts[name].index_select(0, picks) if name in parts else unknown for name in ("step", "inverse"))
    nothing = torch.full_like(like, math.nan), torch.full_like(like, -math.inf)
    return _rows(sums, SUMS, nothing[0]), _rows(tops, MAXIMA, nothing[1]), step, inverse


_SQUARED = {
    "gradient_squared": "gradient",
    "parameter_squared": "parameter",
    "first_squared": "first",
    "ratio_squared": "ratio",
    "surprise_squared": "surprise",
    "step_squared": "step",
}
_ADDED = {"zero_gradient": "still", "second": "second", "alive": "alive", "ratio": "ratio", "swamped": "swamped"}
_LARGEST = {
    "first_max": "first",
    "second_max": "second",
    "minus_second_max": "minus_second",
    "ratio_max": "ratio",
    "step_max": "step",
}
"""Which part each sum of squares, each sum and each maximum is taken of; nothing that is added is negative."""


def _derived(kind: _Kind, parts: Parts) -> Parts:
    """What is computed from the raw parts; ``first`` and ``step`` become absolute values."""
    found = {}
    if "gradient" in parts:
        found["still"] = (parts["gradient"] == 0).float()
    if "first" in parts:
        found["first"] = parts["first"].abs()
    if "second" in parts:
        found |= _from_second(kind, parts)
    if "first" in parts and "second" in parts:
        found["ratio"] = found["step"] = found["first"] * kind.first_scale * found["inverse"]
    if "step" in parts:
        found["step"] = parts["step"].abs()
    return found


def _from_second(kind: _Kind, parts: Parts) -> Parts:
    """√v̂ in all its uses; the running maximum's under AMSGrad, but for the surprise."""
    second = parts["second"]
    root, alive = (second * kind.second_scale).sqrt_(), second != 0
    below = (parts["denominator"] * kind.second_scale).sqrt_() if "denominator" in parts else root
    inverse = (below + kind.eps).reciprocal_()
    found = {"inverse": inverse, "swamped": torch.where(alive, inverse * kind.eps, 0.0)}
    if "gradient" in parts:
        found["surprise"] = parts["gradient"] / root.clamp_(min=max(kind.eps, TINY))
    return found | {"alive": alive.float(), "minus_second": -second}


def _per_stretch(values: Parts, lengths: list[int], order: int | None, wide: torch.dtype) -> Parts:
    """Norms of this order of each stretch, or largest values with None."""
    if not values:
        return {}
    views = [view for value in values.values() for view in torch.split(value, lengths)]
    found = torch._foreach_max(views) if order is None else torch._foreach_norm(views, order, wide)
    return dict(zip(values, torch.stack(found).to(wide).view(len(values), -1), strict=True))


def _rows(values: Parts, names: Sequence[str], missing: Tensor) -> Tensor:
    return torch.stack([values.get(name, missing) for name in names])


def _lost(readings: Sequence[TensorReading], pieces: Sequence[_Piece], like: Tensor) -> Tensor:
    """Lost updates per stretch; NaN where nobody counted them."""
    stretches = [s for piece in pieces for s in piece.stretches]
    losses = {row: readings[row].lost for row in {s.row for s in stretches}}
    if all(lost is None for lost in losses.values()):
        return torch.full((len(stretches),), math.nan, dtype=like.dtype, device=like.device)
    blank = torch.full((), math.nan, device=like.device)
    shares = [blank if (lost := losses[s.row]) is None else lost for s in stretches]
    lengths = np.array([s.end - s.begin for s in stretches], dtype=_NUMPY[like.dtype])
    return torch.stack(shares).to(like.dtype) * sent(lengths, like.device)
