"""The papers of which no library has the optimizer: AdamZ, CaAdam, HN-Adam, BDS-Adam."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tests.references.adam import moved_on, rectification
from tests.references.kinds import Array, Gradients


def adam_at(theta: Array, gradients: Gradients, rates: Sequence[float], decay: float = 0.0, eps: float = 1e-8) -> Array:
    """Adam (Kingma & Ba 2014, algorithm 1) with a learning rate per step, and AdamW's decay."""
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, (g, lr) in enumerate(zip(gradients, rates, strict=True), 1):
        m, v = moved_on(m, v, g, 0.9, 0.999)
        theta = theta - lr * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + eps)
    return theta


def adamz_factors(losses: Sequence[float], lr: float) -> list[float]:
    """Zaznov et al. 2024, arXiv:2411.15375: over the last 100 losses, halve on overshoot, grow on stagnation."""
    factors, seen, factor = [], [], 1.0
    for loss in losses:
        seen = [*seen, loss][-100:]
        if len(seen) == 100:
            factor *= 0.5 if loss >= max(seen) else 1.0
            factor *= 1.2 if np.std(seen[-10:]) < 0.2 * np.std(seen) else 1.0
            factor = min(max(lr * factor, 1e-7), 1.0) / lr
        factors.append(factor)
    return factors


def connection_scale(count: int, counts: Sequence[int], index: int, scaling: str = "additive") -> float:
    """Genet & Inzirillo 2024, arXiv:2410.24216, of the matrix at ``index``, by its distance from the median."""
    low, middle, high = min(counts), float(np.median(counts)), max(counts)
    x = (middle - count) / (middle - low) if count <= middle else -(count - middle) / (high - middle)
    options = {"additive": 1 + 0.95 * x, "multiplicative": 5.0**x, "depth": 2.0 ** ((len(counts) - 1 - index) / len(counts))}
    return float(options[scaling])


def hn_adam(theta: Array, gradients: Gradients, lr: float = 1e-3, decay: float = 0.0, norm: float = 2.5) -> Array:
    """Algorithm 2 of doi 10.1007/s00521-023-08568-z by its own step numbers; |m| in equation 20."""
    m, v, v_hat = (np.zeros_like(theta) for _ in range(3))
    for g in gradients:
        theta = theta * (1 - lr * decay)
        lam = norm - np.abs(m) / np.maximum(np.abs(m), np.abs(g))  # 7 and 8, of m before this step
        m = 0.9 * m + 0.1 * g  # 6
        v = 0.999 * v + 0.001 * np.abs(g) ** lam  # 9
        for e in np.ndindex(g.shape):
            if lam[e] < 2:  # 10
                v_hat[e] = max(v_hat[e], v[e])  # 12
            root = (v_hat[e] if lam[e] < 2 else v[e]) ** (1 / lam[e])  # 13, 16
            theta[e] -= lr * m[e] / (root + 1e-8)
    return theta


def bds_adam(theta: Array, gradients: Gradients, lr: float = 1e-3, decay: float = 0.0) -> Array:
    """What github.com/wengshiqian/BDS-Adam (adamt4.py, commit 4a2042c) does, from its description in prose."""
    b, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, raw in enumerate(gradients, 1):
        g = raw + decay * theta
        kappa = min(max(0.75 * (1 - math.tanh(np.linalg.norm(g))), 0.1), 0.9)
        b = kappa * b + (1 - kappa) * g
        sigma = math.sqrt(((b - b.mean()) ** 2).sum() / (g.size - 1)) + 1e-8
        v = 0.999 * v + 0.001 * (b / sigma) ** 2
        d = min(max(1 / sigma, 0.3), 2.5) * b / sigma
        r = rectification(t, 0.999)
        theta = theta - lr * (d if r is None else r / (1 - 0.9**t) * d / (np.sqrt(v) + 1e-8))
    return theta
