"""Schedules: one multiplier of the learning rate per optimizer step, as pure functions; and the object that applies it.

A step k counts from 0. Except under ``onecycle`` all warm up linearly, (k+1)/warmup, so that the first step already moves
the weights and the last warmup step has the full rate.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_adam import curves
from lightning_adam.curves import Phases as Phases
from lightning_adam.errors import ConfigError, LightningAdamWarning, nearest, say_left_out
from lightning_adam.schedule_limits import LIMITS, is_allowed


@dataclass(frozen=True)
class Shape:
    """One schedule.

    Attributes:
        factor: the multiplier after the warmup.
        phase: ``run`` decays from the warmup to the end, ``tail`` over ``decay`` at the end, ``cycle`` again and again,
            ``none`` not at all (it needs no length of the run).
        options: what ``schedule_options`` may hold, with defaults.
        warmup: the default.
    """

    factor: Callable[[Phases, int], float]
    phase: Literal["run", "tail", "cycle", "none"]
    options: Mapping[str, float] = field(default_factory=dict)
    warmup: float = 0.05


SCHEDULES: dict[str, Shape] = {
    "constant": Shape(curves.constant, "none"),
    "linear": Shape(curves.linear, "run"),
    "cosine": Shape(curves.cosine, "run"),
    "cosine_restarts": Shape(curves.cosine_restarts, "cycle"),
    "wsd": Shape(curves.linear, "tail"),
    "wsd_cosine": Shape(curves.cosine, "tail"),
    "wsd_sqrt": Shape(curves.root, "tail"),
    "wsd_exponential": Shape(curves.exponential, "tail", {"final": 0.01}),
    "inverse_sqrt": Shape(curves.inverse_sqrt, "none"),
    "polynomial": Shape(curves.polynomial, "run", {"power": 2.0}),
    "exponential": Shape(curves.exponential, "run", {"final": 0.01}),
    "onecycle": Shape(curves.onecycle, "run", {"div_factor": 25.0, "final_div_factor": 1e4}, warmup=0.3),
    "plateau": Shape(curves.constant, "none", {"factor": 0.1, "patience": 10, "frequency": 1}),
}
"""Warmup-stable-decay: Hu et al. 2024 (MiniCPM), arXiv:2404.06395."""


def get_schedule(name: str) -> Shape:
    """The schedule of this name.

    Raises:
        ConfigError: there is none.
    """
    if not isinstance(name, str) or name not in SCHEDULES:
        known = ", ".join(SCHEDULES)
        raise ConfigError(f"schedule={name!r} is not known.{nearest(str(name), SCHEDULES)} Known: {known}.")
    return SCHEDULES[name]


def resolve_options(name: str, given: Mapping[str, float] | None) -> dict[str, float]:
    """The schedule's options with what was given.

    Raises:
        ConfigError: an option that this schedule does not have, or a value that it cannot take.
    """
    allowed = get_schedule(name).options
    for option, value in (given or {}).items():
        if option not in allowed:
            takes = ", ".join(allowed) or "none"
            raise ConfigError(
                f"schedule_options: {name!r} has no option {option!r}.{nearest(option, allowed)} It has: {takes}."
            )
        if option in LIMITS and not is_allowed(value, LIMITS[option]):
            raise ConfigError(f"schedule_options: {option}={value!r} of {name!r} must be a number {LIMITS[option].words}.")
    return {**allowed, **(given or {})}


def factor(name: str, phases: Phases, step: int) -> float:
    """The multiplier for one step.

    Example:
        >>> phases = Phases(warmup=2, decay=4, total=6)
        >>> [factor("linear", phases, k) for k in range(7)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if step < phases.warmup and name != "onecycle":
        return (step + 1) / phases.warmup
    shape = SCHEDULES[name].factor(phases, step)
    return phases.min_factor + (1.0 - phases.min_factor) * shape


class Schedule(LRScheduler):
    """Multiplies each group's learning rate, counting real updates: a step that GradScaler skips consumes no warmup.

    Resuming follows the new configuration from the saved number of updates. Whoever sets a rate from outside wins: the
    schedule goes on from there. torch's constructor is not called: it would patch ``optimizer.step`` to warn about the
    order of calls.

    Args:
        optimizer: its groups' ``lr`` are the base rates.
        name: a key of SCHEDULES.
        phases: the run in optimizer steps.

    Attributes:
        base_lrs: each group's rate under a multiplier of 1, as configured.
        begun: the trainer's steps and epochs that were over when this schedule began.
        pace: updates per batch, and the share of all optimizers' steps; measured where several are stepped by hand.
        asked_warmup: as the argument of the configuration, where its length may change with the run's.
        awaits_run: whether a trainer will say when the run begins. Until then its callbacks try batch sizes and rates,
            which is nothing to tell of.
    """

    def __init__(self, optimizer: Optimizer, name: str, phases: Phases) -> None:
        self.optimizer = optimizer
        self.name, self.phases = name, phases
        self.begun, self.awaits_run = (0, 0), False
        self.pace: tuple[float, float] | None = None
        self.asked_warmup: Any = None
        self.last_epoch = 0
        self._step_count = 1
        self.base_lrs: list[Any] = []
        self._configured: list[float] = []  # the base rates before monitors or the user scaled them
        self._outside: list[Any] = []  # what somebody who set a rate has multiplied the base rate by
        self._since: list[float] = []  # the step from which on a group follows the curve; inf for never
        self._stands_aside = self._is_beyond = self._is_remade = False
        self._said: set[str] = set()
        self._saved: Mapping[str, Any] = {}
        self._saved_rates: list[Any] = []
        self._made = len(optimizer.param_groups)
        for group in optimizer.param_groups:
            self._add(group.setdefault("initial_lr", group["lr"]))
        self._apply()

    def follow(self, phases: Phases) -> None:
        """Go on under other phases; where a trainer was awaited, the run begins.

        A rate that was set before the first update (LearningRateFinder's) is the one that the warmup leads to.
        """
        run_begins, self.awaits_run = self.awaits_run, False
        self._notice(begins=self.last_epoch == 0)
        if phases != self.phases:
            self._is_remade |= not run_begins
            self.phases = phases
        self._is_beyond = False
        self._apply()

    def prepare(self) -> None:
        """An update begins. Beyond the run's planned end it has the last planned rate, where the plan was not the user's."""
        if self.awaits_run or self._stands_aside:
            return
        if self._saved:
            self._say_what_changed()
        if self._is_beyond or self.phases.asked or self.last_epoch < self.phases.total:
            return
        if SCHEDULES[self.name].phase not in ("run", "tail"):
            return
        self._notice()
        self._is_beyond = True
        self._apply()
        self._say(
            "beyond",
            f"The run goes on beyond the {self.phases.total:g} updates that were planned: the learning rate stays at "
            f"{max(map(float, self._last_lr)):.3g}. Pass total_steps=... to plan a longer run.",
        )

    def advance(self) -> None:
        """One real update is done: set the rate of the next."""
        self._notice()
        self.last_epoch += 1
        self._step_count += 1
        self._apply()

    def step(self, epoch: Any = None) -> None:
        """Nothing: Lightning calls this for skipped steps too, and never in manual optimization."""

    def stand_aside(self, whom: str) -> None:
        """Let another scheduler set the rates, such as StochasticWeightAveraging's; empty: it is this one's turn again."""
        if bool(whom) == self._stands_aside:
            return
        if whom and self.last_epoch == 0:
            self._take_back()
        self._stands_aside = bool(whom)
        if whom:
            self._say("aside", f"{whom} sets the learning rate now: the schedule {self.name!r} stands aside.")

    def _take_back(self) -> None:
        """Before the first update of this process: leave the checkpoint's rates, or those without the warmup."""
        written, full = self.get_lr(), [base * outside for base, outside in zip(self.base_lrs, self._outside, strict=True)]
        for group, own, rate in zip(self.optimizer.param_groups, written, self._saved_rates or full, strict=False):
            if self._saved_rates or not _differs(group["lr"], own):
                group["lr"] = rate

    def remember_rates(self, rates: Sequence[Any]) -> None:
        """A checkpoint's, which another scheduler goes on from, if it was the one that was saved."""
        self._saved_rates = list(rates) if self.awaits_run else []

    def get_lr(self) -> list[Any]:
        """The groups' learning rates for the next update."""
        multipliers = {since: self._multiplier(since) for since in set(self._since)}
        known = zip(self.base_lrs, self._outside, self._since, strict=True)
        return [base * outside * multipliers[since] for base, outside, since in known]

    def state_dict(self) -> dict[str, Any]:
        """The number of updates, what came from outside, and what a resumed run's configuration is compared with."""
        if not self.awaits_run:
            self._notice()
        return {
            "updates": self.last_epoch,
            **self._configuration(),
            "configured": list(self._configured),
            "outside": [float(factor) for factor in self._outside],
            "since": list(self._since),
            "remade": self._is_remade,
            "asked_warmup": self.asked_warmup,
            "begun": list(self.begun),
            "pace": None if self.pace is None else list(self.pace),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the saved number of updates under the *present* configuration; say what has changed."""
        updates = state_dict.get("updates")
        if isinstance(updates, int) and not isinstance(updates, bool) and updates >= 0:
            self.last_epoch = updates
        elif "updates" not in state_dict:  # another scheduler's
            self.last_epoch = int(self._count_of_optimizer())
        else:
            say_left_out("schedule state", [f"the count of updates, which goes on from {self.last_epoch}"])
        self._step_count = self.last_epoch + 1
        begun, pace = (_pair_of_numbers(state_dict.get(name)) for name in ("begun", "pace"))
        self.begun, self.pace = (0, 0) if begun is None else (int(begun[0]), int(begun[1])), pace
        self._is_remade = state_dict.get("remade") is True
        self._restore_outside(state_dict)
        self._apply()
        self._saved, self._saved_rates = state_dict if self.last_epoch else {}, []
        if not self.awaits_run:
            self._say_what_changed()

    def finished_warmup(self) -> int | None:
        """That of the checkpoint, which a plan remade in mid-run left behind: under the same argument it stays as it was."""
        saved = self._saved
        warmup, is_same = saved.get("warmup"), saved.get("asked_warmup", ()) == self.asked_warmup
        is_over = isinstance(warmup, int) and 0 <= warmup <= self.last_epoch
        return warmup if is_over and is_same and self._is_remade else None

    def _count_of_optimizer(self) -> float:
        """Of updates, where the checkpoint's scheduler was another: torch's may count steps or epochs."""
        count = max((float(state["step"]) for state in self.optimizer.state.values() if "step" in state), default=0.0)
        warnings.warn(
            f"The checkpoint was written under another scheduler: {self.name!r} goes on at update {count:g}, as the "
            "optimizer counts them.",
            LightningAdamWarning,
            stacklevel=3,
        )
        return count

    def _restore_outside(self, state: Mapping[str, Any]) -> None:
        """What was set from outside holds on, unless the base rate was configured anew."""
        self._outside, self._since = [1.0] * len(self.base_lrs), [0.0] * len(self.base_lrs)
        self._join()
        columns = [state.get(name, []) for name in ("configured", "outside", "since")]
        if not all(_are_numbers(column) and len(column) == len(columns[0]) for column in columns):
            say_left_out("schedule state", ["the rates that were set from outside"])
            columns = []
        for index, (configured, outside, since) in enumerate(zip(*columns, strict=True)):
            if index < len(self._configured) and math.isclose(configured, self._configured[index]):
                self._outside[index], self._since[index] = outside, since
        for group, base, outside in zip(self.optimizer.param_groups, self.base_lrs, self._outside, strict=False):
            group["initial_lr"] = base * outside

    def _say_what_changed(self) -> None:
        saved, present = {k: v for k, v in self._saved.items() if k != "base_lrs" or _are_numbers(v)}, self._configuration()
        if not self._saved:
            return
        self._saved = {}
        if saved.get("remade"):  # by new data or a measured pace, and so it may be again
            saved |= {name: present[name] for name in ("warmup", "decay", "total")}
        known = saved.get("options")
        saved["options"] = {**present["options"], **(known if isinstance(known, Mapping) else {})}  # older ones knew fewer
        for of_run in (saved, present):  # groups that joined in mid-run are not configured
            of_run |= {name: rates[: self._made] for name, rates in of_run.items() if name == "base_lrs"}
        changed = [f"{k} {saved[k]} -> {v}" for k, v in present.items() if saved.get(k, v) != v]
        if changed:
            self._say(
                "changed",
                f"The schedule was changed since the checkpoint: {', '.join(changed)}. From update {self.last_epoch} "
                "on it follows the new configuration.",
            )

    def _say(self, kind: str, message: str) -> None:
        """Once of each kind."""
        if kind not in self._said and not self.awaits_run:
            self._said.add(kind)
            warnings.warn(message, LightningAdamWarning, stacklevel=4)

    def _configuration(self) -> dict[str, Any]:
        p = self.phases
        return {
            "name": self.name,
            "warmup": p.warmup,
            "decay": p.decay,
            "total": p.total,
            "min_factor": p.min_factor,
            "options": dict(p.options),
            "base_lrs": [float(base) for base in self.base_lrs],
        }

    def _multiplier(self, since: float) -> float:
        return 1.0 if math.isinf(since) else self._factor(max(self.last_epoch, int(since)))

    def _factor(self, step: int) -> float:
        planned = factor(self.name, self.phases, step)
        return factor(self.name, self.phases, int(self.phases.total) - 1) if self._is_beyond and planned == 0 else planned

    def _apply(self) -> None:
        self._join()
        if not self._stands_aside:
            for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=False):
                group["lr"] = lr
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def _join(self) -> None:
        """Groups that came in mid-run (Lightning's finetuning callbacks) go on from the rate that they bring."""
        known = len(self.base_lrs)
        new = self.optimizer.param_groups[known:]
        largest = max(map(float, self.get_lr()), default=0.0) if new else 0.0
        for index, group in enumerate(new, known):
            self._add(group["lr"])
            self._take_up(index, largest)

    def _add(self, base: Any) -> None:
        self.base_lrs.append(base)
        self._configured.append(float(base))
        self._outside.append(1.0)
        self._since.append(0.0)

    def _notice(self, begins: bool = False) -> None:
        """Take up the rates that are not this schedule's."""
        if self._stands_aside:
            return
        self._join()
        for index, (group, written) in enumerate(zip(self.optimizer.param_groups, self.get_lr(), strict=False)):
            if _differs(group["lr"], written):
                self._say(
                    "outside",
                    f"The learning rate was set from outside, from {float(written):.3g} to {float(group['lr']):.3g} at "
                    f"update {self.last_epoch}: the schedule {self.name!r} goes on from there.",
                )
                self._take_up(index, float(written), begins)

    def _take_up(self, index: int, written: float, begins: bool = False) -> None:
        """Go on from the group's rate: relative to the multiplier of now.

        Within the warmup that would drive a raised rate far up: it stays until the warmup is over.
        """
        group, since = self.optimizer.param_groups[index], self._since[index]
        if not begins and self.last_epoch < self.phases.warmup and float(group["lr"]) > written:
            since = self.phases.warmup
        multiplier = 1.0 if begins else self._multiplier(since)
        if multiplier == 0:
            since, multiplier = math.inf, 1.0
        base = self.base_lrs[index] = self.base_lrs[index] or group["lr"]
        self._since[index] = since
        self._outside[index] = group["lr"] / (base * multiplier) if base else 1.0
        group["initial_lr"] = base * self._outside[index]


def _pair_of_numbers(stored: Any) -> tuple[float, float] | None:
    if not isinstance(stored, (list, tuple)) or len(stored) != 2 or not all(map(_is_number, stored)):
        return None
    return float(stored[0]), float(stored[1])


def _are_numbers(stored: Any) -> bool:
    return isinstance(stored, (list, tuple)) and all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in stored)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _differs(rate: Any, written: Any) -> bool:
    """By more than 32 bits round. A rate in a GPU's memory is not looked at: the host would wait for it."""
    if isinstance(rate, torch.Tensor) and rate.device.type != "cpu":
        return False
    return not math.isclose(float(rate), float(written), rel_tol=1e-6)
