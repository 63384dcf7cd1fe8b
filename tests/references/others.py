"""What is not of Adam's form: signs, momentum, factored and rotated second moments, curvature."""

from __future__ import annotations

import math

import numpy as np

from tests.references.adam import rectification
from tests.references.kinds import Array, Gradients


def sgd(theta: Array, gradients: Gradients, lr: float = 0.1, decay: float = 0.0) -> Array:
    """Sutskever et al. 2013, section 2 (Nesterov), with μ = 0.9, in torch's form: the rate outside of the momentum."""
    b = np.zeros_like(theta)
    for raw in gradients:
        g = raw + decay * theta
        b = 0.9 * b + g
        theta = theta - lr * (g + 0.9 * b)
    return theta


def rmsprop(theta: Array, gradients: Gradients, lr: float = 1e-3, decay: float = 0.0) -> Array:
    """Hinton 2012, lecture 6e, slide 29, with a decay rate of 0.99 as torch has it."""
    v = np.zeros_like(theta)
    for raw in gradients:
        g = raw + decay * theta
        v = 0.99 * v + 0.01 * g**2
        theta = theta - lr * g / (np.sqrt(v) + 1e-8)
    return theta


def lion(theta: Array, gradients: Gradients, lr: float = 3e-4, decay: float = 0.0) -> Array:
    """Chen et al. 2023, arXiv:2302.06675, program 1."""
    m = np.zeros_like(theta)
    for g in gradients:
        theta = theta - lr * (np.sign(0.9 * m + 0.1 * g) + decay * theta)
        m = 0.99 * m + 0.01 * g
    return theta


def adafactor(theta: Array, gradients: Gradients, lr: float = 1e-2, decay: float = 0.0) -> Array:
    """Shazeer & Stern 2018, arXiv:1804.04235, algorithms 4 and 5, with ρ_t = min(lr, 1/√t); ε₁ bounds V̂, as in torch."""
    row = column = v = 0.0
    least = float(np.finfo(np.float64).eps)
    for t, g in enumerate(gradients, 1):
        beta = 1 - t**-0.8
        if theta.ndim > 1:
            row = beta * row + (1 - beta) * np.mean(g**2, -1, keepdims=True)
            column = beta * column + (1 - beta) * np.mean(g**2, -2, keepdims=True)
            v = row @ column / np.maximum(np.mean(row, -2, keepdims=True), least)
        else:
            v = beta * v + (1 - beta) * g**2
        u = g / np.sqrt(np.maximum(v, least**2))
        alpha = max(1e-3, math.sqrt(np.mean(theta**2))) * min(lr, 1 / math.sqrt(t))
        theta = theta * (1 - lr * decay)
        theta = theta - alpha * u / max(1.0, math.sqrt(np.mean(u**2)))
    return theta


def sm3(theta: Array, gradients: Gradients, lr: float = 0.1, decay: float = 0.0) -> Array:
    """Anil et al. 2019, arXiv:1901.11150, algorithm SM3-II over rows and columns, a momentum of 0.9 on the step."""
    kept = [np.zeros([n if i == axis else 1 for i in range(theta.ndim)]) for axis, n in enumerate(theta.shape)]
    m = np.zeros_like(theta)
    for g in gradients:
        nu = np.minimum.reduce(np.broadcast_arrays(*kept)) + g**2
        others = [tuple(j for j in range(g.ndim) if j != i) for i in range(g.ndim)]
        kept = [np.maximum(k, nu.max(axis=axes, keepdims=True)) for k, axes in zip(kept, others, strict=True)]
        m = 0.9 * m + 0.1 * g / np.sqrt(nu + 1e-30)
        theta = theta - lr * m
    return theta


def muon(theta: Array, gradients: Gradients, lr: float = 1e-3, decay: float = 0.0) -> Array:
    """Jordan et al. 2024 (kellerjordan.github.io/posts/muon) with Nesterov momentum 0.95, scaled to AdamW's rms:
    0.2·√max(rows, columns) (Liu et al. 2025, arXiv:2502.16982, equation 4)."""
    b = np.zeros_like(theta)
    for g in gradients:
        b = 0.95 * b + 0.05 * g
        step = newton_schulz(0.05 * g + 0.95 * b)
        theta = theta * (1 - lr * decay) - lr * 0.2 * math.sqrt(max(theta.shape)) * step
    return theta


def newton_schulz(g: Array) -> Array:
    """Five iterations of the quintic (3.4445, -4.7750, 2.0315)."""
    x = g.T if len(g) > len(g.T) else g
    x = x / np.linalg.norm(x)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if len(g) > len(g.T) else x


def sophia(theta: Array, gradients: Gradients, lr: float = 6e-4, decay: float = 0.0, *, hessians: Gradients) -> Array:
    """Liu et al. 2023, arXiv:2305.14342, algorithm 3 with γ = 0.01, an estimate every tenth step; the paper's rate."""
    m, h = np.zeros_like(theta), np.zeros_like(theta)
    for t, g in enumerate(gradients):
        m = 0.96 * m + 0.04 * g
        if t % 10 == 0:
            h = 0.99 * h + 0.01 * hessians[t]
        theta = theta - lr * decay * theta
        theta = theta - lr * np.clip(m / np.maximum(0.01 * h, 1e-14), -1, 1)
    return theta


def centred(g: Array) -> Array:
    """Yong et al. 2020, arXiv:2004.01461, equation 1: gradient centralisation, of matrices and filters."""
    return g - g.mean(axis=tuple(range(1, g.ndim)), keepdims=True) if g.ndim > 1 else g


def ranger(theta: Array, gradients: Gradients, lr: float = 1e-3, decay: float = 0.0) -> Array:
    """Wright 2019: RAdam (arXiv:1908.03265, algorithm 2) on centred gradients, under Lookahead (arXiv:1907.08610,
    algorithm 1) with k = 6, α = 0.5; β₁ = 0.95, ε = 1e-5 on √v."""
    m, v, slow = np.zeros_like(theta), np.zeros_like(theta), theta
    for t, raw in enumerate(gradients, 1):
        g = centred(raw)
        m, v = 0.95 * m + 0.05 * g, 0.999 * v + 0.001 * g**2
        r = rectification(t, 0.999)
        adaptive = 1.0 if r is None else r * math.sqrt(1 - 0.999**t) / (np.sqrt(v) + 1e-5)
        theta = theta * (1 - lr * decay) - lr * m / (1 - 0.95**t) * adaptive
        if t % 6 == 0:
            slow = theta = slow + 0.5 * (theta - slow)
    return theta


def soap(theta: Array, gradients: Gradients, lr: float = 3e-3, decay: float = 0.0) -> Array:
    """Vyas et al. 2024, arXiv:2409.11321, algorithms 3 and 4: Adam (β = 0.95, 0.95) in the eigenbasis of the averages of
    GGᵀ and GᵀG, renewed every ten steps by one power iteration and QR. The first gradient only makes the basis."""
    size = theta.shape if theta.ndim > 1 else ()
    averages = [0.05 * gram(gradients[0], axis) for axis in range(len(size))]
    bases = [np.linalg.eigh(a)[1][:, ::-1] for a in averages]
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, g in enumerate(gradients[1:], 1):
        m, v = 0.95 * m + 0.05 * g, 0.95 * v + 0.05 * turned(g, bases) ** 2
        corrected = math.sqrt(1 - 0.95**t) / (1 - 0.95**t)
        step = turned(turned(m, bases) / (np.sqrt(v) + 1e-8), [q.T for q in bases])
        theta = (theta - lr * corrected * step) * (1 - lr * decay)
        averages = [0.95 * a + 0.05 * gram(g, axis) for axis, a in enumerate(averages)]
        if t % 10 == 0:
            for axis, (a, q) in enumerate(zip(averages, bases, strict=True)):
                order = np.argsort(-np.diag(q.T @ a @ q))
                v = np.take(v, order, axis)
                bases[axis] = np.linalg.qr((a @ q)[:, order])[0]
    return theta


def gram(g: Array, axis: int) -> Array:
    """G Gᵀ over all other axes."""
    rows = np.moveaxis(g, axis, 0).reshape(g.shape[axis], -1)
    return rows @ rows.T


def turned(g: Array, bases: list[Array]) -> Array:
    """g in these bases, one per axis."""
    for axis, q in enumerate(bases):
        g = np.moveaxis(np.tensordot(g, q, axes=([axis], [0])), -1, axis)
    return g


def lbfgs_direction(g: Array, steps: list[Array], changes: list[Array]) -> Array:
    """Nocedal 1980 (Liu & Nocedal 1989, Math. Programming 45, section 2), the two-loop recursion: -H·g from the last pairs
    of steps s and changes of the gradient y."""
    q, alphas = -g, []
    for s, y in reversed(list(zip(steps, changes, strict=True))):
        alphas.append((s @ q) / (y @ s))
        q = q - alphas[-1] * y
    if steps:
        q = q * (steps[-1] @ changes[-1]) / (changes[-1] @ changes[-1])
    for s, y, alpha in zip(steps, changes, reversed(alphas), strict=True):
        q = q + s * (alpha - (y @ q) / (y @ s))
    return q
