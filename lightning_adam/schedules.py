"""Schedules: one multiplier of the learning rate per optimizer step, as pure functions; and the object that applies it.

A step k counts from 0. All warm up linearly, (k+1)/warmup, so that the first step already moves the weights and the last
warmup step has the full rate. Warmup-stable-decay: Hu et al. 2024 (MiniCPM), arXiv:2404.06395; cosine: Loshchilov &
Hutter 2017 (SGDR), arXiv:1608.03983, equation 5.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_adam.errors import LightningAdamWarning


@dataclass(frozen=True)
class Phases:
    """The run in optimizer steps.

    Attributes:
        warmup: steps of the linear warmup.
        decay: steps of the decay at the end (all that follows the warmup, except under ``wsd``).
        total: length of the run; ``inf`` only where nothing decays.
        min_factor: the multiplier that the decay ends at.
    """

    warmup: int
    decay: int
    total: float
    min_factor: float = 0.0

    def decayed(self, step: int) -> float:
        """How much of the decay is over before this step: 0 at its first step, 1 after the last."""
        start = self.total - self.decay
        return min(1.0, max(0.0, (step - start) / self.decay)) if self.decay else float(step >= self.total)


def _constant(done: float) -> float:
    return 1.0


def _linear(done: float) -> float:
    return 1.0 - done


def _cosine(done: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * done))


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "wsd": _linear,
}
"""Name to the shape of its decay: what is left of the learning rate when a share ``done`` of the decay is over."""


def factor(name: str, phases: Phases, step: int) -> float:
    """The multiplier for one step.

    Example:
        >>> phases = Phases(warmup=2, decay=4, total=6)
        >>> [factor("linear", phases, k) for k in range(7)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if step < phases.warmup:
        return (step + 1) / phases.warmup
    shape = SCHEDULES[name](phases.decayed(step))
    return phases.min_factor + (1.0 - phases.min_factor) * shape


class Schedule(LRScheduler):
    """Sets ``group["lr"]`` from the number of real updates.

    The optimizer calls :meth:`advance` after each real update (:mod:`lightning_adam.clipping`), so a step that the
    GradScaler skips consumes no warmup (Lightning #5558), and manual optimization needs no ``scheduler.step()``. It is
    an ``LRScheduler`` because Lightning asks for one. torch's constructor is not called: it would patch
    ``optimizer.step`` to warn about the order of calls.

    Args:
        optimizer: its groups' ``lr`` are the base rates.
        name: a key of SCHEDULES.
        phases: the run in optimizer steps.
    """

    def __init__(self, optimizer: Optimizer, name: str, phases: Phases) -> None:
        self.optimizer = optimizer
        self.name, self.phases = name, phases
        self.last_epoch = 0
        self._step_count = 1
        self.base_lrs: list[Any] = []
        self._apply()

    def advance(self) -> None:
        """One real update is done: set the rate of the next."""
        self.last_epoch += 1
        self._step_count += 1
        self._apply()

    def step(self, epoch: int | None = None) -> None:
        """Nothing: Lightning calls this for skipped steps too, and never in manual optimization."""

    def get_lr(self) -> list[Any]:
        """The groups' learning rates for the next update."""
        multiplier = factor(self.name, self.phases, self.last_epoch)
        return [base * multiplier for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """The number of updates, and the configuration that a resumed run is compared with; plain types."""
        return {"updates": self.last_epoch, **self._configuration()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the saved number of updates under the *present* configuration; say what has changed."""
        self.last_epoch = int(state_dict["updates"])
        self._step_count = self.last_epoch + 1
        saved, present = state_dict, self._configuration()
        changed = [f"{k} {saved[k]} -> {v}" for k, v in present.items() if k in saved and saved[k] != v]
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=False):
            group["initial_lr"] = base
        self._apply()
        if changed:
            warnings.warn(
                f"The schedule was changed since the checkpoint: {', '.join(changed)}. From update {self.last_epoch} "
                "on it follows the new configuration.",
                LightningAdamWarning,
                stacklevel=2,
            )

    def _configuration(self) -> dict[str, Any]:
        p = self.phases
        return {
            "name": self.name,
            "warmup": p.warmup,
            "decay": p.decay,
            "total": p.total,
            "min_factor": p.min_factor,
            "base_lrs": [float(base) for base in self.base_lrs],
        }

    def _apply(self) -> None:
        """Groups that joined in mid-run (Lightning's finetuning callbacks) bring their own base rate."""
        for group in self.optimizer.param_groups[len(self.base_lrs) :]:
            self.base_lrs.append(group.setdefault("initial_lr", group["lr"]))
        for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=False):
            group["lr"] = lr
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]
