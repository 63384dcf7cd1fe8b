"""Whether the weights of most layers have one sign: ``torch.rand`` where ``torch.randn`` was meant."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from lightning_adam.diagnosis import Finding
from lightning_adam.preflight.facts import Facts, found, some
from lightning_adam.preflight.step import LAYERS

FEWEST = 16
"""Weights, which chance gives one sign in one of 32,768 layers."""


def one_sided(facts: Facts) -> Iterator[Finding]:
    """Without a backward pass: no weight of most layers, two or more, is below zero, or none is above it.

    All units of such a layer add up their inputs alike: what they have in common grows with the number of inputs, and what
    tells them apart with its root (He et al. 2015, arXiv:1502.01852, section 2.2, ask for a mean of zero).
    """
    large = _weights_of_layers(facts.task.module)
    sided = [name for name, weight in large.items() if _has_one_sign(weight)]
    if len(sided) >= 2 and 2 * len(sided) > len(large):
        yield found(
            "INIT-SCALE",
            "warning",
            f"The weights of {some(sided)} have one sign: all units of a layer add up their inputs alike.",
            "Draw the weights around zero: nn.init.kaiming_normal_(w), torch.randn and not torch.rand.",
            {"layers": len(sided)},
            sided,
        )


def _weights_of_layers(module: nn.Module) -> dict[str, Tensor]:
    """Those that are trained, and are no function of others: to ask for such a weight may change it (spectral norm)."""
    layers = [(name, part) for name, part in module.named_modules() if isinstance(part, LAYERS)]
    owned = {name: dict(part.named_parameters(recurse=False)).get("weight") for name, part in layers}
    trained = {name: w for name, w in owned.items() if w is not None and w.requires_grad and w.is_floating_point()}
    return {name: w.detach() for name, w in trained.items() if w.dim() > 1 and w.numel() >= FEWEST}


def _has_one_sign(weight: Tensor) -> bool:
    """And differs from unit to unit: weights that are all the same are another fault. One unit often tells two signs."""
    return _is_of_one_sign(weight[0]) and _is_of_one_sign(weight) and float(weight.min()) < float(weight.max())


def _is_of_one_sign(weight: Tensor) -> bool:
    return float(weight.min()) >= 0 or float(weight.max()) <= 0
