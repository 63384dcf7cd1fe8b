"""What readings say beside their tensors, as arrays: one walk over them, and NumPy from there on."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lightning_adam.statistics.reading import TensorReading
from lightning_adam.statistics.sampling import Sampling

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Columns:
    """One entry per tensor, [n_tensors] each, in the readings' order; as :class:`TensorReading` says.

    Attributes:
        names, groups: of the tensor and its parameter group.
        rates: learning rate by group.
        numel, offset, total: elements here, before them, and of the whole tensor.
        lr, eps, decay: α, ε and λ.
        beta1, beta2, step: β₁, β₂ and t; t is NaN where there are no moments.
        share, stretch: what decay did to θ, as CONSTANTS in elements.py.
        decoupled, counts: whether decay shrinks θ itself, and whether this rank brings the tensor in.
        measured, narrow: whether the step is measured, and whether θ has 16 bits, so that a step may be rounded away.
        is_sampled: whether quantiles and histograms are wanted, which take a sample of the elements.
    """

    names: list[str]
    groups: list[str]
    rates: dict[str, float]
    numel: Integers
    offset: Integers
    total: Integers
    lr: Floats
    eps: Floats
    decay: Floats
    beta1: Floats
    beta2: Floats
    step: Floats
    share: Floats
    stretch: Floats
    decoupled: Flags
    counts: Flags
    measured: Flags
    narrow: Flags
    is_sampled: bool = field(default=True, kw_only=True)

    @classmethod
    def of(cls, readings: Sequence[TensorReading], is_sampled: bool = True) -> Columns:
        """The columns of a step's readings."""
        rows = np.array([_row(r) for r in readings], dtype=np.float64).reshape(-1, 15).T
        numel, offset, total = rows[:3].astype(np.int64)
        return cls(
            [r.name for r in readings],
            [r.group for r in readings],
            {r.group: r.lr if r.group_lr is None else r.group_lr for r in readings},
            numel,
            offset,
            total,
            *rows[3:11],
            *(rows[11:] > 0),
            is_sampled=is_sampled,
        )

    @functools.cached_property
    def sampling(self) -> Sampling:
        """Which elements stand for each tensor."""
        return Sampling.of_sizes(self.total) if self.is_sampled else Sampling.none(self.total)

    @functools.cached_property
    def floor(self) -> Floats:
        """As CONSTANTS in elements.py."""
        return np.maximum(self.eps, np.finfo(np.float32).tiny)

    @functools.cached_property
    def first_scale(self) -> Floats:
        """1/(1-β₁ᵗ)."""
        return bias_scales(self.beta1, self.step)

    @functools.cached_property
    def second_scale(self) -> Floats:
        """1/(1-β₂ᵗ)."""
        return bias_scales(self.beta2, self.step)


def bias_scales(beta: Floats, step: Floats) -> Floats:
    """1/(1-βᵗ), Adam's bias correction; infinite where β is 1."""
    with np.errstate(divide="ignore"):
        scales: Floats = 1.0 / (1.0 - beta**step)
    return scales


def _row(of: TensorReading) -> tuple[float, ...]:
    moments = of.moments
    known = moments is not None and moments.step > 0
    averages = (moments.beta1, moments.beta2, moments.step) if moments is not None and known else (np.nan,) * 3
    sizes, measured = (of.parameter.numel(), of.offset, of.total), of.before is not None
    flags = (of.decoupled, of.counts, measured, measured and of.parameter.element_size() < 4)
    return (*sizes, of.lr, of.eps, of.decay, *averages, of.shrunk.share, of.shrunk.stretch, *flags)
