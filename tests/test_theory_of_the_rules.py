"""The limits that the rules measure against are what noise and the worst gradients give."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_adam.diagnosis.theory import noise_floor, slowest_decay, update_bound
from tests.healthy_run import both, diagnose, healthy, heavy, light


@pytest.mark.parametrize("beta1", [0.0, 0.5, 0.9, 0.95])
def test_limit_of_the_update_ratio_scales_with_the_noise_floor(beta1: float) -> None:
    """3 % at β₁ = 0.9; steps of a smaller β₁ are larger and less aligned, by √((1-β₁)/(1+β₁))."""
    limit = 0.03 * noise_floor(beta1) / noise_floor(0.9)

    def rules_at(ratio: float) -> list[str]:
        return [f.rule for f in diagnose(map(both(heavy(40, update_ratio_p50=ratio), light(beta1=beta1)), healthy()))]

    assert "LR-HIGH" in rules_at(1.1 * limit)
    assert "LR-HIGH" not in rules_at(0.9 * limit)


@pytest.mark.parametrize(("beta1", "beta2"), [(0.9, 0.999), (0.9, 0.95), (0.5, 0.999), (0.9, 0.99), (0.0, 0.9)])
def test_bound_is_what_the_worst_gradients_give(beta1: float, beta2: float) -> None:
    """The closed form equals the worst case found numerically: gᵢ ∝ wᵢ/zᵢ (equality in Cauchy-Schwarz)."""
    for t in (1, 2, 10, 300):
        age = np.arange(t, dtype=np.float64)
        w = (1 - beta1) * beta1**age / (1 - beta1**t)
        z = (1 - beta2) * beta2**age / (1 - beta2**t)
        g = np.divide(w, z)
        worst = (w * g).sum() / math.sqrt((z * g * g).sum())
        assert update_bound(beta1, beta2, t) == pytest.approx(worst, rel=1e-9)
    assert update_bound(beta1, beta2) == pytest.approx(update_bound(beta1, beta2, 30_000), rel=1e-6)


def test_noise_floor_is_that_of_noise() -> None:
    """rms(u) of Adam fed with unit normal noise, 20,000 steps at β₂ = 0.999."""
    noise = np.random.default_rng(1).normal(size=(20_000, 50))
    m, v, squares = np.zeros(50), np.zeros(50), []
    for t, g in enumerate(noise, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        if t > 5000:
            squares.append(np.mean((m / np.sqrt(v)) ** 2))

    assert math.sqrt(np.mean(squares)) == pytest.approx(noise_floor(0.9), rel=0.03)


def test_second_moment_never_falls_faster_than_its_limit() -> None:
    """√v̂ after steps with no gradient at all is exactly the limit that STATE-LOST measures against."""
    before, after = 37, 20
    v = 0.3
    rooted = math.sqrt(v / (1 - 0.99**before)), math.sqrt(v * 0.99**after / (1 - 0.99 ** (before + after)))

    assert rooted[1] / rooted[0] == pytest.approx(slowest_decay(0.99, after, before))
