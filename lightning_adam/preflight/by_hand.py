"""Manual optimization, as probing lets it happen: who steps, and which losses go backward."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

Event = tuple[str, Optimizer | None]


class Cuts:
    """By how much the gradient is clipped between its backward pass and the step, in ``shares`` of what it was."""

    def __init__(self, parameters: Iterable[Tensor], shares: list[float]) -> None:
        self._parameters, self.shares, self._before = list(parameters), shares, 0.0

    def begin(self) -> None:
        """After a backward pass."""
        self._before = gradient_norm(self._parameters)

    def end(self) -> None:
        """Before the step."""
        if self._before > 0:
            self.shares.append(gradient_norm(self._parameters) / self._before)


def gradient_norm(parameters: Iterable[Tensor]) -> float:
    """Of all gradients together, sparse ones left out."""
    norms = [p.grad.detach().float().norm() for p in parameters if p.grad is not None and not p.grad.is_sparse]
    return float(torch.stack(norms).norm()) if norms else 0.0


class HandOptimizer:
    """What ``self.optimizers()`` gives while probing: it notes what is called, and steps only where that is wanted."""

    def __init__(self, optimizer: Optimizer, events: list[Event], steps: bool, cuts: Cuts | None = None) -> None:
        self.optimizer, self._events, self._steps, self._cuts = optimizer, events, steps, cuts

    def __getattr__(self, name: str) -> Any:
        return getattr(self.optimizer, name)

    def step(self, closure: Callable[[], Any] | None = None, **_: Any) -> Any:
        """A closure is evaluated in any case: it has the backward pass."""
        self._events.append(("step", self.optimizer))
        if self._cuts is not None:
            self._cuts.end()
        if not self._steps:
            return closure() if closure is not None else None
        return self.optimizer.step(closure) if closure is not None else self.optimizer.step()

    def toggle_model(self, sync_grad: bool = True) -> AbstractContextManager[None]:
        """Nothing to toggle: there is one process."""
        return nullcontext()


class Backwards(TorchFunctionMode):
    """Catches the losses of a manual step on their way to backward, and lets them through where it is to step.

    Args:
        events: where it notes them.
        losses: where it keeps them; with their graph where it does not let them through.
        collect: called with each loss that is not let through.
        cuts: told of each backward pass that is let through.
    """

    def __init__(
        self, events: list[Event], losses: list[Tensor], collect: Callable[[Tensor], None] | None, cuts: Cuts | None = None
    ) -> None:
        super().__init__()
        self._events, self._losses, self._collect, self._cuts = events, losses, collect, cuts

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """All other calls are handed on."""
        if getattr(func, "__name__", "") != "backward":
            return func(*args, **(kwargs or {}))
        self._events.append(("backward", None))
        if self._collect is None:
            self._losses.append(args[0].detach())
            func(*args, **(kwargs or {}))
            return None if self._cuts is None else self._cuts.begin()
        self._losses.append(args[0])
        return self._collect(args[0])
