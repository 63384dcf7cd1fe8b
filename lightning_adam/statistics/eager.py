"""The raw row of one tensor in plain torch: any device, any dtype, no compiler. The reference for the kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_adam.statistics.quantities import BINS, log10_counts
from lightning_adam.statistics.raw import MAXIMA, SUMS, bias_scale, wide_dtype
from lightning_adam.statistics.reading import TensorReading

PIECE = {"cpu": 1 << 16, "cuda": 1 << 22}
"""Elements that are looked at together: temporaries stay in the CPU's cache, and small beside a large tensor."""

TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class _Flat:
    """One tensor's parts, or the same stretch of each, flat; None where the optimizer or the step has none.

    ``first``, ``second`` and ``denominator`` are raw moments, ``step`` is the measured Δθ.
    """

    parameter: Tensor
    gradient: Tensor | None
    first: Tensor | None
    second: Tensor | None
    denominator: Tensor | None
    step: Tensor | None

    @classmethod
    def of(cls, reading: TensorReading) -> _Flat:
        moments = reading.moments if reading.moments is not None and reading.moments.step > 0 else None
        raw = (None, None, None) if moments is None else (moments.first, moments.second, moments.denominator)
        rest = [None if t is None else _as_real(t).reshape(-1) for t in (reading.gradient, *raw, reading.measured_step)]
        return cls(_as_real(reading.parameter).reshape(-1), *rest)

    def at(self, where: slice | Tensor) -> _Flat:
        """These elements of all parts, in float32."""
        parts = (self.gradient, self.first, self.second, self.denominator, self.step)
        return _Flat(self.parameter[where].float(), *(None if part is None else part[where].float() for part in parts))


def _as_real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


@torch.no_grad()
def reduce_eager(reading: TensorReading, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row of sums, row of maxima, and sample of one tensor, as :class:`~lightning_adam.statistics.raw.RawTable` has them.

    Args:
        reading: a tensor or a shard.
        places: which of the whole tensor's elements are sampled.
    """
    flat, wide = _Flat.of(reading), wide_dtype(reading.parameter.device)
    sums = torch.zeros(len(SUMS), dtype=wide, device=reading.parameter.device)
    maxima = torch.full((len(MAXIMA),), -math.inf, dtype=wide, device=sums.device)
    length = PIECE.get(sums.device.type, 1 << 18)
    for start in range(0, len(flat.parameter), length):
        more, tops = _reduce_piece(reading, flat.at(slice(start, start + length)), wide)
        sums, maxima = sums + more, torch.maximum(maxima, tops)
    counts, sample = _sampled(reading, flat, places - reading.offset)
    return torch.cat([sums, counts.to(wide)]), maxima, sample


@torch.no_grad()
def update_ratio(reading: TensorReading) -> Tensor:
    """‖Δθ‖/‖θ‖ alone, without the rest of the row; NaN where θ is all zero or the step is unknown."""
    flat = _Flat.of(reading).at(slice(None))
    step, size = _step(reading, flat), torch.linalg.vector_norm(flat.parameter)
    moved = torch.full_like(size, math.nan) if step is None else torch.linalg.vector_norm(step)
    return torch.where(size > 0, moved / size, math.nan)


def _reduce_piece(reading: TensorReading, piece: _Flat, wide: torch.dtype) -> tuple[Tensor, Tensor]:
    sums = {"parameter_squared": _squares(piece.parameter, wide)}
    maxima: dict[str, Tensor] = {}
    if piece.gradient is not None:
        sums |= {"gradient_squared": _squares(piece.gradient, wide), "zero_gradient": (piece.gradient == 0).sum()}
    if reading.lost is not None:
        sums["lost"] = reading.lost * len(piece.parameter)
    for found, tops in (_moment_sums(reading, piece, wide), _step_sums(reading, piece, wide)):
        sums, maxima = sums | found, maxima | tops
    return _row(sums, SUMS, math.nan, piece.parameter, wide), _row(maxima, MAXIMA, -math.inf, piece.parameter, wide)


def _row(values: dict[str, Tensor], names: tuple[str, ...], missing: float, like: Tensor, wide: torch.dtype) -> Tensor:
    blank = torch.full((), missing, dtype=wide, device=like.device)
    return torch.stack([values[name].to(wide) if name in values else blank for name in names])


def _moment_sums(reading: TensorReading, piece: _Flat, wide: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Of m, of v, and of both: an optimizer may keep one of them only."""
    sums: dict[str, Tensor] = {}
    maxima: dict[str, Tensor] = {}
    if piece.first is not None:
        sums["first_squared"] = _squares(piece.first, wide)
        maxima["first_max"] = piece.first.abs()
    if piece.second is not None:
        sums |= _second_sums(reading, piece, piece.second, wide)
        maxima |= {"second_max": piece.second, "minus_second_max": -piece.second}
    if piece.first is not None and piece.second is not None:
        ratio = _ratio(reading, piece)
        sums |= {"ratio": ratio.to(wide).sum(), "ratio_squared": _squares(ratio, wide)}
        maxima["ratio_max"] = ratio
    return sums, {name: values.amax() for name, values in maxima.items()}


def _second_sums(reading: TensorReading, piece: _Flat, second: Tensor, wide: torch.dtype) -> dict[str, Tensor]:
    alive = second != 0
    sums = {
        "second": second.to(wide).sum(),
        "alive": alive.sum(),
        "swamped": torch.where(alive, reading.eps / _denominator(reading, piece), 0.0).to(wide).sum(),
    }
    if piece.gradient is not None:
        sums["surprise_squared"] = _squares(piece.gradient / _floored_root(reading, piece), wide)
    return sums


def _step_sums(reading: TensorReading, piece: _Flat, wide: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    step = _step(reading, piece)
    return ({}, {}) if step is None else ({"step_squared": _squares(step, wide)}, {"step_max": step.amax()})


def _squares(values: Tensor, wide: torch.dtype) -> Tensor:
    return values.to(wide).square().sum()


def _second_scale(reading: TensorReading) -> float:
    assert reading.moments is not None
    return bias_scale(reading.moments.beta2, reading.moments.step)


def _floored_root(reading: TensorReading, piece: _Flat) -> Tensor:
    """max(√v̂, ε), and never 0: Wortsman et al. 2023, arXiv:2304.13013."""
    assert piece.second is not None
    return (piece.second * _second_scale(reading)).sqrt_().clamp_(min=max(reading.eps, TINY))


def _denominator(reading: TensorReading, piece: _Flat) -> Tensor:
    """√v̂+ε; of the running maximum under AMSGrad."""
    assert piece.denominator is not None
    return (piece.denominator * _second_scale(reading)).sqrt_().add_(reading.eps)


def _ratio(reading: TensorReading, piece: _Flat) -> Tensor:
    """|m̂|/(√v̂+ε)."""
    assert piece.first is not None and reading.moments is not None
    scale = bias_scale(reading.moments.beta1, reading.moments.step)
    return (piece.first * scale).abs_().div_(_denominator(reading, piece))


def _step(reading: TensorReading, piece: _Flat) -> Tensor | None:
    """|Δθ| without decoupled decay: measured where a copy exists, else α·|m̂|/(√v̂+ε)."""
    if piece.step is not None:
        return piece.step.abs()
    return None if piece.first is None or piece.second is None else _ratio(reading, piece) * reading.lr


def _sampled(reading: TensorReading, flat: _Flat, places: Tensor) -> tuple[Tensor, Tensor]:
    """Counts of both histograms, for all elements of this shard, and the sample of α/(√v̂+ε)."""
    here = (places >= 0) & (places < len(flat.parameter))
    if len(flat.parameter) == 0:
        return torch.zeros(2 * BINS, device=places.device), torch.zeros(len(places), device=places.device)
    drawn = flat.at(places.clamp(0, len(flat.parameter) - 1))
    step = _step(reading, drawn)
    rate = None if drawn.second is None else reading.lr / _denominator(reading, drawn)
    none = torch.zeros(BINS, device=places.device)
    counts = torch.cat([none if values is None else log10_counts(values, here) for values in (step, rate)])
    sample = torch.full_like(drawn.parameter, math.nan) if rate is None else torch.where(here, rate, 0.0)
    return counts * (reading.total / len(places)), sample
