"""Those that look at all tensors at once, or step at other weights than they end with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tests.references.kinds import Array, Gradients
from tests.references.others import centred

Thetas = list[Array]
Steps = Sequence[Sequence[Array]]
"""Step by step the gradients of all tensors."""


def prodigy(theta: Thetas, steps: Steps, lr: float = 1.0, decay: Sequence[float] = ()) -> Thetas:
    """Mishchenko & Defazio 2023, arXiv:2306.06101, algorithm 4 with β₃ = √β₂, d₀ = 1e-6 and the authors' code's decay."""
    d, r, beta3 = 1e-6, 0.0, math.sqrt(0.999)
    start, m, v, s = theta, *([np.zeros_like(x) for x in theta] for _ in range(3))
    for gradients in steps:
        each = range(len(theta))
        r = beta3 * r + d / 1e-6 * d * lr * sum(float(np.sum(gradients[i] * (start[i] - theta[i]))) for i in each)
        s = [beta3 * s[i] + d / 1e-6 * d * lr * gradients[i] for i in each]
        m = [0.9 * m[i] + 0.1 * d * gradients[i] for i in each]
        v = [0.999 * v[i] + 0.001 * (d * gradients[i]) ** 2 for i in each]
        used, d = d, max(d, r / sum(float(np.abs(x).sum()) for x in s))
        theta = [theta[i] * (1 - used * lr * decay[i]) - used * lr * m[i] / (np.sqrt(v[i]) + d * 1e-8) for i in each]
    return theta


def schedulefree_adamw(theta: Array, gradients: Gradients, lr: float = 2.5e-3, decay: float = 0.0) -> Array:
    """Defazio et al. 2024, arXiv:2405.15682, algorithm 1 without a warmup: y, on which the gradients are taken."""
    x = y = z = theta
    v, weights = np.zeros_like(theta), 0.0
    for t, g in enumerate(gradients, 1):
        v = 0.999 * v + 0.001 * g**2
        weights += lr**2
        z = z - lr * (g / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) + decay * y)
        x = x + lr**2 / weights * (z - x)
        y = 0.1 * z + 0.9 * x
    return y


def schedulefree_radam(theta: Array, gradients: Gradients, lr: float = 2.5e-3, decay: float = 0.0) -> Array:
    """The same, where each rate is times RAdam's r_t (arXiv:1908.03265, algorithm 2), and 0 while ρ_t is at most 4; x
    weighs by the largest rate so far, as the authors' code does."""
    x = y = z = theta
    v, largest, weights, longest = np.zeros_like(theta), 0.0, 0.0, 2 / (1 - 0.999) - 1
    for t, g in enumerate(gradients, 1):
        v = 0.999 * v + 0.001 * g**2
        rho = longest - 2 * t * 0.999**t / (1 - 0.999**t)
        share = (rho - 4) * (rho - 2) * longest / ((longest - 4) * (longest - 2) * rho)
        rate = lr * math.sqrt(share) if rho > 4 else 0.0
        largest = max(largest, rate)
        weights += largest**2
        z = z - rate * (g / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) + decay * y)
        x = x + (largest**2 / weights if weights else 0.0) * (z - x)
        y = 0.1 * z + 0.9 * x
    return y


def schedulefree_sgd(theta: Array, gradients: Gradients, lr: float = 1.0, decay: float = 0.0) -> Array:
    """Defazio et al. 2024, arXiv:2405.15682, equations 3 to 5 with β = 0.9."""
    x = y = z = theta
    for t, g in enumerate(gradients, 1):
        z = z - lr * (g + decay * y)
        x = x + (z - x) / t
        y = 0.1 * z + 0.9 * x
    return y


def ranger21(theta: Thetas, steps: Steps, lr: float = 1e-3, decay: Sequence[float] = ()) -> Thetas:
    """Wright & Demeure 2021, arXiv:2106.13731, algorithm 1: adaptive clipping, centred and normalised gradients,
    positive-negative momentum, softplus, stable decay, norm loss and Lookahead (k = 5), without its schedule.

    The library adds 1 to the sum that stable decay divides by, and scales the momentum by β₀ in its norm."""
    each, slow = range(len(theta)), theta
    m, last, v, largest = ([np.zeros_like(x) for x in theta] for _ in range(4))
    for t, raw in enumerate(steps, 1):
        gradients = [normalised(clipped(g, theta[i])) for i, g in enumerate(raw)]
        v = [0.999 * v[i] + 0.001 * gradients[i] ** 2 for i in each]
        total, count = sum(x.sum() for x in v) / (1 - 0.999**t), sum(x.size for x in v)
        stable = math.sqrt((1 + total) / count)
        largest = [np.maximum(largest[i], v[i]) for i in each]
        last, m = m, [0.81 * last[i] + 0.19 * normalised(gradients[i]) for i in each]
        mean = [(1.9 * m[i] - 0.9 * last[i]) / math.sqrt(1.9**2 + 0.9**2) for i in each]
        root = [np.logaddexp(0, 50 * (np.sqrt(x / (1 - 0.999**t)) + 1e-8)) / 50 for x in largest]
        shrunk = [theta[i] * (1 - lr * decay[i] / stable) for i in each]
        shrunk = [x * (1 - lr * 2e-4 * (1 - 1 / (unit_norms(x) + 1e-8))) for x in shrunk]
        theta = [shrunk[i] - lr / (1 - 0.9**t) * mean[i] / root[i] for i in each]
        if t % 5 == 0:
            slow = theta = [0.5 * slow[i] + 0.5 * theta[i] for i in each]
    return theta


def unit_norms(x: Array) -> Array:
    """Norms of a tensor's output units."""
    return np.sqrt((x**2).sum(axis=tuple(range(1, x.ndim)), keepdims=True)) if x.ndim > 1 else np.linalg.norm(x)


def clipped(g: Array, theta: Array) -> Array:
    """Brock et al. 2021, arXiv:2102.06171, equation 3, with λ = 0.01."""
    bound, norm = 0.01 * np.maximum(unit_norms(theta), 1e-3), np.maximum(unit_norms(g), 1e-6)
    return np.where(norm > bound, g * bound / norm, g)


def normalised(g: Array) -> Array:
    """Centred, over the deviation of its elements."""
    g = centred(g)
    return g / (g.std(ddof=1) + 1e-8) if g.size > 2 else g
