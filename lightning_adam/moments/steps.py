"""What an optimizer's step is made of: the rate that it really used, and how weight decay came in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_adam.moments.slot import kind_names, kind_of, plain

Group = Mapping[str, Any]


@dataclass(frozen=True)
class Decay:
    """How one tensor's weights were shrunk in a step.

    Attributes:
        share: what θ lost, as a share of it; 0 where decay enters the gradient.
        after: whether the step was shrunk with θ (SOAP), or θ alone before it.
        decoupled: whether decay shrinks θ itself instead of entering the gradient.
    """

    share: float
    after: bool
    decoupled: bool

    @property
    def stretch(self) -> float:
        """What makes the step of the one that is seen: 1/(1-share) where it was shrunk too."""
        return 1 / (1 - self.share) if self.after else 1.0


def step_is_adam_formula(optimizer: Optimizer, group: Group) -> bool:
    """Whether the step without decay is exactly α·m̂/(√v̂+ε), so that it needs no copy of the parameters.

    torch's two themselves, not what derives from them: that may step otherwise. bitsandbytes steps before it
    re-quantises its state, so its dequantised moments only approximate the step taken.
    """
    kind = kind_of(optimizer)
    if kind.__name__ == "MuonWithAdamW":
        return not group["muon"]
    return kind in (torch.optim.Adam, torch.optim.AdamW) or kind.__name__ in ("AdamZ", "CaAdam")


def gradients_are_spoiled(optimizer: Optimizer, group: Group, parameter: Tensor) -> bool:
    """Whether the step leaves something else than the gradient in ``parameter.grad``."""
    if not type(optimizer).__module__.startswith("pytorch_optimizer"):
        return False
    kept = group.get("weight_decouple", True) or not group.get("weight_decay")
    names = kind_names(optimizer)
    compensated = "StableAdamW" in names and parameter.element_size() < 4
    return not kept or compensated or any(name.startswith("ScheduleFree") for name in names)


def learning_rates(optimizer: Optimizer, before: Group) -> Callable[[Group, Tensor], float]:
    """The α of one tensor's last step, with the factor that the optimizer itself puts to ``group["lr"]``.

    Args:
        optimizer: right after its step.
        before: numbers of its first group right before the step.
    """
    factor = next((f for name, f in _RATE_FACTORS.items() if name in kind_names(optimizer)), None)

    if factor is None:
        return _group_rate

    def rate(group: Group, parameter: Tensor) -> float:
        return float(group["lr"]) * factor(group, parameter, optimizer.state.get(parameter, {}), before)

    return rate


def _adamz(group: Group, parameter: Tensor, state: Group, before: Group) -> float:
    lr = float(group["lr"])
    limited = min(max(lr * group["loss_factor"], group["min_lr"]), group["max_lr"])
    return limited / lr if lr > 0 else 1.0


def _caadam(group: Group, parameter: Tensor, state: Group, before: Group) -> float:
    return float(state.get("scale", 1.0))


def _lamb(group: Group, parameter: Tensor, state: Group, before: Group) -> float:
    """The trust ratio, times √(1-β₂ᵗ) because LAMB's v is not corrected."""
    trust = 1.0 if group.get("adam") else float(state.get("trust_ratio", 1.0))
    return trust / math.sqrt(1 - float(group["betas"][1]) ** max(int(group.get("step", 1)), 1))


def _trust(group: Group, parameter: Tensor, state: Group, before: Group) -> float:
    """The trust ratio of ours, whose v is corrected."""
    return float(state.get("trust_ratio", 1.0))


def _prodigy(group: Group, parameter: Tensor, state: Group, before: Group) -> float:
    """The step used the distance estimated before it."""
    distance, step = float(before.get("d", group["d"])), int(before.get("step", before.get("k", 0) + 1))
    if not group.get("use_bias_correction", group.get("bias_correction")):  # its author's name, and pytorch-optimizer's
        return distance
    beta1, beta2 = group["betas"]
    return float(distance * math.sqrt(1 - beta2**step) / (1 - beta1**step))


def _stable(group: Group, parameter: Tensor, state: Group, before: Group) -> float:
    """Divides by the rms of g/√v where that is above 1 (Wortsman et al. 2023, arXiv:2304.13013, algorithm 2)."""
    if parameter.grad is None or "exp_avg_sq" not in state:
        return 1.0
    second = state["exp_avg_sq"].float().clamp(min=float(group["eps"]) ** 2)
    return 1.0 / max(1.0, float((parameter.grad.float().square() / second).mean().sqrt()))


def _rectified(group: Group, parameter: Tensor, state: Group, before: Group) -> float:
    return rectification(max(int(state.get("step", group.get("step", 1))), 1), float(group["betas"][1]))


def rectification(step: int, beta2: float) -> float:
    """r_t (Liu et al. 2019, arXiv:1908.03265, algorithm 2).

    While ρ_t is at most 5, RAdam steps by α·m̂, which no rate over √v̂+ε describes: NaN.
    """
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * beta2**step / (1 - beta2**step)
    if length <= 5:
        return math.nan
    return math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))


def _bds(group: Group, parameter: Tensor, state: Group, before: Group) -> float:
    """r_t times the share of the normalised gradient that BDS-Adam's step takes."""
    share = 1 / float(state["spread"]) if "spread" in state else 1.0
    bounded = min(max(share, group["min_gradient_scale"]), group["max_gradient_scale"])
    return _rectified(group, parameter, state, before) * float(bounded)


_RATE_FACTORS: dict[str, Callable[[Group, Tensor, Group, Group], float]] = {
    "AdamZ": _adamz,
    "BDSAdam": _bds,
    "CaAdam": _caadam,
    "LAMB": _trust,
    "LAMB8bit": _trust,
    "Lamb": _lamb,
    "Prodigy": _prodigy,
    "RAdam": _rectified,
    "Ranger": _rectified,
    "StableAdamW": _stable,
}


def decays(optimizer: Optimizer, before: Group) -> Callable[[Group, Tensor, Tensor | None], Decay]:
    """How one tensor was decayed in the last step: a function of its group, the parameter and its copy.

    Args:
        optimizer: right after its step.
        before: numbers of its first group right before the step.
    """
    names = kind_names(optimizer)
    rate = learning_rates(optimizer, before) if names & {"LAMB", "LAMB8bit", "Prodigy", "StableAdamW"} else _group_rate
    factor = next((make(optimizer) for name, make in _DECAY_FACTORS.items() if name in names), None)

    def decay(group: Group, parameter: Tensor, copy: Tensor | None) -> Decay:
        strength = float(group.get("weight_decay") or 0.0)
        decoupled = decay_is_decoupled(optimizer, group)
        if not decoupled or strength == 0.0:
            proximal = "Adan" in names and strength * float(group["lr"])
            return Decay(proximal / (1 + proximal) if proximal else 0.0, bool(proximal), decoupled)
        share = strength * (1.0 if group.get("fixed_decay") else rate(group, parameter))
        if factor is not None:
            share *= factor(group, parameter, copy)
        return Decay(share, "SOAP" in names, True)

    return decay if factor is not None or rate is not _group_rate else _once_per_group(decay)


def _once_per_group(
    decay: Callable[[Group, Tensor, Tensor | None], Decay],
) -> Callable[[Group, Tensor, Tensor | None], Decay]:
    known: dict[int, Decay] = {}

    def same(group: Group, parameter: Tensor, copy: Tensor | None) -> Decay:
        if id(group) not in known:
            known[id(group)] = decay(group, parameter, copy)
        return known[id(group)]

    return same


def _group_rate(group: Group, parameter: Tensor) -> float:
    return float(group["lr"])


def decay_is_decoupled(optimizer: Optimizer, group: Group) -> bool:
    """Whether weight decay shrinks the parameter itself instead of entering the gradient."""
    for key in ("decoupled_weight_decay", "weight_decouple", "decouple"):
        if group.get(key) is not None:
            return bool(group[key])
    names = kind_names(optimizer)
    if any("ScheduleFree" in name for name in names):
        return False
    rooms = {kind.__module__.split(".")[0] for kind in kind_of(optimizer).__mro__}
    if {"bitsandbytes", "lightning_adam"} <= rooms and "Adam8bit" in names:
        return False
    if "bitsandbytes" in rooms:
        return getattr(optimizer, "optimizer_name", "") not in ("momentum", "rmsprop", "adagrad", "lars")
    return ("lightning_adam" in rooms and "BDSAdam" not in names) or bool(names & _DECOUPLED)


_DECOUPLED = frozenset({"AdamW", "Adafactor", "Muon", "AdamMini", "SOAP", "Lion"})


def _ranger(optimizer: Any) -> Callable[[Group, Tensor, Tensor | None], float]:
    """Every k-th step the weights go only the share α of their way from the slow ones (arXiv:1907.08610)."""
    return lambda group, parameter, copy: float(group["alpha"]) if group["step"] % group["k"] == 0 else 1.0


def _ranger21(optimizer: Any) -> Callable[[Group, Tensor, Tensor | None], float]:
    """Stable weight decay: over the rms of √v̂ of the whole model (arXiv:2011.11152), and a lookahead."""
    placed = [
        (g, optimizer.state[p]["variance_ma"]) for g in optimizer.param_groups for p in g["params"] if p in optimizer.state
    ]
    if not placed:
        return lambda group, parameter, copy: 1.0
    total = 1.0 + sum(float(v.sum()) / (1 - g["betas"][1] ** g["step"]) for g, v in placed)
    size = sum(v.numel() for _, v in placed)
    blend = float(optimizer.lookahead_blending_alpha) if optimizer.lookahead_step == 0 else 1.0
    return lambda group, parameter, copy: blend / math.sqrt(total / size)


def _adamp(optimizer: Any) -> Callable[[Group, Tensor, Tensor | None], float]:
    """Scale-invariant weights decay less (Heo et al. 2021, arXiv:2006.08217, algorithm 3)."""
    return lambda group, parameter, copy: group["wd_ratio"] if _is_projected(group, parameter, copy) else 1.0


def _soap(optimizer: Any) -> Callable[[Group, Tensor, Tensor | None], float]:
    """The first step only makes the eigenbasis."""
    return lambda group, parameter, copy: 0.0 if group["step"] == 1 else 1.0


def _is_projected(group: Group, parameter: Tensor, copy: Tensor | None) -> bool:
    if copy is None or parameter.grad is None or parameter.dim() < 2:
        return False
    weight, gradient = plain(copy), plain(parameter.grad)
    for rows in (len(weight), 1):
        w, g = weight.reshape(rows, -1), gradient.reshape(rows, -1)
        cosine = torch.nn.functional.cosine_similarity(w, g, dim=1, eps=float(group["eps"])).abs()
        if bool(cosine.max() < group["delta"] / math.sqrt(w.shape[1])):
            return True
    return False


_DECAY_FACTORS: dict[str, Callable[[Any], Callable[[Group, Tensor, Tensor | None], float]]] = {
    "Ranger": _ranger,
    "Ranger21": _ranger21,
    "AdamP": _adamp,
    "SOAP": _soap,
}
