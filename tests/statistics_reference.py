"""Every column of a snapshot's table in NumPy float64, written out from DESIGN.md's formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_adam.moments import Moments
from lightning_adam.statistics import TensorReading

Array = NDArray[np.float64]


def reading(numel: int = 1000, seed: int = 0, scale: float = 1e-2, amsgrad: bool = False, **changed: Any) -> TensorReading:
    """A tensor as Adam leaves it, with some dead elements; gradients are about ``scale``, spread over two decades."""
    rng = np.random.default_rng(seed)
    spread = scale * 10 ** rng.uniform(-1, 1, numel)
    first, gradient = rng.normal(size=numel) * spread * 0.3, rng.normal(size=numel) * spread
    second = spread**2 * rng.uniform(0.5, 1.5, numel)
    dead = rng.random(numel) < 0.05
    first[dead] = second[dead] = gradient[dead] = 0.0
    m, v, g, p = (torch.tensor(x, dtype=torch.float32) for x in (first, second, gradient, rng.normal(size=numel)))
    values: dict[str, Any] = {
        "name": f"layer{seed}.weight",
        "group": "decay",
        "parameter": p,
        "gradient": g,
        "moments": Moments(m, v, v * 1.5 if amsgrad else v, step=7, beta1=0.9, beta2=0.99),
        "lr": 1e-3,
        "eps": 1e-8,
        "decay": 0.1,
    }
    step = changed.pop("step", None)
    values |= changed
    if step is not None:
        values["before"] = values["parameter"] - step
    return TensorReading(**values)


def f64(tensor: torch.Tensor) -> Array:
    """Flat, in float64; complex numbers as pairs."""
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return real.reshape(-1).double().numpy()


def expected(of: TensorReading) -> dict[str, float]:
    """The columns that this reading determines; the rest is NaN."""
    p = f64(of.parameter)
    out = {"parameter_norm": rms(p) * p.size**0.5}
    if of.gradient is not None:
        g = f64(of.gradient)
        out |= {"gradient_norm": float(np.linalg.norm(g)), "zero_gradient_share": float(np.mean(g == 0))}
    if of.moments is not None:
        out |= moment_columns(of, of.moments)
    step = step_of(of)
    if step is not None:
        length = float(np.linalg.norm(step))
        out |= {"step_size_rms": rms(step), "step_size_max": float(step.max())}
        out["update_ratio"] = length / out["parameter_norm"] if out["parameter_norm"] else np.nan
        pull = of.decay * out["parameter_norm"]
        out["decay_ratio"] = pull * of.lr / length if of.decoupled else pull / out["gradient_norm"]
    if of.before is not None and of.parameter.element_size() < 4:
        wanted = of.gradient if of.moments is None else of.moments.first
        assert wanted is not None
        out["lost_update_share"] = float(np.mean((p == f64(of.before)) & (f64(wanted) != 0)))
    return out


def moment_columns(of: TensorReading, moments: Moments) -> dict[str, float]:
    """What is made of m and v, as far as they are there."""
    out: dict[str, Any] = {}
    first = None if moments.first is None else np.abs(f64(moments.first)) / (1 - moments.beta1**moments.step)
    if first is not None:
        out |= {"first_moment_rms": rms(first), "first_moment_max": first.max()}
    if moments.second is None:
        return out
    root = np.sqrt(f64(moments.second) / (1 - moments.beta2**moments.step))
    below = np.sqrt(f64(moments.denominator) / (1 - moments.beta2**moments.step)) + of.eps
    low, middle, high = np.quantile(of.lr / below, (0.01, 0.5, 0.99))
    out |= {
        "second_moment_rms": rms(root),
        "second_moment_min": root.min(),
        "second_moment_max": root.max(),
        "effective_lr_p01": low,
        "effective_lr_p50": middle,
        "effective_lr_p99": high,
        "eps_dominated": np.mean((of.eps / below)[root != 0]),
        "zero_second_moment_share": np.mean(root == 0),
    }
    if first is not None:
        out |= {"signal_to_noise": np.mean(first / below), "normalised_update_rms": rms(first / below)}
        out["normalised_update_max"] = (first / below).max()
    if of.gradient is not None:
        out["gradient_surprise"] = rms(f64(of.gradient) / np.maximum(root, of.eps))
    return {name: float(value) for name, value in out.items()}


def step_of(of: TensorReading) -> Array | None:
    """|Δθ|: measured, or Adam's."""
    if of.before is not None:
        moved = f64(of.parameter) - (1 - of.shrunk.share) * f64(of.before)
        return np.abs(moved / (1 - of.shrunk.share) if of.shrunk.after else moved)
    if of.moments is None:
        return None
    first = np.abs(f64(of.moments.first)) / (1 - of.moments.beta1**of.moments.step)
    root = np.sqrt(f64(of.moments.denominator) / (1 - of.moments.beta2**of.moments.step))
    return np.asarray(of.lr * first / (root + of.eps), dtype=np.float64)


def rms(values: Array) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(values**2)))
