"""The raw rows of many tensors at once in plain torch: any device, any dtype, no compiler.

Tensors of a kind are laid one after the other in pieces, so that an operation is launched once for all that share a
piece. Nothing is read back, and what goes to the device (indices, rates) goes in two copies.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_adam.statistics.columns import Columns
from lightning_adam.statistics.elements import CONSTANTS, VALUES, Reduction
from lightning_adam.statistics.quantities import MAXIMA, SUMS, log10_counts
from lightning_adam.statistics.raw import RawTable
from lightning_adam.statistics.reading import TensorReading
from lightning_adam.statistics.sampling import Sampling
from lightning_adam.statistics.transfer import sent

Parts = dict[str, Tensor]

CPU_PIECE = 1 << 16
"""Elements that are looked at together: the dozen temporaries stay in the cache."""
SMALLEST_PIECE, LARGEST_PIECE = 1 << 20, 1 << 24
"""Elsewhere a sixteenth of the largest tensor, between these: so many elements cost less than the launches saved."""

_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


class _Kind(NamedTuple):
    """What tensors that are computed together have in common: which parts they have, and their CONSTANTS."""

    parts: tuple[str, ...]
    constants: tuple[float, ...]


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
    size = _piece_size(table.sums.device, [len(flat["p"]) for flat in flats.values()])
    pieces = list(_pieces(flats, columns, size))
    if not pieces:
        return
    indices = _Indices.of(pieces, columns.sampling, table.sums.device)
    factors = _Factors.of(pieces, columns, table.sums)
    found = [_reduced(piece, flats, picks, table.sums.dtype) for piece, picks in zip(pieces, indices.picks, strict=True)]
    sums, maxima, steps, inverses = (torch.cat(parts, dim=-1) for parts in zip(*found, strict=True))
    table.sums.index_add_(0, indices.rows, sums.T)
    table.maxima.scatter_reduce_(0, indices.rows.unsqueeze(1).expand(-1, len(MAXIMA)), maxima.T, "amax")
    rates = inverses * factors.rates
    table.sample.index_copy_(0, indices.slots, rates.float())
    counted = [log10_counts(values, indices.owners, len(table.counts)) for values in (steps * factors.steps, rates)]
    table.counts.add_(torch.stack(counted, dim=1))


@dataclass(frozen=True)
class _Indices:
    """On the device, by one copy: the row of each stretch, each piece's picks, and of all of these the places in the sample
    and the rows."""

    rows: Tensor
    picks: Sequence[Tensor]
    slots: Tensor
    owners: Tensor

    @classmethod
    def of(cls, pieces: Sequence[_Piece], sampling: Sampling, device: torch.device) -> _Indices:
        """All indices of a step in one transfer to the device."""
        rows = np.array([s.row for piece in pieces for s in piece.stretches])
        slots = [np.arange(low, high) + sampling.begins[row] for p in pieces for row, low, high in p.sampled]
        parts = [rows, *(piece.picks for piece in pieces), np.concatenate(slots), _owners(pieces)]
        packed = sent(np.concatenate(parts), device)
        first, *picks, places, owners = torch.split(packed, [len(part) for part in parts])
        return cls(first, picks, places, owners)


@dataclass(frozen=True)
class _Factors:
    """On the device, by one copy, per sampled element: what the step is to be multiplied by (``steps``: α, or 1 where it was
    measured), and α (``rates``)."""

    steps: Tensor
    rates: Tensor

    @classmethod
    def of(cls, pieces: Sequence[_Piece], columns: Columns, like: Tensor) -> _Factors:
        owners, rates = _owners(pieces), columns.lr
        parts = [np.where(columns.measured, 1.0, rates)[owners], rates[owners]]
        packed = sent(np.concatenate(parts).astype(_NUMPY[like.dtype]), like.device)
        return cls(*torch.split(packed, [len(part) for part in parts]))


def _owners(pieces: Sequence[_Piece]) -> NDArray[np.int64]:
    """The row of each sampled element."""
    sampled = [(row, high - low) for piece in pieces for row, low, high in piece.sampled]
    owners: NDArray[np.int64] = np.repeat(*np.array(sampled, dtype=np.int64).reshape(-1, 2).T)
    return owners


def _flat(reading: TensorReading) -> Parts:
    """PARTS of elements.py that there are, flat; the denominator only where it is not the second moment itself."""
    moments = reading.moments if reading.moments is not None and reading.moments.step > 0 else None
    found = {"p": reading.parameter, "g": reading.gradient, "before": reading.before}
    if moments is not None:
        found |= {"m": moments.first, "v": moments.second}
        if moments.denominator is not moments.second:
            found["d"] = moments.denominator
    return {name: _as_real(tensor).reshape(-1) for name, tensor in found.items() if tensor is not None}


def _as_real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _piece_size(device: torch.device, lengths: Iterable[int]) -> int:
    if device.type == "cpu":
        return CPU_PIECE
    return min(max(max(lengths, default=0) // 16, SMALLEST_PIECE), LARGEST_PIECE)


def _pieces(flats: Mapping[int, Parts], columns: Columns, size: int) -> Iterator[_Piece]:
    kinds: dict[_Kind, list[int]] = {}
    constants = np.nan_to_num([getattr(columns, name) for name in CONSTANTS], nan=1.0, posinf=math.inf).T.tolist()
    for row, flat in flats.items():
        kinds.setdefault(_Kind(tuple(flat), tuple(constants[row])), []).append(row)
    for kind, rows in kinds.items():
        for stretches in _cut([(row, len(flats[row]["p"])) for row in rows], size):
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
    stretches, lengths = piece.stretches, [s.end - s.begin for s in piece.stretches]
    parts = {name: torch.cat([s.of(flats[s.row][name]) for s in stretches]) for name in piece.kind.parts}
    known = _with_values(
        {name: _in_float(part) for name, part in parts.items()}, dict(zip(CONSTANTS, piece.kind.constants, strict=True))
    )
    sums, maxima = (_rows(of, known, lengths, nothing, wide) for of, nothing in ((SUMS, math.nan), (MAXIMA, -math.inf)))
    unknown = torch.full_like(picks, math.nan, dtype=torch.float32)
    moved = known["ratio"] if known["step"] is None else known["step"]
    step, inverse = (unknown if of is None else of.index_select(0, picks) for of in (moved, known["inverse"]))
    return sums, maxima, step, inverse


def _in_float(part: Tensor) -> Tensor:
    """In float32 at least."""
    return part if part.dtype is torch.float64 else part.float()


_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "abs": torch.abs,
    "sqrt": torch.sqrt,
    "where": torch.where,
    "reciprocal": torch.reciprocal,
    "at_least": lambda least, value: value.clamp(min=least),
}


def _with_values(parts: Parts, constants: Mapping[str, float]) -> dict[str, Any]:
    """With VALUES; None is what a part is lacking for."""
    known: dict[str, Any] = {"d": parts.get("v"), "wanted": parts.get("m", parts.get("g")), **constants, **parts}
    for name, expression in VALUES.items():
        is_root = name == "largest_root" and "d" not in parts
        known[name] = known["root"] if is_root else _evaluated(expression, known)
    return known


def _evaluated(expression: str, known: Mapping[str, Any]) -> Any:
    """None where something that it takes is not there."""
    code = _compiled(expression)
    there = all(known.get(name) is not None or name in _FUNCTIONS for name in code.co_names)
    return eval(code, {**_FUNCTIONS, **known}) if there else None


@functools.cache
def _compiled(expression: str) -> CodeType:
    return compile(expression, expression, "eval")


def _rows(
    reductions: Sequence[Reduction], known: Mapping[str, Any], lengths: list[int], nothing: float, wide: torch.dtype
) -> Tensor:
    """One row for each, [n_reductions, n_stretches]; of ``nothing`` where its parts are not there."""
    found = dict[Reduction, Tensor]()
    for kind, reduced in _REDUCED.items():
        values = {of: value for of in reductions if of.kind == kind and (value := _evaluated(of.of, known)) is not None}
        views = [view for value in values.values() for view in torch.split(_in_float(value), lengths)]
        if views:
            found |= zip(values, torch.stack(list(reduced(views, wide))).to(wide).view(len(values), -1), strict=True)
    missing = torch.full((len(lengths),), nothing, dtype=wide, device=known["p"].device)
    return torch.stack([found.get(of, missing) for of in reductions])


_REDUCED: dict[str, Callable[[list[Tensor], torch.dtype], Iterable[Tensor]]] = {
    "squares": lambda views, wide: torch._foreach_pow(torch._foreach_norm(views, 2, wide), 2),
    "total": lambda views, wide: torch._foreach_norm(views, 1, wide),
    "count": lambda views, wide: torch._foreach_norm(views, 1, wide),
    "largest": lambda views, wide: torch._foreach_max(views),
}
"""One number of each view, by one launch for all; a total is a norm because nothing that it adds up is negative."""
