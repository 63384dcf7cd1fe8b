"""What our own optimizers share: closure, state, and lists of tensors of one device and dtype for foreach kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_adam.errors import ConfigError

Tensors = list[Tensor]


class ForeachOptimizer(Optimizer):
    """An optimizer that steps lists of tensors; a subclass names its buffers and writes ``update``.

    Attributes:
        buffers: per-element state, zeros at the start.
        decoupled: whether weight decay shrinks the weights; else it enters the gradient.
        in_pieces: whether :meth:`update` may get large tensors in pieces; not where it needs them whole.
    """

    buffers: tuple[str, ...] = ("exp_avg", "exp_avg_sq")
    decoupled = True
    in_pieces = True

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One optimizer step; returns the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            with_gradient = [p for p in group["params"] if p.grad is not None]
            for parameters in _alike(with_gradient):
                self._step_alike(group, parameters)
        return loss

    def _step_alike(self, group: dict[str, Any], parameters: Tensors) -> None:
        for parameter in parameters:
            self.prepare(group, parameter)
        states = [self.state[p] for p in parameters]
        for state in states:
            state["step"] += 1
        gradients = [_real(p.grad) for p in parameters if p.grad is not None]
        weights = [_real(p) for p in parameters]
        if group["weight_decay"]:
            gradients = self.decay(group, weights, gradients)
        self.observe(group, gradients, states)
        if not self.in_pieces:
            return self.update(group, weights, gradients, states)
        for piece in _in_cache(weights, gradients, states, self.buffers):
            self.update(group, *piece)

    def decay(self, group: dict[str, Any], weights: Tensors, gradients: Tensors) -> Tensors:
        """Shrink the weights, or return gradients that do."""
        if not self.decoupled:
            return list(torch._foreach_add(gradients, weights, alpha=group["weight_decay"]))
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        return gradients

    def prepare(self, group: dict[str, Any], parameter: Tensor) -> None:
        """Make the state of a parameter that has none."""
        if parameter.grad is not None and parameter.grad.is_sparse:
            raise RuntimeError(f"{type(self).__name__} takes no sparse gradients: use Embedding(sparse=False).")
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            for name in self.buffers:
                state[name] = torch.zeros_like(_real(parameter), memory_format=torch.preserve_format)

    def observe(self, group: dict[str, Any], gradients: Tensors, states: Sequence[Any]) -> None:
        """What needs whole tensors: :meth:`update` gets large ones in pieces."""

    def update(self, group: dict[str, Any], weights: Tensors, gradients: Tensors, states: Sequence[Any]) -> None:
        """Change the weights in place; weight decay is already done."""
        raise RuntimeError(f"{type(self).__name__} has no update rule")


def column(states: Sequence[Any], name: str) -> Tensors:
    """One buffer of all parameters."""
    return [state[name] for state in states]


def adam_step(
    group: dict[str, Any], weights: Tensors, gradients: Tensors, states: Sequence[Any], rates: Sequence[float]
) -> None:
    """Adam (Kingma & Ba 2014, arXiv:1412.6980, algorithm 1) with a learning rate per tensor; moves the moments on.

    ε is added to √v̂, as torch does.
    """
    first, denominators, ones = _adam_parts(group, gradients, states)
    torch._foreach_addcdiv_(weights, first, denominators, [-lr / one for lr, one in zip(rates, ones, strict=True)])


def adam_direction(group: dict[str, Any], gradients: Tensors, states: Sequence[Any]) -> Tensors:
    """m̂/(√v̂ + ε) of the same; moves the moments on."""
    first, denominators, ones = _adam_parts(group, gradients, states)
    directions = list(torch._foreach_div(first, ones))
    torch._foreach_div_(directions, denominators)
    return directions


def _adam_parts(group: dict[str, Any], gradients: Tensors, states: Sequence[Any]) -> tuple[Tensors, Tensors, list[float]]:
    """m, √v̂ + ε and 1-β₁ᵗ after this step's gradients."""
    beta1, beta2 = group["betas"]
    first, second = column(states, "exp_avg"), column(states, "exp_avg_sq")
    torch._foreach_lerp_(first, gradients, 1 - beta1)
    torch._foreach_mul_(second, beta2)
    torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
    ones, roots = corrections(group, states)
    denominators = list(torch._foreach_sqrt(second))
    torch._foreach_div_(denominators, roots)
    torch._foreach_add_(denominators, group["eps"])
    return first, denominators, ones


def corrections(group: dict[str, Any], states: Sequence[Any]) -> tuple[list[float], list[float]]:
    """1-β₁ᵗ and √(1-β₂ᵗ) of each tensor."""
    beta1, beta2 = group["betas"]
    steps = [float(state["step"]) for state in states]
    return [1 - beta1**t for t in steps], [math.sqrt(1 - beta2**t) for t in steps]


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Refuse a hyper-parameter outside of [low, high].

    Raises:
        ConfigError: names it, what it got, and what is allowed.
    """
    if not isinstance(value, (int, float)) or not low <= value <= high:
        raise ConfigError(f"{name}={value!r}: {name} must be between {low:g} and {high:g}.")


def check_adam(lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
    """The hyper-parameters that all of ours share."""
    check_range("lr", lr, 0.0, math.inf)
    check_range("eps", eps, 0.0, math.inf)
    check_range("weight_decay", weight_decay, 0.0, math.inf)
    for index, beta in enumerate(betas, 1):
        check_range(f"beta{index}", beta, 0.0, 1.0 - 1e-12)


CACHED = 1 << 17
"""Elements whose weights, gradients, state and intermediate results stay in a core's cache."""


def _in_cache(
    weights: Tensors, gradients: Tensors, states: Sequence[Any], buffers: Sequence[str]
) -> Iterator[tuple[Tensors, Tensors, list[Any]]]:
    """Lists of at most CACHED elements on a CPU, where each elementwise operation on more would go to memory and back.

    Large tensors come as flat views. A GPU takes everything at once: there launches cost, not memory levels.
    """
    if weights[0].device.type != "cpu":
        yield weights, gradients, list(states)
        return
    batch: list[tuple[Tensor, Tensor, Any]] = []
    room = CACHED
    for piece in _pieces(weights, gradients, states, buffers):
        if piece[0].numel() > room and batch:
            yield _columns(batch)
            batch, room = [], CACHED
        batch.append(piece)
        room -= piece[0].numel()
    yield _columns(batch)


def _columns(batch: list[tuple[Tensor, Tensor, Any]]) -> tuple[Tensors, Tensors, list[Any]]:
    return [w for w, _, _ in batch], [g for _, g, _ in batch], [s for _, _, s in batch]


def _pieces(
    weights: Tensors, gradients: Tensors, states: Sequence[Any], buffers: Sequence[str]
) -> Iterator[tuple[Tensor, Tensor, Any]]:
    for weight, gradient, state in zip(weights, gradients, states, strict=True):
        tensors = [weight, gradient, *(state[name] for name in buffers)]
        if weight.numel() <= CACHED or not all(t.is_contiguous() for t in tensors):
            yield weight, gradient, state
            continue
        for w, g, *rest in zip(*(t.view(-1).split(CACHED) for t in tensors), strict=True):
            yield w, g, {**state, **dict(zip(buffers, rest, strict=True))}


def _alike(parameters: Sequence[Tensor]) -> list[Tensors]:
    """The parameters by device and dtype, in order."""
    lists: dict[tuple[torch.device, torch.dtype], Tensors] = {}
    for parameter in parameters:
        lists.setdefault((parameter.device, parameter.dtype), []).append(parameter)
    return list(lists.values())


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor
