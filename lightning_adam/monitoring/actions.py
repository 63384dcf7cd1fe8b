"""What the monitor does about a finding, when the user asks for it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_adam.diagnosis import Finding
from lightning_adam.diagnosis.history import median
from lightning_adam.diagnosis.stored import is_number
from lightning_adam.errors import say_left_out
from lightning_adam.monitoring.run import Run
from lightning_adam.monitoring.signal_reader import SignalReader

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


@dataclass(frozen=True)
class GoodState:
    """What rollback returns to.

    Attributes:
        step: after which it was taken.
        weights: the module's.
        optimizers: the state of each.
    """

    step: int
    weights: dict[str, Tensor]
    optimizers: list[Any]

    def fits(self, run: Run) -> bool:
        """Whether the optimizers' groups are still those of then: some are added in mid-run."""
        saved = [[len(group["params"]) for group in state["param_groups"]] for state in self.optimizers]
        return saved == [[len(group["params"]) for group in o.param_groups] for o in run.optimizers]


class Actions:
    """Carries out one kind of action, at most ``most`` times.

    Args:
        kind: one of :data:`lightning_adam.monitoring.optimizer_diagnosis.ACTIONS`.
        most: bound.
    """

    def __init__(self, kind: str, most: int) -> None:
        self.kind, self.most, self.taken = kind, most, 0
        self.factor = 1.0
        self.last = -PAUSE
        self.has_gone_back = False
        self._good_states: list[GoodState] = []

    @property
    def left(self) -> int:
        """How many may still follow."""
        return self.most - self.taken

    def state_dict(self) -> dict[str, Any]:
        """How many there were, what they did to the learning rate, and the step of the last one."""
        return {"taken": self.taken, "factor": self.factor, "last": self.last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken; nothing known is a beginning."""
        known = {name: state[name] for name in ("taken", "factor", "last") if is_number(state.get(name))}
        say_left_out("actions", [name for name in ("taken", "factor", "last") if name in state and name not in known])
        self.taken, self.last = int(known.get("taken", 0)), int(known.get("last", -PAUSE))
        self.factor = float(known.get("factor", 1.0))

    def vetoes(self, run: Run, reader: SignalReader) -> bool:
        """Whether this step is to be left out: its gradient is not finite, or hugely surprising; the same on all ranks."""
        if self.kind != "skip_step" or not self.left:
            return False
        norm, norms = reader.gradient_norm(), reader.diagnosis.history.norms
        bad = not math.isfinite(norm) or (len(norms) >= 20 and norm > SURPRISING * median(norms[-50:]))
        return run.any_rank(bad)

    def leave_out(self, optimizer: Optimizer) -> None:
        """Without gradients the optimizer moves nothing, counts nothing, and the helper's schedule waits."""
        self.taken += 1
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def keep(self, run: Run, step: int, healthy: bool) -> None:
        """Remember the state, now and then, while nothing is wrong."""
        if self.kind != "rollback" or not healthy:
            return
        last = self._good_states[-1] if self._good_states else None
        if last is not None and step - last.step < KEPT_EVERY and last.fits(run):
            return
        weights = {k: v.detach().clone() for k, v in run.module.state_dict().items() if isinstance(v, Tensor)}
        state = GoodState(step, weights, [copy.deepcopy(o.state_dict()) for o in run.optimizers])
        self._good_states = [*self._good_states, state][-2:]

    def answer(self, run: Run, step: int, fresh: Sequence[Finding], lasting: Sequence[Finding]) -> str:
        """Act on fresh findings, and on those that an action has not mended; returns what was done, in words, or nothing."""
        if self.kind in ("warn", "skip_step"):
            return ""
        still = [f for f in lasting if self.taken and f.last_step >= self.last + PAUSE]
        serious = [
            f for f in (*fresh, *still) if f.severity == "critical" or (f.severity == "warning" and self.kind == "reduce_lr")
        ]
        due = bool(serious) and self.left > 0 and step - self.last >= PAUSE
        if not run.any_rank(due):
            return ""
        self.taken += 1
        self.last = step
        act: dict[str, Callable[[Run], str]] = {
            "stop": lambda run: run.stop(),
            "rollback": self._roll_back,
            "reduce_lr": self._reduce,
        }
        return act[self.kind](run)

    def _roll_back(self, run: Run) -> str:
        if not self._good_states:
            return "found no good state to go back to"
        self._good_states = [state for state in self._good_states if state.fits(run)]
        if not self._good_states:
            return "found no good state with the present parameter groups to go back to"
        good = self._good_states[0]
        self._good_states = self._good_states[:1]
        with torch.no_grad():
            for name, value in run.module.state_dict().items():
                if name in good.weights:
                    value.copy_(good.weights[name])
        for optimizer, state in zip(run.optimizers, good.optimizers, strict=True):
            _restore(optimizer, state)
        self.has_gone_back = True
        return f"went back to the weights and moments of step {good.step}; {self._reduce(run)}"

    def _reduce(self, run: Run) -> str:
        before = max(float(g["lr"]) for o in run.optimizers for g in o.param_groups)
        self.factor *= REDUCTION
        scale_rates(run, REDUCTION)
        after = max(float(g["lr"]) for o in run.optimizers for g in o.param_groups)
        return f"lowered the learning rate from {before:.3g} to {after:.3g}"


def _restore(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """The moments go back; the groups keep the rates of now."""
    now = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(copy.deepcopy(state))
    for group, kept in zip(optimizer.param_groups, now, strict=True):
        group.update(kept)


def scale_rates(run: Run, factor: float) -> None:
    """Multiply every learning rate, and what schedulers compute the next ones from."""
    schedulers: list[Any] = list(run.schedulers())
    for optimizer in run.optimizers:
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
