"""Adam and its nearest kin. t counts from 1; m = v = 0 at the start; λ is the weight decay."""

from __future__ import annotations

import math

import numpy as np

from tests.references.kinds import Array, Gradients


def moved_on(m: Array | float, v: Array | float, g: Array, beta1: float, beta2: float) -> tuple[Array, Array]:
    """Kingma & Ba 2014, arXiv:1412.6980, algorithm 1, lines 5 and 6."""
    return beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2


def adam(theta: Array, gradients: Gradients, lr: float = 1e-3, decay: float = 0.0) -> Array:
    """Kingma & Ba 2014, arXiv:1412.6980, algorithm 1; decay is that of an L2 penalty: it enters the gradient."""
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, raw in enumerate(gradients, 1):
        m, v = moved_on(m, v, raw + decay * theta, 0.9, 0.999)
        theta = theta - lr * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return theta


def adamw(
    theta: Array, gradients: Gradients, lr: float = 1e-3, decay: float = 0.0, beta1: float = 0.9, beta2: float = 0.999
) -> Array:
    """Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2, line 12, with α = 1 and λ·lr."""
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, g in enumerate(gradients, 1):
        m, v = moved_on(m, v, g, beta1, beta2)
        theta = theta - lr * (m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + 1e-8) + decay * theta)
    return theta


def amsgrad(theta: Array, gradients: Gradients, lr: float = 1e-3, decay: float = 0.0) -> Array:
    """Reddi et al. 2018, arXiv:1904.09237, algorithm 2; torch corrects m and the largest v as Adam does, the paper not."""
    m, v, largest = (np.zeros_like(theta) for _ in range(3))
    for t, g in enumerate(gradients, 1):
        m, v = moved_on(m, v, g, 0.9, 0.999)
        largest = np.maximum(largest, v)
        theta = theta - lr * (m / (1 - 0.9**t) / (np.sqrt(largest / (1 - 0.999**t)) + 1e-8) + decay * theta)
    return theta


def nadam(theta: Array, gradients: Gradients, lr: float = 2e-3, decay: float = 0.0) -> Array:
    """Dozat 2016, algorithm 8 with section 3.2's μ_t = β₁(1 - 0.96^(0.004t)/2)."""
    m, v, product = np.zeros_like(theta), np.zeros_like(theta), 1.0
    mu = [0.9 * (1 - 0.5 * 0.96 ** (0.004 * t)) for t in range(len(gradients) + 2)]
    for t, g in enumerate(gradients, 1):
        m, v = moved_on(m, v, g, 0.9, 0.999)
        product *= mu[t]
        m_bar = (1 - mu[t]) * g / (1 - product) + mu[t + 1] * m / (1 - product * mu[t + 1])
        theta = theta - lr * (m_bar / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) + decay * theta)
    return theta


def rectification(t: int, beta2: float) -> float | None:
    """Liu et al. 2019, arXiv:1908.03265, algorithm 2: r_t; None where the variance is not tractable."""
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
    if rho <= 5:
        return None
    return math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))


def radam(theta: Array, gradients: Gradients, lr: float = 1e-3, decay: float = 0.0) -> Array:
    """Liu et al. 2019, arXiv:1908.03265, algorithm 2, which has no ε: torch adds it to √v."""
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, g in enumerate(gradients, 1):
        m, v = moved_on(m, v, g, 0.9, 0.999)
        r = rectification(t, 0.999)
        adaptive = 1.0 if r is None else r * math.sqrt(1 - 0.999**t) / (np.sqrt(v) + 1e-8)
        theta = theta - lr * (m / (1 - 0.9**t) * adaptive + decay * theta)
    return theta


def adamax(theta: Array, gradients: Gradients, lr: float = 2e-3, decay: float = 0.0) -> Array:
    """Kingma & Ba 2014, arXiv:1412.6980, algorithm 2; torch adds ε to |g|."""
    m, u = np.zeros_like(theta), np.zeros_like(theta)
    for t, raw in enumerate(gradients, 1):
        g = raw + decay * theta
        m, u = 0.9 * m + 0.1 * g, np.maximum(0.999 * u, np.abs(g) + 1e-8)
        theta = theta - lr / (1 - 0.9**t) * m / u
    return theta


def adabelief(theta: Array, gradients: Gradients, lr: float = 1e-3, decay: float = 0.0) -> Array:
    """Zhuang et al. 2020, arXiv:2010.07468, algorithm 2, ε = 1e-16 in s as in the authors' code."""
    m, s = np.zeros_like(theta), np.zeros_like(theta)
    for t, g in enumerate(gradients, 1):
        m = 0.9 * m + 0.1 * g
        s = 0.999 * s + 0.001 * (g - m) ** 2 + 1e-16
        theta = theta * (1 - lr * decay) - lr * m / (1 - 0.9**t) / (np.sqrt(s / (1 - 0.999**t)) + 1e-16)
    return theta


def stableadamw(theta: Array, gradients: Gradients, lr: float = 1e-3, decay: float = 0.0) -> Array:
    """Wortsman et al. 2023, arXiv:2304.13013, algorithm 2: β̂ = β(1-βᵗ⁻¹)/(1-βᵗ), η = α/max(1, RMS)."""
    v, u = np.zeros_like(theta), np.zeros_like(theta)
    for t, g in enumerate(gradients, 1):
        one, two = (b * (1 - b ** (t - 1)) / (1 - b**t) for b in (0.9, 0.99))
        v, u = one * v + (1 - one) * g, two * u + (1 - two) * g**2
        eta = lr / max(1.0, math.sqrt(np.mean(g**2 / np.maximum(u, 1e-16))))
        theta = theta - eta * decay * theta - eta * v / (np.sqrt(u) + 1e-8)
    return theta


def ademamix(theta: Array, gradients: Gradients, lr: float = 1e-3, decay: float = 0.0) -> Array:
    """Pagliardini et al. 2024, arXiv:2409.03137, equation 2 with α = 5, β₃ = 0.9999 and no schedulers of theirs."""
    m1, m2, v = (np.zeros_like(theta) for _ in range(3))
    for t, g in enumerate(gradients, 1):
        m1, v = moved_on(m1, v, g, 0.9, 0.999)
        m2 = 0.9999 * m2 + 0.0001 * g
        theta = theta - lr * ((m1 / (1 - 0.9**t) + 5 * m2) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) + decay * theta)
    return theta


def adan(theta: Array, gradients: Gradients, lr: float = 1e-3, decay: float = 0.0) -> Array:
    """Xie et al. 2022, arXiv:2208.06677, algorithm 1 with its proximal decay, and the authors' code's corrections; betas
    as the code counts them."""
    m, v, n = (np.zeros_like(theta) for _ in range(3))
    for t, g in enumerate(gradients, 1):
        difference = g - gradients[t - 2] if t > 1 else np.zeros_like(g)
        m, v = 0.98 * m + 0.02 * g, 0.92 * v + 0.08 * difference
        n = 0.99 * n + 0.01 * (g + 0.92 * difference) ** 2
        eta = lr / (np.sqrt(n / (1 - 0.99**t)) + 1e-8)
        theta = (theta - eta * (m / (1 - 0.98**t) + 0.92 * v / (1 - 0.92**t))) / (1 + lr * decay)
    return theta


def adopt(theta: Array, gradients: Gradients, lr: float = 1e-3, decay: float = 0.0) -> Array:
    """Taniguchi et al. 2024, arXiv:2411.02853, algorithm 2 with c_t = t^(1/4); the decay, which it has not, is AdamW's."""
    m, v = np.zeros_like(theta), gradients[0] ** 2
    theta = theta * (1 - lr * decay)
    for t, g in enumerate(gradients[1:], 1):
        m = 0.9 * m + 0.1 * np.clip(g / np.maximum(np.sqrt(v), 1e-6), -(t**0.25), t**0.25)
        theta = theta * (1 - lr * decay) - lr * m
        v = 0.9999 * v + 0.0001 * g**2
    return theta


def grams(theta: Array, gradients: Gradients, lr: float = 1e-3, decay: float = 0.0) -> Array:
    """Cao et al. 2024, arXiv:2412.17107, algorithm 1: Adam's size, the gradient's sign; ε = 1e-6 as in the authors' code."""
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, g in enumerate(gradients, 1):
        m, v = moved_on(m, v, g, 0.9, 0.999)
        size = np.abs(m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-6))
        theta = theta * (1 - lr * decay) - lr * np.sign(g) * size
    return theta


def lamb(theta: Array, gradients: Gradients, lr: float = 5e-3, decay: float = 0.0) -> Array:
    """You et al. 2019, arXiv:1904.00962, algorithm 2 with φ(z) = z, ε = 1e-6, and the authors' code's ratio of 1 for
    weights of 0."""
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, g in enumerate(gradients, 1):
        m, v = moved_on(m, v, g, 0.9, 0.999)
        u = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-6) + decay * theta
        ratio = np.linalg.norm(theta) / np.linalg.norm(u) if theta.any() else 1.0
        theta = theta - lr * ratio * u
    return theta


def adam_mini(theta: Array, gradients: Gradients, lr: float = 1e-3, decay: float = 0.0, block: str = "rows") -> Array:
    """Zhang et al. 2024, arXiv:2406.16793, algorithms 1 and 3: v is the mean of g² over a block."""
    axes = {"rows": tuple(range(1, theta.ndim)), "elements": (), "tensor": None}[block]
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * np.mean(g**2, axis=axes, keepdims=True)
        theta = theta * (1 - lr * decay) - lr * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return theta


def adamp(theta: Array, gradients: Gradients, lr: float = 1e-3, decay: float = 0.0) -> Array:
    """Heo et al. 2021, arXiv:2006.08217, algorithm 2 (δ = 0.1), a tenth of the decay where projected as in the authors'
    code; ε is added to √v before its correction."""
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, g in enumerate(gradients, 1):
        m, v = moved_on(m, v, g, 0.9, 0.999)
        p = m * math.sqrt(1 - 0.999**t) / (np.sqrt(v) + 1e-8)
        p, share = projected(theta, g, p) if theta.ndim > 1 else (p, 1.0)
        theta = theta * (1 - lr * decay * share) - lr / (1 - 0.9**t) * p
    return theta


def projected(theta: Array, g: Array, p: Array) -> tuple[Array, float]:
    """Equation 12: p without its part along θ where g is orthogonal to θ, filter by filter, or else as a whole."""
    for rows in (len(theta), 1):
        w, gradient, step = (x.reshape(rows, -1) for x in (theta, g, p))
        cosine = (
            np.abs((w * gradient).sum(1)) / (np.linalg.norm(w, axis=1) + 1e-8) / (np.linalg.norm(gradient, axis=1) + 1e-8)
        )
        if cosine.max() < 0.1 / math.sqrt(w.shape[1]):
            unit = w / (np.linalg.norm(w, axis=1, keepdims=True) + 1e-8)
            return (step - unit * (unit * step).sum(1, keepdims=True)).reshape(p.shape), 0.1
    return p, 1.0
