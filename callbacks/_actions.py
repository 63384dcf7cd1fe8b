"""What the monitor does about a finding, when the user asks for it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from lightning_adam.callbacks._watch import OptimizerWatch
from lightning_adam.diagnosis import Finding
from lightning_adam.diagnosis.history import median
from lightning_adam.errors import ConfigError, nearest

ACTIONS = ("warn", "stop", "skip_step", "rollback", "reduce_lr")
SEVERITIES = ("info", "warning", "critical")
REDUCTION = 0.3
"""What rollback and reduce_lr multiply the learning rate by where the finding names no value."""
SURPRISING = 100.0
"""Times the median of 50 gradient norms: such a step is left out by skip_step. Healthy runs reach 65."""
KEPT_EVERY = 25
"""Steps between two states that rollback keeps; it returns to the older of two, at least so many steps back."""
PAUSE = 20
"""Steps after an action in which none follows: the run needs them to answer."""


class DivergenceError(RuntimeError):
    """A finding of the severity that ``raise_on`` names."""


def check_choice(argument: str, value: object, allowed: Sequence[str]) -> None:
    """Raises ConfigError with the nearest spelling."""
    if value not in allowed:
        choices = ", ".join(map(repr, allowed))
        raise ConfigError(f"{argument}={value!r} is not known.{nearest(str(value), allowed)} Allowed: {choices}.")


class Actions:
    """Carries out one kind of action, at most ``most`` times.

    Args:
        kind: one of ACTIONS.
        most: bound.
    """

    def __init__(self, kind: str, most: int) -> None:
        self.kind, self.most, self.taken = kind, most, 0
        self.factor = 1.0
        self.last = -PAUSE
        self._kept: list[tuple[int, dict[str, Tensor], list[Any]]] = []

    def vetoes(self, trainer: Trainer, watch: OptimizerWatch) -> bool:
        """Whether this step is to be left out: its gradient is not finite, or hugely surprising; the same on all ranks."""
        if self.kind != "skip_step" or self.taken >= self.most:
            return False
        norm, usual = watch.gradient_norm(), median(watch.diagnosis.history.norms[-50:])
        known = len(watch.diagnosis.history.norms) >= 20
        bad = not math.isfinite(norm) or (known and norm > SURPRISING * usual)
        return bool(trainer.strategy.reduce_boolean_decision(bad, all=False))

    def leave_out(self, optimizer: Optimizer) -> None:
        """Without gradients the optimizer moves nothing, counts nothing, and the helper's schedule waits."""
        self.taken += 1
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def keep(self, trainer: Trainer, module: LightningModule, healthy: bool) -> None:
        """Remember the state, now and then, while nothing is wrong."""
        step = trainer.global_step
        if self.kind != "rollback" or not healthy or (self._kept and step - self._kept[-1][0] < KEPT_EVERY):
            return
        weights = {k: v.detach().clone() for k, v in module.state_dict().items() if isinstance(v, Tensor)}
        self._kept = [*self._kept, (step, weights, [copy.deepcopy(o.state_dict()) for o in trainer.optimizers])][-2:]

    def answer(self, trainer: Trainer, module: LightningModule, fresh: Sequence[Finding], lasting: Sequence[Finding]) -> str:
        """Act on fresh findings, and on those that an action has not mended; returns what was done, in words, or nothing."""
        still = [f for f in lasting if self.taken and f.last_step >= self.last + PAUSE]
        serious = [
            f for f in (*fresh, *still) if f.severity == "critical" or (f.severity == "warning" and self.kind == "reduce_lr")
        ]
        due = bool(serious) and self.taken < self.most and trainer.global_step - self.last >= PAUSE
        if self.kind in ("warn", "skip_step") or not trainer.strategy.reduce_boolean_decision(due, all=False):
            return ""
        self.taken += 1
        self.last = trainer.global_step
        act: dict[str, Callable[[Trainer, LightningModule, Sequence[Finding]], str]] = {
            "stop": self._stop,
            "rollback": self._roll_back,
            "reduce_lr": self._reduce,
        }
        return act[self.kind](trainer, module, serious)

    def _stop(self, trainer: Trainer, module: LightningModule, serious: Sequence[Finding]) -> str:
        path = Path(trainer.log_dir or trainer.default_root_dir) / f"adam_stopped_step_{trainer.global_step}.ckpt"
        trainer.should_stop = True
        trainer.save_checkpoint(path)
        return f"stopped at step {trainer.global_step}, with everything saved in {path}"

    def _roll_back(self, trainer: Trainer, module: LightningModule, serious: Sequence[Finding]) -> str:
        if not self._kept:
            return "found no good state to go back to"
        step, weights, states = self._kept[0]
        self._kept = self._kept[:1]
        with torch.no_grad():
            for name, value in module.state_dict().items():
                if name in weights:
                    value.copy_(weights[name])
        for optimizer, state in zip(trainer.optimizers, states, strict=True):
            _restore(optimizer, state)
        return f"went back to the weights and moments of step {step}; {self._reduce(trainer, module, serious)}"

    def _reduce(self, trainer: Trainer, module: LightningModule, serious: Sequence[Finding]) -> str:
        before = max(float(g["lr"]) for o in trainer.optimizers for g in o.param_groups)
        self.factor *= REDUCTION
        scale_rates(trainer, REDUCTION)
        after = max(float(g["lr"]) for o in trainer.optimizers for g in o.param_groups)
        return f"lowered the learning rate from {before:.3g} to {after:.3g}"


def _restore(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """The moments go back; the groups keep the rates of now."""
    now = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(copy.deepcopy(state))
    for group, kept in zip(optimizer.param_groups, now, strict=True):
        group.update(kept)


def scale_rates(trainer: Trainer, factor: float) -> None:
    """Multiply every learning rate, and what schedulers compute the next ones from."""
    schedulers: list[Any] = [config.scheduler for config in trainer.lr_scheduler_configs]
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            group.update({k: group[k] * factor for k in ("lr", "initial_lr", "max_lr", "min_lr") if k in group})
        schedulers.append(getattr(optimizer, "adam_schedule", None))
    seen: set[int] = set()
    while schedulers:
        scheduler: Any = schedulers.pop()
        if id(scheduler) not in seen and hasattr(scheduler, "base_lrs"):
            scheduler.base_lrs = [rate * factor for rate in scheduler.base_lrs]
        seen.add(id(scheduler))
        schedulers += [s for s in getattr(scheduler, "_schedulers", ()) if id(s) not in seen]
