"""What the monitor does about a finding, when the user asks for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer

from lightning_adam.diagnosis.stored import is_number
from lightning_adam.errors import say_left_out
from lightning_adam.monitoring.good_state import RATES, FiniteBuffers, GoodState, is_finite
from lightning_adam.monitoring.ranks import Ranks
from lightning_adam.monitoring.run import Run
from lightning_adam.monitoring.signal_reader import SignalReader
from lightning_adam.monitoring.situation import Situation

REDUCTION = 0.3
"""What rollback and reduce_lr multiply the learning rate by where the finding names no value."""
SURPRISING = 100.0
"""Times the median of 50 gradient norms: such a step is left out by skip_step. Healthy runs reach 65."""
KEPT_EVERY = 25
"""Steps between two states that rollback keeps; it returns to the older of two, at least so many steps back."""
PAUSE = 20
"""Steps after an action in which none follows, unless the weights are lost: the run needs them to answer."""
LATEST = 8
"""Steps that a finding may be behind the one that it tells of: a GPU's numbers arrive late."""


class DivergenceError(RuntimeError):
    """A finding of the severity that ``raise_on`` names."""


_IS_ONE: dict[str, Callable[[Any], bool]] = {
    "taken": lambda value: type(value) is int and value >= 0,
    "factor": lambda value: is_number(value) and 0 < value <= 1,
    "last": lambda value: type(value) is int,
}


class Actions:
    """Carries out one kind of action, at most ``most`` times.

    Args:
        kind: one of :data:`lightning_adam.monitoring.options.ACTIONS`.
        most: bound.
    """

    def __init__(self, kind: str, most: int) -> None:
        self.kind, self.most, self.taken = kind, most, 0
        self.factor = 1.0
        self.last = -PAUSE
        self.gone_back = 0  # steps, until those who count them are told
        self._good_states: list[GoodState] = []
        self._buffers = FiniteBuffers()
        self._has_stopped = False

    @property
    def left(self) -> int:
        """How many may still follow."""
        return self.most - self.taken

    def state_dict(self) -> dict[str, Any]:
        """How many there were, what they did to the learning rate, and the step of the last one."""
        return {"taken": self.taken, "factor": self.factor, "last": self.last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken; nothing known is a beginning."""
        known = {name: state[name] for name, is_one in _IS_ONE.items() if is_one(state.get(name))}
        say_left_out("actions", [name for name in _IS_ONE if name in state and name not in known])
        self.taken, self.last = known.get("taken", 0), known.get("last", -PAUSE)
        self.factor = float(known.get("factor", 1.0))

    def vetoes(self, ranks: Ranks, reader: SignalReader) -> bool:
        """Whether this step is to be left out: its gradient is not finite, or hugely surprising; the same on all ranks."""
        if self.kind != "skip_step" or not self.left:
            return False
        return ranks.any("an action", _is_bad, reader)

    def spares_first_step(self, ranks: Ranks, reader: SignalReader) -> bool:
        """Whether a rollback will answer this step, and the optimizer has no state yet: it need not take the step first.

        SOAP would raise in it, on the eigenvalues of a gradient that is not finite, before anybody could answer.
        """
        has_begun = bool(reader.optimizer.state) or len(self._good_states) > 1  # plain SGD never has any state
        if self.kind != "rollback" or has_begun or not self.left:
            return False
        return ranks.any("an action", lambda: not math.isfinite(reader.gradient_norm()))

    def leave_out(self, run: Run, optimizer: Optimizer) -> None:
        """Without gradients the optimizer moves nothing, counts nothing, and the helper's schedule waits."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        self._buffers.restore(run.module)

    def keep(self, ranks: Ranks, step: int, is_healthy: bool) -> None:
        """Remember the state, now and then, while nothing is wrong: all ranks that of the same step, or none.

        Where one kept an older state than the others, they would go back to different weights.
        """
        run = ranks.run
        if self.kind == "skip_step":
            ranks.guard.run("buffers of a good step", self._buffers.keep, run.module)
        if self.kind != "rollback":
            return
        last = self._good_states[-1] if self._good_states else None
        if last is not None and step - last.step < KEPT_EVERY and last.fits(run):
            return
        states: list[GoodState] = []
        if ranks.all("a state to go back to", _copy_if_good, run, step, is_healthy, states):
            self._good_states = [*self._good_states, *states][-2:]

    def answer(self, ranks: Ranks, step: int, see: Callable[[], Situation]) -> str:
        """Act on fresh findings, and on those that an action has not mended; returns what was done, in words, or nothing.

        Args:
            ranks: that act alike.
            step: of the log.
            see: what is found on this rank.
        """
        if self.kind == "warn" or self._has_stopped:
            return ""
        lost: list[bool] = []
        if not ranks.any("an action", self._asks_for_one, ranks.run, step, see, lost):
            return ""
        if reason := self._cannot_mend(ranks.any("an action", lambda: any(lost))):
            return self._stop(ranks.run, reason)
        self.taken += 1
        before, self.last = self.last, step
        act: dict[str, Callable[[], str]] = {
            "stop": lambda: self._stop(ranks.run),
            "rollback": lambda: self._roll_back(ranks, since=step - before),
            "reduce_lr": lambda: self._carry_out(ranks, self._reduce),
        }
        return act[self.kind]()

    def _asks_for_one(self, run: Run, step: int, see: Callable[[], Situation], lost: list[bool]) -> bool:
        """Whether this rank does; and, there, whether weights or moments are not finite any more."""
        seen = see()
        grave = [f for f in (*seen.fresh, *seen.lasting) if f.severity == "critical" and step - f.last_step <= LATEST]
        lost.append(bool(grave) and not is_finite(run))  # NON-FINITE may stand under its cause's name
        return lost[0] or self._is_due(step, seen)

    def _cannot_mend(self, lost: bool) -> str:
        """Why the run stops instead, with all saved; empty where the action may help."""
        if self.kind == "stop":
            return ""
        if lost and self.kind != "rollback":
            return "weights or moments are not finite, which it cannot mend; "
        return "" if self.left else "no action is left, and the run is still sick; "

    def _is_due(self, step: int, seen: Situation) -> bool:
        """Whether a finding asks for it.

        What was found before the last action asks for nothing more, unless it goes on when the run has had its time to
        answer. Where all went back, a new finding is another sickness, which nothing would mend: it is not waited for.
        """
        if self.kind == "skip_step":
            return False
        may_wait = self.taken and self.kind != "rollback" and step - self.last < PAUSE
        new = [] if may_wait else [f for f in seen.fresh if f.step > self.last]
        seen_since = [f for f in seen.lasting if f.last_step >= self.last + PAUSE and step - f.last_step <= LATEST]
        asking = {f.severity for f in (*new, *seen_since)}  # it may have become critical after it was told
        warned = self.kind == "reduce_lr" and "warning" in asking
        return "critical" in asking or (warned and (self.left > 0 or not seen.has_learnt))

    def _stop(self, run: Run, why: str = "") -> str:
        self._has_stopped = True
        return why + run.stop()

    def _carry_out(self, ranks: Ranks, mend: Callable[[Run], str]) -> str:
        """On all ranks; where it fails on one, the weights of the ranks are not the same any more, and the run stops."""
        done: list[str] = []

        def is_mended() -> bool:
            done.append(mend(ranks.run))
            return True

        if ranks.all(f"the action {self.kind}", is_mended):
            return done[0]
        return self._stop(ranks.run, "it failed; ")

    def _roll_back(self, ranks: Ranks, since: int) -> str:
        self._good_states = [state for state in self._good_states if state.fits(ranks.run)][:1]
        if not self._good_states:
            return self._stop(ranks.run, "found no good state with the present parameter groups to go back to; ")
        good = self._good_states[0]
        self.gone_back = min(self.last - good.step, since)
        return self._carry_out(ranks, lambda run: self._go_back(run, good))

    def _go_back(self, run: Run, good: GoodState) -> str:
        good.restore(run)
        where = f"step {good.step}" if good.step >= 0 else "the beginning"
        kept = "the data goes on where it was, and so do random numbers and what other callbacks count"
        return f"went back to the weights and moments of {where}; {self._reduce(run)}; {kept}"

    def _reduce(self, run: Run) -> str:
        before = max(float(g["lr"]) for o in run.optimizers for g in o.param_groups)
        self.factor *= REDUCTION
        scale_rates(run, REDUCTION)
        after = max(float(g["lr"]) for o in run.optimizers for g in o.param_groups)
        return f"lowered the learning rate from {before:.3g} to {after:.3g}"


def _is_bad(reader: SignalReader) -> bool:
    norm, past = reader.gradient_norm(), reader.diagnosis.history
    return not math.isfinite(norm) or (len(past.norms) >= 20 and norm > SURPRISING * past.usual_norm)


def _copy_if_good(run: Run, step: int, is_healthy: bool, states: list[GoodState]) -> bool:
    """Whether there is a copy now."""
    if is_healthy and is_finite(run):
        states.append(GoodState.of(run, step))
    return bool(states)


def scale_rates(run: Run, factor: float) -> None:
    """Multiply every learning rate, and what schedulers compute the next ones from."""
    schedulers: list[Any] = list(run.schedulers())
    for optimizer in run.optimizers:
        for group in optimizer.param_groups:
            group.update({k: group[k] * factor for k in RATES if k in group})
        schedulers.append(getattr(optimizer, "adam_schedule", None))
    seen: set[int] = set()
    while schedulers:
        scheduler: Any = schedulers.pop()
        if id(scheduler) not in seen and hasattr(scheduler, "base_lrs"):
            scheduler.base_lrs = [rate * factor for rate in scheduler.base_lrs]
        seen.add(id(scheduler))
        schedulers += [s for s in getattr(scheduler, "_schedulers", ()) if id(s) not in seen]
