"""Sees every real optimizer step through torch's own hooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle


class StepHooks:
    """Calls back right before and right after each real optimizer step.

    torch's post-step hook sees the learning rate that the step used (at the end of a batch it is already the next one),
    fires for each of several optimizers, in manual optimization too, and does not fire for a step that a gradient scaler
    skips.
    """

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    def attach(
        self,
        optimizers: Sequence[Optimizer],
        before_step: Callable[[int, bool], None],
        after_step: Callable[[int], None],
    ) -> list[Optimizer]:
        """Listen to these optimizers, and to no others.

        Args:
            optimizers: wrapped ones are unwrapped.
            before_step: gets the position, and whether the step is handed a closure that will compute the gradients. It
                sees the parameters before L-BFGS's many evaluations.
            after_step: gets the position.

        Returns:
            Those that have no step hooks and wrap none that has: nobody hears of their steps.
        """
        self.detach()
        deaf = []
        for position, optimizer in enumerate(optimizers):
            inner = with_hooks(optimizer)
            if inner is None:
                deaf.append(optimizer)
                continue

            def before(_: Optimizer, args: Any, kwargs: Any, position: int = position) -> None:
                before_step(position, _has_closure(args, kwargs))

            def after(_: Optimizer, args: Any, kwargs: Any, position: int = position) -> None:
                after_step(position)

            self._handles += [inner.register_step_pre_hook(before), inner.register_step_post_hook(after)]
        return deaf

    def detach(self) -> None:
        """Leave nothing behind; may be called twice."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def _has_closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """``args`` begins with the optimizer itself."""
    return kwargs.get("closure") is not None or (len(args) > 1 and args[1] is not None)


def with_hooks(optimizer: Any) -> Optimizer | None:
    """The optimizer itself, or the one that it wraps (DeepSpeed's, Fabric's, Accelerate's), if that has torch's step hooks.

    A wrapper may inherit the methods and never have called torch's constructor: then it has no hooks to call.
    """
    seen: list[Any] = []
    while optimizer is not None:
        if hasattr(optimizer, "register_step_post_hook") and hasattr(optimizer, "_optimizer_step_post_hooks"):
            return optimizer  # type: ignore[no-any-return]
        if any(optimizer is one for one in seen):
            return None
        seen.append(optimizer)
        optimizer = getattr(optimizer, "optimizer", None)
    return None
