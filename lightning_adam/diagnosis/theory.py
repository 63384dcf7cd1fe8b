"""What Adam's arithmetic allows and what pure noise gives: thresholds that follow from β₁ and β₂ and need no tuning.

With u = m̂/(√v̂+ε), m and v exponential averages of g and g² (Kingma & Ba 2014, arXiv:1412.6980).
"""

from __future__ import annotations

import math

SMALL_RATIO = 1.5e-4
"""Median ‖Δθ‖/‖θ‖: 84 healthy runs had 3.1e-4 and more, runs with too low a rate 1e-4 and less."""
HEALTHY_RATIO = 0.002
"""The median of 84 healthy runs is 0.0021 (p10 0.0012, p90 0.0049)."""
FIRST_STEP, OF_STEPS = 0.05, 250
"""‖Δθ‖/‖θ‖ that a good rate gives where each element moves by the rate (|u| = 1, as in Adam's first step), in a run of so
many steps: of 32 tuned families of the corpus, 120 to 300 steps long, the geometric mean is 0.05 (p10 0.02, p90 0.13) for
the median matrix, and 0.07 for the one that moves most; of 30 others, which were not looked at, 0.04 and 0.06."""
FIRST_STEPS = (0.015, 0.1)
"""The least and the most of it: 3e-4 to 1e-3 for weights of 0.02 to 0.05, as people train for long; and twice the usual."""
UNPLANNED = 0.02
"""The same where nobody knows how long the run is."""
LARGE_INPUT, FAR_INPUT, TINY_INPUT = 30, 10, 0.01
"""Inputs' rms, their |mean| in standard deviations, and a rms that biases drown: healthy ones have about 1, 0 and 1."""
LARGE_RATIO = 0.03
"""Median ‖Δθ‖/‖θ‖ in a running training: healthy at most 0.025, rising rates cross it 59-144 steps before the loss."""


def noise_floor(beta1: float) -> float:
    """rms of u when gradients are pure noise, and β₂ is near 1: √((1-β₁)/(1+β₁)), the share of g that averaging leaves.

    Example:
        >>> round(noise_floor(0.9), 3)
        0.229
    """
    return math.sqrt((1 - beta1) / (1 + beta1))


def good_first_step(total_steps: float) -> float:
    """‖Δθ‖/‖θ‖ that a good rate gives where |u| = 1: steps of noise add up as √T, so that a longer run takes smaller ones.

    Example:
        >>> [round(good_first_step(steps), 3) for steps in (20, 250, 1000, 10**5, math.inf)]
        [0.1, 0.05, 0.025, 0.015, 0.02]
    """
    if not 0 < total_steps < math.inf:
        return UNPLANNED
    least, most = FIRST_STEPS
    return min(most, max(least, FIRST_STEP * math.sqrt(OF_STEPS / total_steps)))


def agreement(beta1: float, floors: float = 1.75) -> float:
    """rms of u above which steps agree with each other more than noise does: 1.75 noise floors, at most 0.8.

    Args:
        beta1: of the first moment.
        floors: how many noise floors.

    Example:
        >>> round(agreement(0.9), 3), agreement(0.0)
        (0.401, 0.8)
    """
    return min(0.8, floors * noise_floor(beta1)) if 0 <= beta1 < 1 else 0.4


def update_bound(beta1: float, beta2: float, step: float = math.inf) -> float:
    """Largest |u| that any sequence of gradients can give at update ``step``; infinite where β₁ ≥ √β₂.

    Cauchy-Schwarz on m̂ = Σ wᵢ·g and v̂ = Σ zᵢ·g²: |u|² ≤ Σ wᵢ²/zᵢ, with wᵢ = (1-β₁)·β₁ⁱ/(1-β₁ᵗ) and
    zᵢ = (1-β₂)·β₂ⁱ/(1-β₂ᵗ). At t = ∞ it is (1-β₁)/√(1-β₂)/√(1-β₁²/β₂).

    Example:
        >>> round(update_bound(0.9, 0.999), 2), update_bound(0.9, 0.999, 1), update_bound(0.9, 0.5)
        (7.27, 1.0, inf)
    """
    if not (0 <= beta1 < 1 and 0 < beta2 < 1) or step < 1:  # SOAP's first call only fills its state: t stays 0
        return math.inf
    ratio = beta1 * beta1 / beta2
    if math.isinf(step):
        return math.inf if ratio >= 1 else (1 - beta1) / math.sqrt((1 - beta2) * (1 - ratio))
    terms = step if ratio == 1 else (1 - ratio**step) / (1 - ratio)
    first = (1 - beta1) / (1 - beta1**step)
    return float(round(first * math.sqrt(terms * (1 - beta2**step) / (1 - beta2)), 12))


def is_unbounded(beta1: float, beta2: float) -> bool:
    """β₁ ≥ √β₂: the step has no bound, and Adam may diverge on convex problems.

    Reddi et al. 2018 (arXiv:1904.09237); for β₁ < √β₂ and large β₂ it converges (Zhang et al. 2022, arXiv:2208.09632).
    """
    return 0 < beta2 < 1 and beta1 >= math.sqrt(beta2)


def untuned_warmup(beta2: float) -> int:
    """Linear warmup of 2/(1-β₂) steps, which needs no tuning (Ma & Yarats 2019, arXiv:1910.04209): 40 at 0.95."""
    return round(2 / (1 - beta2)) if 0 < beta2 < 1 else 100


def slowest_decay(beta2: float, steps: int, before: float) -> float:
    """What is at least left of √v̂ after ``steps`` more updates, as a share, when all of their gradients are zero.

    v shrinks by β₂ per step, and v̂ = v/(1-β₂ᵗ); ``before`` is t at the start. Below it, v was not carried on.
    """
    if not 0 < beta2 < 1 or before < 1:
        return 0.0
    return math.sqrt(beta2**steps * (1 - beta2**before) / (1 - beta2 ** (before + steps)))
