"""The numbers that the rules read: one step's signals, and what is remembered of the steps before."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

WINDOW = 200
"""Steps of loss and gradient norm that are remembered."""


@dataclass(frozen=True)
class NonFinite:
    """The first thing in a step that was NaN or Inf: the loss precedes gradients, they precede the state."""

    where: Literal["loss", "gradient", "moment", "parameter"]
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepSignals:
    """What one optimizer step showed, as plain numbers.

    Attributes:
        step: the log's x-axis.
        loss: training loss of this step (the mean over accumulated batches), or None where it is not known.
        gradient_norm: total norm before clipping, after unscaling.
        lr: the largest learning rate of the groups, as this step used it.
        beta2: the largest β₂ of the groups, or NaN.
        batch: index of the batch in its epoch.
        non_finite: the first non-finite thing, or None.
        update_ratios: ‖Δθ‖/‖θ‖ per weight matrix, or None on steps that did not measure it.
    """

    step: int
    loss: float | None
    gradient_norm: float
    lr: float
    beta2: float = math.nan
    batch: int = 0
    non_finite: NonFinite | None = None
    update_ratios: Mapping[str, float] | None = None


@dataclass
class History:
    """What is remembered of the run before the present step; every field is a plain type.

    Attributes:
        count: steps seen.
        losses: the last losses, oldest first.
        norms: the last gradient norms, oldest first.
        first_loss: the first finite losses, at most five.
        best_loss: lowest median of 25 losses so far.
        first_lr: learning rate of the first step.
        peak_lr: highest learning rate so far.
        ratio_average: moving average (0.8) of the median update ratio over measured steps.
        early_ratio: largest update ratio of a weight matrix in the first ten steps.
        early_tensor: where that was.
        spikes: steps at which the gradient norm stood out, at most 50.
    """

    count: int = 0
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    first_loss: list[float] = field(default_factory=list)
    best_loss: float = math.inf
    first_lr: float = math.nan
    peak_lr: float = 0.0
    ratio_average: float = math.nan
    early_ratio: float = 0.0
    early_tensor: str = ""
    spikes: list[int] = field(default_factory=list)

    @property
    def initial_loss(self) -> float:
        """L0: the median of the first five losses."""
        return median(self.first_loss)

    def recent_losses(self, length: int) -> list[float]:
        """The last losses, at most ``length``."""
        return self.losses[-length:]

    def observe_ratios(self, ratios: Mapping[str, float]) -> None:
        """Take in the update ratios of a measured step (before its rules are asked)."""
        middle = median(list(ratios.values()))
        start = math.isnan(self.ratio_average)
        self.ratio_average = middle if start else 0.8 * self.ratio_average + 0.2 * middle
        name, largest = max(ratios.items(), key=lambda item: item[1])
        if self.count < 10 and largest > self.early_ratio:
            self.early_ratio, self.early_tensor = largest, name

    def remember(self, signals: StepSignals) -> None:
        """Take in a step after its rules were asked; what is not finite is not remembered."""
        if self.count == 0:
            self.first_lr = signals.lr
        self.count += 1
        self.peak_lr = max(self.peak_lr, signals.lr)
        if math.isfinite(signals.gradient_norm):
            self.norms = [*self.norms, signals.gradient_norm][-WINDOW:]
        if signals.loss is not None and math.isfinite(signals.loss):
            self._remember_loss(signals.loss)

    def _remember_loss(self, loss: float) -> None:
        self.losses = [*self.losses, loss][-WINDOW:]
        if len(self.first_loss) < 5:
            self.first_loss.append(loss)
        if len(self.losses) >= 25:
            self.best_loss = min(self.best_loss, median(self.recent_losses(25)))

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a checkpoint."""
        return asdict(self)


def median(values: Sequence[float]) -> float:
    """The median; NaN for nothing."""
    return statistics.median(values) if values else math.nan


def spread(values: Sequence[float]) -> float:
    """Robust standard deviation, 1.4826 · median absolute deviation; NaN for nothing."""
    centre = median(values)
    return 1.4826 * median([abs(v - centre) for v in values])
