"""AdamW in NumPy float64, written out from Kingma & Ba 2014 (algorithm 1) and Loshchilov & Hutter 2019 (algorithm 2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass
class ReferenceAdam:
    """One tensor's Adam; after each step its attributes hold that step's quantities."""

    beta1: float
    beta2: float
    eps: float
    t: int = 0
    m: Array | float = 0.0
    v: Array | float = 0.0

    def step(self, gradient: Array, lr: float) -> dict[str, float]:
        """Take in one gradient; returns the quantities of DESIGN.md for this step."""
        g = np.asarray(gradient, dtype=np.float64)
        self.t += 1
        self.m = self.beta1 * self.m + (1 - self.beta1) * g
        self.v = self.beta2 * self.v + (1 - self.beta2) * g**2
        m_hat = self.m / (1 - self.beta1**self.t)
        v_hat = self.v / (1 - self.beta2**self.t)
        effective = lr / (np.sqrt(v_hat) + self.eps)
        step = np.abs(m_hat) * effective
        root = np.sqrt(v_hat)
        return {
            "gradient_norm": float(np.linalg.norm(g)),
            "first_moment_rms": float(np.sqrt(np.mean(m_hat**2))),
            "first_moment_max": float(np.abs(m_hat).max()),
            "second_moment_rms": float(np.sqrt(np.mean(v_hat))),
            "second_moment_min": float(root.min()),
            "second_moment_max": float(root.max()),
            "effective_lr_p01": float(np.quantile(effective, 0.01)),
            "effective_lr_p50": float(np.quantile(effective, 0.5)),
            "effective_lr_p99": float(np.quantile(effective, 0.99)),
            "step_size_rms": float(np.sqrt(np.mean(step**2))),
            "step_size_max": float(step.max()),
            "gradient_surprise": float(np.sqrt(np.mean(g**2 / np.maximum(v_hat, self.eps**2)))),
            "signal_to_noise": float(np.mean(np.abs(m_hat) / (root + self.eps))),
            "eps_dominated": float(np.mean((self.eps / (root + self.eps))[root > 0])),
        }
