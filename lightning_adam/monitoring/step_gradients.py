"""The gradients of an optimizer's present step: whose they are, and how long, measured once.

Clipping, by the helper or by Lightning, measures every gradient: what it found is read, and nothing is measured beside it.
Where a loop clips by hand, they are measured as its clipping does: the same is told to the last bit, whoever clips. Where
nobody does, those of small models on a CPU are measured in one copy of all. On the host the total alone is kept, and each of
them is looked at only where the total is not finite.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_adam.gradient_norms import GradientNorms
from lightning_adam.monitoring.gradients import norms_of, torchs_norms, wide_norms_of
from lightning_adam.monitoring.parameters import is_empty

SMALL = 1 << 18
"""Elements of all gradients that are copied into one for their norm: a megabyte, which stays in a core's cache."""
EACH_SMALL = 1 << 13
"""Elements of a gradient under which a norm of its own costs more than the copy."""
NAMES = 5
"""Parameters without a gradient that are named."""
HOST = torch.device("cpu")


class StepGradients:
    """Looked up anew in each step: a gradient that is cleared is another tensor afterwards.

    Args:
        optimizer: whose gradients they are.
        names: of the parameters by identity.
        told: what clipping measured when it clipped an optimizer's gradients last.
        is_clipped: whether somebody else than the helper clips by their total norm.

    Attributes:
        graded: names of those with a gradient.
        missing: how many trainable ones have none.
        unused: the first of their names.
        device: where the gradients are.
        on_host: whether that is the CPU, so that a number is read without waiting.
        is_told: whether clipping will tell of the norms, as it did in the step before.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        names: Mapping[int, str],
        told: Callable[[Optimizer], GradientNorms | None],
        is_clipped: bool,
    ) -> None:
        self._optimizer, self._names, self._told, self._is_clipped = optimizer, names, told, is_clipped
        self._placed: list[Tensor] = []
        self._has_none: list[bool] = []
        self._gradients: list[Tensor] = []
        self._each: Tensor | None = None
        self._total = math.nan
        self._told_before: Tensor | None = None
        self._repeats: bool = getattr(optimizer, "adam_repeats", False)  # L-BFGS: it tells of its last evaluation
        self._is_unscaled = False  # what clipping tells is
        self._is_small = False
        self.graded: tuple[str, ...] = ()
        self.missing, self.unused = 0, tuple[str, ...]()
        self.device, self.on_host, self.is_told = HOST, True, False

    def take(self) -> None:
        """They are complete and not yet clipped."""
        self._each, self._total, self._is_unscaled = None, math.nan, False
        before = self._told(self._optimizer)
        self._told_before = None if before is None else before.each
        self.is_told = self._told_before is not None and not self._repeats
        if not self.is_told:
            self._gather()
            self._measure()

    def _gather(self) -> None:
        """All that there are now."""
        placed = [p for group in self._optimizer.param_groups for p in group["params"]]
        found = [p.grad for p in placed]
        has_none = list(map(operator.is_, found, repeat(None)))
        is_whole = not any(has_none)
        self._gradients = found if is_whole else [gradient for gradient in found if gradient is not None]
        same = len(placed) == len(self._placed) and all(map(operator.is_, placed, self._placed))
        if not same or has_none != self._has_none:
            self._placed, self._has_none = placed, has_none
            self._look_up()
        if not is_whole:
            self._count_missing()

    def _look_up(self) -> None:
        """Whose they are, where that has changed."""
        graded = [p for p, none in zip(self._placed, self._has_none, strict=True) if not none]
        self.graded = tuple(self._names.get(id(p), "a parameter") for p in graded)
        self.device = self._gradients[0].device if graded else HOST
        self.on_host = self.device.type == "cpu"
        self._is_small = self.on_host and len(graded) > 1 and _are_small(graded)
        self.missing, self.unused = 0, ()

    def _count_missing(self) -> None:
        """Of those without a gradient, the trainable ones: freezing may change them at any time."""
        absent = [p for p, none in zip(self._placed, self._has_none, strict=True) if none]
        idle = [p for p in absent if p.requires_grad and not is_empty(p)]
        if len(idle) != self.missing:
            self.missing = len(idle)
            self.unused = tuple(self._names.get(id(p), "a parameter") for p in idle[:NAMES])

    def _measure(self) -> None:
        if self._is_small and not self._is_clipped:
            self._total = _norm_of_copy(self._gradients)
        if 0 < self._total < math.inf:
            return
        self._total, exact = math.nan, torchs_norms(self._gradients) if self.on_host else None
        if exact is None or exact.each is None:
            self._each = norms_of(self._gradients)
        else:
            self._keep(exact.total, exact.each)
        if self.on_host and not 0 < self.total(1.0) < math.inf:
            self._total, self._each = math.nan, wide_norms_of(self._gradients)

    def _keep(self, total: Tensor, each: Tensor) -> None:
        """On the host the total alone, where it is finite: nobody looks at each of them then."""
        known = float(total) if total.is_cpu else math.nan
        self._total, self._each = (known, None) if math.isfinite(known) else (math.nan, each.float())

    def after_step(self) -> None:
        """Read what clipping told, and let go of the gradients.

        Where a gradient scaler has left the step out, the helper has not clipped, and tells nothing new.
        """
        if self.is_told:
            self._read()
        self._gradients, self._told_before = [], None

    def _read(self) -> None:
        told = self._told(self._optimizer)
        if told is None or told.each is None or told.each is self._told_before:
            return self.ask()
        self._is_unscaled = True
        self._keep(told.total, told.each)
        count = told.each.numel()
        if self._has_changed(count) or self._each is not None:
            self._gather()
        if len(self.graded) != count:
            self.graded = ("a parameter",) * count

    def _has_changed(self, graded: int) -> bool:
        """Whether others than before may have a gradient: nobody looks where all have one and had one."""
        placed = sum([len(group["params"]) for group in self._optimizer.param_groups])
        return graded != placed or len(self.graded) != graded

    def ask(self) -> None:
        """Somebody wants to know before clipping, or nobody clips."""
        if self.is_told and math.isnan(self._total) and self._each is None:
            self._gather()
            self._measure()

    def total(self, scale: Tensor | float) -> float:
        """‖g‖ over all without fp16's scale; NaN where there is none. Waits for the device.

        Args:
            scale: what the gradients still carried of it when they were complete.
        """
        scale = 1.0 if self._is_unscaled else scale
        if not math.isnan(self._total):
            return self._total / float(scale)
        return math.nan if self._each is None else float(torch.linalg.vector_norm(self._each.double()) / scale)

    def each(self, scale: Tensor | float) -> Tensor | None:
        """‖g‖ of each in float32 on their device, without fp16's scale; None where the host knows a finite total."""
        scale = 1.0 if self._is_unscaled else scale
        if self._each is None or (not isinstance(scale, Tensor) and scale == 1.0):
            return self._each
        return self._each / on_device(scale, self._each.device)


def _are_small(graded: Sequence[Tensor]) -> bool:
    """Plain parameters in 32 or 64 bits that are quicker copied than measured one by one."""
    numels = [p.numel() for p in graded]
    is_plain = {type(p) for p in graded} <= {Tensor, nn.Parameter} and {p.dtype for p in graded} <= {
        torch.float32,
        torch.float64,
    }
    return is_plain and sum(numels) <= min(SMALL, EACH_SMALL * len(numels))


def _norm_of_copy(gradients: list[Tensor]) -> float:
    """‖g‖ over all; NaN where one is sparse: it cannot be flattened."""
    try:
        return float(torch.linalg.vector_norm(torch._C._nn.flatten_dense_tensors(gradients)))
    except RuntimeError:
        return math.nan


def on_device(value: Tensor | float, device: torch.device) -> Tensor:
    """A number as a tensor there, without waiting."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    return torch.full((), value, device=device)
