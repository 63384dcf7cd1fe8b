"""What others use, side by side: the real classes where they install, a few lines from the source where not."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.spike import SpikeDetection
from numpy.typing import NDArray

from tests.benchmarks.divergence.running import Run
from tests.benchmarks.divergence.scoring import Detector, Flags


def early_stopping(run: Run) -> Flags:
    """Lightning's own EarlyStopping(check_finite=True), asked at every step."""
    callback = EarlyStopping("loss", patience=10**9, check_finite=True)
    return np.array([callback._evaluate_stopping_criteria(torch.tensor(loss))[0] for loss in run.losses], dtype=bool)


def nan_monitor(run: Run) -> Flags:
    """Composer's NaNMonitor: ``torch.isnan(loss).any()`` (composer/callbacks/nan_monitor.py)."""
    return np.isnan(run.losses)


class RunningMean:
    """Of the last ten numbers that are any, as torchmetrics' has it, which takes half a millisecond for each."""

    def __init__(self) -> None:
        self._values: deque[torch.Tensor] = deque(maxlen=10)

    def update(self, value: torch.Tensor) -> None:
        """Take one in."""
        if not torch.isnan(value):
            self._values.append(value)

    def compute(self) -> torch.Tensor:
        """The mean; NaN of none."""
        return torch.tensor(sum(v.item() for v in self._values) / len(self._values) if self._values else math.nan)


def spike_detection(run: Run) -> Flags:
    """Lightning's own SpikeDetection with its defaults."""
    callback = SpikeDetection()
    callback.running_mean = RunningMean()
    warned = []
    for step, loss in enumerate(run.losses):
        value = torch.tensor(loss)
        spike = step >= callback.warmup and bool(callback._is_spike(value))
        warned.append(spike)
        if not spike:
            callback._update_stats(value)
    return np.array(warned, dtype=bool)


def kill_loss_spike(run: Run, patience: int = 4, times: float = 2.0, window: int = 100, cap: float = 10.0) -> Flags:
    """llm-foundry's KillLossSpike (llmfoundry/callbacks/kill_loss_spike_callback.py).

    Twice the running mean five times in a row; or half of a window over the cap.
    """
    losses: deque[float] = deque(maxlen=max(window, round(0.05 * len(run.losses))))
    limit, count, warned, known = cap, 0, np.zeros(len(run.losses), dtype=bool), False
    for t, loss in enumerate(run.losses):
        if len(losses) == losses.maxlen:
            limit, known = (limit, True) if known else (min(max(losses), cap), True)
            count = count + 1 if loss >= float(np.mean(losses)) * times else 0
            high = sum(x > limit for x in losses) >= len(losses) / 2
            warned[t] = count > patience or (high and t >= 2 * len(losses))
        losses.append(float(loss))
    return warned


def six_sigma(values: NDArray[np.float64], window: int = 128, sigmas: float = 6.0) -> Flags:
    """Over the mean of the last 128 by six standard deviations."""
    seen: deque[float] = deque(maxlen=window)
    warned = np.zeros(len(values), dtype=bool)
    for t, value in enumerate(values):
        if len(seen) == window:
            warned[t] = np.std(seen) >= 1e-10 and value > np.mean(seen) + sigmas * np.std(seen)
        seen.append(float(value))
    return warned


def olmo(run: Run) -> Flags:
    """OLMo-core's StabilityMonitor (src/olmo_core/train/callbacks/stability_monitor.py): 6σ on the loss and on the norm."""
    return six_sigma(run.losses) | six_sigma(_norms(run))


def z_score(values: NDArray[np.float64], limit: float, alpha: float = 0.97, warmup: int = 25) -> Flags:
    """ZClip's rule (arXiv:2504.02507) as an alarm: an exponential mean and variance, into which clipped values go."""
    warned, first = np.zeros(len(values), dtype=bool), values[:warmup]
    if len(values) <= warmup or not np.isfinite(first).all():
        return ~np.isfinite(values)
    mean, variance = float(np.mean(first)), float(np.var(first))
    for t in range(warmup, len(values)):
        value, deviation = float(values[t]), math.sqrt(variance)
        z = (value - mean) / (deviation + 1e-6)
        if not math.isfinite(value) or z > limit:
            warned[t] = True
            value = mean + limit * limit * deviation / z if math.isfinite(z) else mean
        mean = alpha * mean + (1 - alpha) * value
        variance = alpha * variance + (1 - alpha) * (value - mean) * (value - mean)
    return warned


def surprise(run: Run, limit: float = 2.3) -> Flags:
    """RMS_t ≥ 2.3 in some tensor (Wortsman et al. 2023, arXiv:2304.13013), on the steps with the pass over all."""
    return np.array([s.heavy is not None and s.heavy.surprise_max >= limit for s in run.steps], dtype=bool)


def _norms(run: Run) -> NDArray[np.float64]:
    return np.array([s.gradient_norm for s in run.steps])


BASELINES: dict[str, Detector] = {
    "EarlyStopping(check_finite) (Lightning)": early_stopping,
    "NaNMonitor (Composer's rule)": nan_monitor,
    "KillLossSpike (llm-foundry's rule)": kill_loss_spike,
    "SpikeDetection (Lightning)": spike_detection,
    "6σ on loss and gradient norm (OLMo-core's rule)": olmo,
    "z > 6 on the loss": lambda run: z_score(run.losses, 6.0),
    "z > 2.5 on the gradient norm (ZClip's rule)": lambda run: z_score(_norms(run), 2.5),
    "RMS_t ≥ 2.3 (Wortsman et al.)": surprise,
}
