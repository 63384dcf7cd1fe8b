"""Watches the first forward passes: in which order layers are used, and what the first weight matrix is given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.hooks import RemovableHandle

from lightning_adam.diagnosis.theory import TINY_INPUT
from lightning_adam.monitoring.guard import Guard

Floats = NDArray[np.float64]
MOST_STEPS = 5
"""Steps after which it looks no more."""
MOST_NAMES = 20
"""Names that a finding can list."""


class LayerHook:
    """Hands on what a layer is given. A copy of the layer (an averaged model) hands on nothing."""

    def __init__(self, listener: FirstLook | None) -> None:
        self._listener = listener

    def __call__(self, module: nn.Module, args: Any) -> None:
        if self._listener is not None:
            self._listener.see(module, args)

    def __getstate__(self) -> dict[str, Any]:
        return {"_listener": None}


class FirstLook:
    """Hooks on all layers with parameters of their own, for the first steps; none where the model is compiled.

    Args:
        module: the network.
        guard: that catches what goes wrong.

    Attributes:
        order: by a parameter's identity, when the forward pass reached its layer first.
    """

    def __init__(self, module: nn.Module, guard: Guard) -> None:
        self.order: dict[int, int] = {}
        self._guard, self._steps = guard, 0
        self._given: Tensor | None = None
        self._is_learnt = False
        self._handles: list[RemovableHandle] = []
        layers = [m for m in module.modules() if any(p is not None for p in m._parameters.values())]
        if not any(_is_compiled(m) for m in module.modules()):
            self._handles = [m.register_forward_pre_hook(LayerHook(self)) for m in layers]

    def see(self, module: nn.Module, args: Any) -> None:
        """A layer is used."""
        self._guard.run("the order of the layers", self._see, module, args)

    def scale(self) -> Floats:
        """rms, and |mean|/standard deviation, of what the first weight matrix was given in this step; NaN if unknown.

        And where features are tiny that are learnt themselves, as hashed tables that begin at 1e-4 (Müller et al. 2022,
        arXiv:2201.05989): they say nothing of the data.
        """
        given, self._given = self._given, None
        unknown = np.full(2, math.nan)
        if given is None:
            return unknown
        scale = scale_of(given)[1:]
        return unknown if self._is_learnt and scale[0] < TINY_INPUT else scale

    def after_step(self) -> None:
        """The step is over: after the fifth, there is nothing left to see."""
        if self._steps < MOST_STEPS:
            self._steps += 1
            self._given = None
            if self._steps == MOST_STEPS:
                self.detach()

    def detach(self) -> None:
        """Leave nothing behind; may be called twice."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._given = [], None

    def _see(self, module: nn.Module, args: Any) -> None:
        own = [p for p in module._parameters.values() if p is not None]
        for parameter in own:
            self.order.setdefault(id(parameter), len(self.order))
        first = args[0] if args else None
        if self._given is not None or not isinstance(first, Tensor) or not any(p.dim() >= 2 for p in own):
            return
        if torch.is_grad_enabled() and first.is_floating_point() and first.numel() > 1:
            self._given, self._is_learnt = first.detach(), first.grad_fn is not None


def _is_compiled(module: nn.Module) -> bool:
    return getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod")


@torch.no_grad()
def scale_of(values: Tensor) -> Floats:
    """Largest |x|, rms, and |mean|/standard deviation."""
    values = values.detach().float()
    spread, mean = torch.std_mean(values)
    numbers = torch.stack([torch.linalg.vector_norm(values, math.inf), spread, mean])
    largest, wide, middle = numbers.cpu().numpy().astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.array([largest, np.hypot(wide, middle), abs(middle) / wide])


def idle_norms(layers: Mapping[str, nn.Module]) -> tuple[str, ...]:
    """Of :func:`eval_layers`, BatchNorm whose statistics are as they were initialised: it subtracts 0 and divides by 1."""
    return tuple(name for name, layer in layers.items() if isinstance(layer, _BatchNorm) and _is_unseen(layer))


def eval_layers(module: nn.Module, names: Mapping[int, str]) -> dict[str, nn.Module]:
    """BatchNorm and Dropout that stand in eval mode although what they belong to is trained, by their names."""
    found = {}
    for name, parent in module.named_modules():
        trained = any(p.requires_grad and id(p) in names for p in parent.parameters())
        for own, layer in parent.named_children() if trained else ():
            if _differs_in_training(layer) and not layer.training and not _is_frozen(layer):
                found[f"{name}.{own}" if name else own] = layer
    return found


def _is_unseen(norm: _BatchNorm) -> bool:
    mean, variance = norm.running_mean, norm.running_var
    return mean is not None and variance is not None and not bool(mean.any()) and bool((variance == 1).all())


def largest_dropout(module: nn.Module) -> float:
    """The largest share that a layer drops in training; 0 for none."""
    return max((layer.p for layer in module.modules() if isinstance(layer, _DropoutNd) and layer.training), default=0.0)


def _differs_in_training(layer: nn.Module) -> bool:
    return isinstance(layer, _BatchNorm) or (isinstance(layer, _DropoutNd) and layer.p > 0)


def _is_frozen(layer: nn.Module) -> bool:
    own = list(layer.parameters(recurse=False))
    return bool(own) and not any(p.requires_grad for p in own)
