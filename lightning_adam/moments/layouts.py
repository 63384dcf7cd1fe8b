"""Where each optimizer keeps its moments: one reader per layout, found by class or by the keys of the state.

Every reader gives tensors with the shape of the parameter. Factored second moments are expanded: the outer product of
row and column averages over their mean (Shazeer & Stern 2018, arXiv:1804.04235, equation 4 and algorithm 2), or the
smallest of the accumulators that cover an element (SM3: Anil et al. 2019, arXiv:1901.11150, algorithm 2).

m and v are such that m̂/(√v̂+ε) is the direction which the optimizer steps in, as far as it has this form. Where it
averages normalised gradients (ADOPT, SM3), m is that average times √v.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_adam.moments import bitsandbytes
from lightning_adam.moments.slot import Moments, Slot, kind_names, kind_of, plain, tiny

Reader = Callable[[Slot], Moments]


def read_moments(
    optimizer: Optimizer, group: Mapping[str, Any], parameter: Tensor, step: int | None = None
) -> Moments | None:
    """The moments of one parameter, or None where the layout is not known (or the optimizer has not stepped yet).

    Args:
        optimizer: right after a step.
        group: the parameter's group.
        parameter: with its gradient.
        step: from :func:`read_steps`, if it has been read already.
    """
    state = optimizer.state.get(parameter, {})
    read = _reader(kind_names(optimizer), tuple([key for key, value in state.items() if value is not None]))
    return None if read is None else read(Slot(optimizer, group, parameter, state, step))


@functools.lru_cache(maxsize=256)
def _reader(names: frozenset[str], keys: tuple[str, ...]) -> Reader | None:
    fitting = (read for name, needed, read in _LAYOUTS if (name is None or name in names) and needed <= set(keys))
    return next(fitting, None)


def read_steps(optimizer: Optimizer) -> dict[int, int]:
    """The steps that fused and capturable optimizers keep on a GPU, by the parameter's identity: one host read in all."""
    kept = [(p, state["step"]) for p, state in optimizer.state.items() if isinstance(state.get("step"), Tensor)]
    kept = [(p, step) for p, step in kept if step.device.type != "cpu"]
    if not kept:
        return {}
    steps = torch.stack([plain(step).reshape(()).to(kept[0][1].device) for _, step in kept]).tolist()
    return {id(p): int(step) for (p, _), step in zip(kept, steps, strict=True)}


def resting_state(optimizer: Optimizer, parameters: Sequence[Tensor]) -> tuple[list[Tensor], ...] | None:
    """m, v and t of these parameters where they are the same tensors from step to step, used as they are: torch's own
    Adam and AdamW without AMSGrad. None where a single one is kept otherwise."""
    if kind_of(optimizer) not in (torch.optim.Adam, torch.optim.AdamW):
        return None
    states = [optimizer.state.get(p, {}) for p in parameters]
    if any(len(state) != len(_RESTING) for state in states):
        return None
    return tuple([state[key] for state in states] for key in _RESTING)


_RESTING = ("exp_avg", "exp_avg_sq", "step")


def _adam(slot: Slot) -> Moments:
    first, second = slot.tensor("exp_avg"), slot.tensor("exp_avg_sq")
    denominator = slot.tensor("max_exp_avg_sq") if "max_exp_avg_sq" in slot.state else second
    return Moments(first, second, denominator, slot.step, slot.beta1, slot.beta2)


def _adabelief(slot: Slot) -> Moments:
    """v is the variance of the gradient around m (Zhuang et al. 2020, arXiv:2010.07468)."""
    second = slot.tensor("exp_avg_var")
    denominator = slot.tensor("max_exp_avg_var") if "max_exp_avg_var" in slot.state else second
    return Moments(slot.tensor("exp_avg"), second, denominator, slot.step, slot.beta1, slot.beta2)


def _adamax(slot: Slot) -> Moments:
    """√v is the decayed largest gradient, which needs no correction (Kingma & Ba 2014, algorithm 2)."""
    second = slot.tensor("exp_inf").square()
    return Moments(slot.tensor("exp_avg"), second, second, slot.step, slot.beta1, 0.0)


def _adan(slot: Slot) -> Moments:
    """v averages with β₃ (Xie et al. 2022, arXiv:2208.06677)."""
    second = slot.tensor("exp_avg_sq")
    return Moments(slot.tensor("exp_avg"), second, second, slot.step, slot.beta1, float(slot.group["betas"][2]))


def _uncorrected(slot: Slot) -> Moments:
    """Pairs that the optimizer uses as they are; StableAdamW's averages are corrected as they are made."""
    second = slot.tensor("exp_avg_sq")
    return Moments(slot.tensor("exp_avg"), second, second, slot.step, 0.0, 0.0)


def _adopt(slot: Slot) -> Moments:
    """m averages g/√v; its first step only fills v (Taniguchi et al. 2024, arXiv:2411.02853, algorithm 2)."""
    second = slot.tensor("exp_avg_sq")
    return Moments(slot.tensor("exp_avg") * second.sqrt(), second, second, slot.step, 0.0, 0.0)


def _soap(slot: Slot) -> Moments:
    """Both in Shampoo's eigenbasis, where SOAP divides them; its first step only makes the basis."""
    optimizer: Any = slot.optimizer
    options = {"merge_dims": slot.group["merge_dims"], "max_precondition_dim": slot.group["max_precondition_dim"]}
    first = optimizer.project(slot.tensor("exp_avg"), slot.state, **options)
    second = slot.tensor("exp_avg_sq")
    correct = bool(slot.group["correct_bias"])
    return Moments(first, second, second, slot.step - 1, slot.beta1 * correct, slot.beta2 * correct)


def _prodigy(slot: Slot) -> Moments:
    """Its averages carry the estimated distance d and d²; pytorch-optimizer's counts the step to come, its author's not."""
    distance, is_authors = float(slot.group["d"]), "use_bias_correction" in slot.group
    first, second = slot.tensor("exp_avg") / distance, slot.tensor("exp_avg_sq") / distance**2
    correct = bool(slot.group["use_bias_correction" if is_authors else "bias_correction"])
    return Moments(first, second, second, slot.step - (not is_authors), slot.beta1 * correct, slot.beta2 * correct)


def _ranger21(slot: Slot) -> Moments:
    """Positive-negative momentum and the softplus of the denominator (Wright & Demeure 2021, arXiv:2106.13731)."""
    optimizer: Any = slot.optimizer
    newest, other = ("grad_ma", "neg_grad_ma") if slot.step % 2 == 1 else ("neg_grad_ma", "grad_ma")
    share = float(optimizer.beta0)
    mixed = slot.tensor(newest) * (1 + share) - slot.tensor(other) * share
    eps, correction = float(slot.group["eps"]), 1 - slot.beta2**slot.step
    divisor = (slot.tensor("max_variance_ma") / correction).sqrt_().add_(eps)
    if optimizer.use_softplus:
        divisor = torch.nn.functional.softplus(divisor, beta=optimizer.beta_softplus)
    denominator = divisor.sub_(eps).square_().mul_(correction)
    first = mixed / math.hypot(1 + share, share)
    return Moments(first, slot.tensor("variance_ma"), denominator, slot.step, slot.beta1, slot.beta2)


def _hn_adam(slot: Slot) -> Moments:
    """v averages |g|^Λ with a norm Λ per element, so √v̂ is v^(1/Λ); Λ comes from m before the step."""
    first, grown = slot.tensor("exp_avg"), slot.tensor("exp_avg_sq")
    if slot.parameter.grad is None:
        return Moments(first, None, None, slot.step, 0.0, 0.0)
    gradient = torch.view_as_real(slot.parameter.grad) if slot.parameter.is_complex() else slot.parameter.grad
    earlier = ((first - (1 - slot.beta1) * gradient) / slot.beta1).abs_()
    start = slot.group["drawn_norm"] if slot.group["norm"] is None else slot.group["norm"]
    norm = float(start) - earlier / torch.maximum(earlier, gradient.abs()).clamp_(min=tiny(earlier))
    chosen = torch.where(norm < 2, slot.tensor("max_exp_avg_sq"), grown)
    return Moments(first, grown.pow(2 / norm), chosen.pow(2 / norm), slot.step, 0.0, 0.0)


def _bds_adam(slot: Slot) -> Moments:
    """v is of the smoothed gradient over its spread σ: here in the gradient's own units. m is the smoothed gradient."""
    second = slot.tensor("exp_avg_sq") * slot.tensor("spread").square()
    return Moments(slot.tensor("smoothed"), second, second, slot.step, slot.beta1, 0.0)


def _sophia(slot: Slot) -> Moments:
    """√v is the Hessian estimate h; m/max(h, ε) is clamped to ±p, which divides by |m|/p where that is larger
    (Liu et al. 2023, arXiv:2305.14342, algorithm 3)."""
    first, curvature = slot.tensor("momentum"), slot.tensor("hessian_moment").clamp(min=0)
    divisor = torch.maximum(curvature, first.abs() / float(slot.group["p"]))
    return Moments(first, curvature.square(), divisor.square_(), slot.step, 0.0, 0.0)


def _adam_mini(slot: Slot) -> Moments:
    """One v per block of the tensor, repeated over the block (Zhang et al. 2024, arXiv:2406.16793)."""
    shape = slot.parameter.shape
    if "v" in slot.state:
        second = slot.tensor("v")
    else:
        blocks = slot.tensor("v_mean").reshape(-1, 1)
        second = blocks.expand(len(blocks), slot.parameter.numel() // len(blocks)).reshape(shape)
    return Moments(slot.tensor("m").reshape(shape), second, second, slot.step, slot.beta1, slot.beta2)


def _blocks(slot: Slot) -> Moments:
    """Ours: v stands in a shape that spreads over the tensor."""
    second = slot.tensor("block_sq").expand(slot.tensor("exp_avg").shape)
    return Moments(slot.tensor("exp_avg"), second, second, slot.step, slot.beta1, slot.beta2)


def _adafactor(slot: Slot) -> Moments:
    """v = R·C/mean(R); β₂ grows with the step so that v needs no correction (algorithms 2 and 4)."""
    row, column = slot.tensor("row_var"), slot.tensor("col_var")
    second = (row @ column).div_(row.mean(dim=-2, keepdim=True).clamp_(min=tiny(row)))
    return Moments(None, second, second, slot.step, 0.0, 0.0)


def _adafactor_vector(slot: Slot) -> Moments:
    second = slot.tensor("variance")
    return Moments(None, second, second, slot.step, 0.0, 0.0)


def _sm3(slot: Slot) -> Moments:
    """v is the smallest accumulator over an element; the momentum averages g/√v."""
    count = max(slot.parameter.dim(), 1)
    second = slot.tensor("accumulator_0")
    for index in range(1, count):
        second = torch.minimum(second, slot.tensor(f"accumulator_{index}"))
    second = second.expand(slot.parameter.shape)
    first = slot.tensor("momentum_buffer") * second.sqrt() if slot.group["momentum"] else None
    return Moments(first, second, second, slot.step, 0.0, 0.0)


def _rmsprop(slot: Slot) -> Moments:
    second = slot.tensor("square_avg")
    denominator = second.addcmul(slot.tensor("grad_avg"), slot.tensor("grad_avg"), value=-1) if _is_centred(slot) else second
    return Moments(None, second, denominator, slot.step, 0.0, 0.0)


def _is_centred(slot: Slot) -> bool:
    return slot.state.get("grad_avg") is not None


def _schedule_free(slot: Slot) -> Moments:
    """No m: the interpolation of the weights is the momentum (Defazio et al. 2024, arXiv:2405.15682)."""
    second = slot.tensor("exp_avg_sq")
    return Moments(None, second, second, slot.step, 0.0, slot.beta2)


def _lion(slot: Slot) -> Moments:
    """m averages with β₂ (Chen et al. 2023, arXiv:2302.06675, program 1)."""
    return Moments(slot.tensor("exp_avg"), None, None, slot.step, slot.beta2, 0.0)


def _momentum(slot: Slot) -> Moments:
    """Muon averages; SGD sums up, to (1-dampening)/(1-μ) times the average."""
    buffer, momentum = slot.tensor("momentum_buffer"), float(slot.group["momentum"])
    if "ns_steps" not in slot.group:
        buffer = buffer * ((1 - momentum) / (1 - float(slot.group.get("dampening", 0.0))))
    return Moments(buffer, None, None, slot.step, 0.0, 0.0)


_PAIR = frozenset({"exp_avg", "exp_avg_sq"})
_LAYOUTS: tuple[tuple[str | None, frozenset[str], Reader], ...] = (
    ("ADOPT", _PAIR, _adopt),
    ("SOAP", _PAIR, _soap),
    ("Prodigy", _PAIR, _prodigy),
    ("StableAdamW", _PAIR, _uncorrected),
    ("HNAdam", _PAIR, _hn_adam),
    ("BDSAdam", frozenset({"smoothed", "exp_avg_sq", "spread"}), _bds_adam),
    ("Adan", _PAIR, _adan),
    (None, _PAIR, _adam),
    (None, frozenset({"exp_avg", "exp_avg_var"}), _adabelief),
    (None, frozenset({"exp_avg", "exp_inf"}), _adamax),
    (None, frozenset({"grad_ma", "variance_ma", "max_variance_ma"}), _ranger21),
    (None, frozenset({"momentum", "hessian_moment"}), _sophia),
    (None, frozenset({"z", "exp_avg_sq"}), _schedule_free),
    ("AdamMini", frozenset({"m"}), _adam_mini),
    ("AdamMini", frozenset({"exp_avg", "block_sq"}), _blocks),
    (None, frozenset({"row_var", "col_var"}), _adafactor),
    ("Adafactor", frozenset({"variance"}), _adafactor_vector),
    (None, frozenset({"accumulator_0", "momentum_buffer"}), _sm3),
    (None, frozenset({"square_avg", "step"}), _rmsprop),
    ("Lion", frozenset({"exp_avg"}), _lion),
    (None, frozenset({"state1", "state2", "step"}), bitsandbytes.pair),
    (None, frozenset({"state1", "step"}), bitsandbytes.single),
    (None, frozenset({"momentum_buffer"}), _momentum),
)
"""Class name (any with None), the keys that its state has at least, and the reader; the first that fits."""
