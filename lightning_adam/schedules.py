"""Schedules: one multiplier of the learning rate per optimizer step, as pure functions; and the object that applies it.

A step k counts from 0. Except under ``onecycle`` all warm up linearly, (k+1)/warmup, so that the first step already moves
the weights and the last warmup step has the full rate.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lightning_adam.errors import ConfigError, LightningAdamWarning, nearest, say_left_out


@dataclass(frozen=True)
class Phases:
    """The run in optimizer steps.

    Attributes:
        warmup: steps of the warmup.
        decay: steps of the decay at the end (all that follows the warmup, except under ``wsd``), or of one cycle.
        total: length of the run; ``inf`` only where nothing decays.
        min_factor: the multiplier that the decay ends at.
        options: of the schedule.
    """

    warmup: int
    decay: int
    total: float
    min_factor: float = 0.0
    options: Mapping[str, float] = field(default_factory=dict)

    def decayed(self, step: int) -> float:
        """How much of the decay is over before this step: 0 at its first step, 1 after the last."""
        start = self.total - self.decay
        return min(1.0, max(0.0, (step - start) / self.decay)) if self.decay else float(step >= self.total)


def _constant(phases: Phases, step: int) -> float:
    return 1.0


def _linear(phases: Phases, step: int) -> float:
    return 1.0 - phases.decayed(step)


def _cosine(phases: Phases, step: int) -> float:
    """Loshchilov & Hutter 2017 (SGDR), arXiv:1608.03983, equation 5, without restarts."""
    return _half_cosine(phases.decayed(step))


def _cosine_restarts(phases: Phases, step: int) -> float:
    """The same with restarts: ``decay`` is the length of a cycle, each of the same length."""
    return _half_cosine(((step - phases.warmup) % phases.decay) / phases.decay) if phases.decay else 1.0


def _root(phases: Phases, step: int) -> float:
    """1-sqrt: Hägele et al. 2024, arXiv:2405.18392, equation 1."""
    return 1.0 - math.sqrt(phases.decayed(step))


def _polynomial(phases: Phases, step: int) -> float:
    return float((1.0 - phases.decayed(step)) ** phases.options["power"])


def _exponential(phases: Phases, step: int) -> float:
    """A constant factor per step that reaches ``final`` at the end."""
    return float(phases.options["final"] ** phases.decayed(step))


def _inverse_sqrt(phases: Phases, step: int) -> float:
    """Vaswani et al. 2017, arXiv:1706.03762, equation 3; without warmup over 10,000 steps, as transformers does."""
    scale = phases.warmup or 10_000
    return math.sqrt(scale / (step + scale - phases.warmup)) if step > phases.warmup else 1.0


def _onecycle(phases: Phases, step: int) -> float:
    """Smith & Topin 2017, arXiv:1708.07120, with cosines as torch's OneCycleLR: up from 1/div, down to 1/(div·final_div)."""
    low = 1.0 / phases.options["div_factor"]
    peak = max(0, phases.warmup - 1)
    if step <= peak:
        return 1.0 - (1.0 - low) * _half_cosine(step / peak) if peak else 1.0
    done = min(1.0, (step - peak) / max(1.0, phases.total - 1 - peak))
    end = low / phases.options["final_div_factor"]
    return end + (1.0 - end) * _half_cosine(done)


def _half_cosine(done: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * done))


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
    "constant": Shape(_constant, "none"),
    "linear": Shape(_linear, "run"),
    "cosine": Shape(_cosine, "run"),
    "cosine_restarts": Shape(_cosine_restarts, "cycle"),
    "wsd": Shape(_linear, "tail"),
    "wsd_cosine": Shape(_cosine, "tail"),
    "wsd_sqrt": Shape(_root, "tail"),
    "wsd_exponential": Shape(_exponential, "tail", {"final": 0.01}),
    "inverse_sqrt": Shape(_inverse_sqrt, "none"),
    "polynomial": Shape(_polynomial, "run", {"power": 2.0}),
    "exponential": Shape(_exponential, "run", {"final": 0.01}),
    "onecycle": Shape(_onecycle, "run", {"div_factor": 25.0, "final_div_factor": 1e4}, warmup=0.3),
    "plateau": Shape(_constant, "none", {"factor": 0.1, "patience": 10}),
}
"""Warmup-stable-decay: Hu et al. 2024 (MiniCPM), arXiv:2404.06395."""


def get_schedule(name: str) -> Shape:
    """The schedule of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in SCHEDULES:
        known = ", ".join(SCHEDULES)
        raise ConfigError(f"schedule={name!r} is not known.{nearest(str(name), SCHEDULES)} Known: {known}.")
    return SCHEDULES[name]


def resolve_options(name: str, given: Mapping[str, float] | None) -> dict[str, float]:
    """The schedule's options with what was given.

    Raises:
        ConfigError: an option that this schedule does not have.
    """
    allowed = get_schedule(name).options
    for option in given or {}:
        if option not in allowed:
            takes = ", ".join(allowed) or "none"
            raise ConfigError(
                f"schedule_options: {name!r} has no option {option!r}.{nearest(option, allowed)} It has: {takes}."
            )
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

    Resuming follows the new configuration from the saved number of updates. torch's constructor is not called: it would
    patch ``optimizer.step`` to warn about the order of calls.

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

    def follow(self, phases: Phases) -> None:
        """Go on under other phases."""
        self.phases = phases
        self._apply()

    def advance(self) -> None:
        """One real update is done: set the rate of the next."""
        self.last_epoch += 1
        self._step_count += 1
        self._apply()

    def step(self, epoch: Any = None) -> None:
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
        updates = state_dict.get("updates")
        if isinstance(updates, int) and not isinstance(updates, bool) and updates >= 0:
            self.last_epoch = updates
        else:
            say_left_out("schedule state", [f"the count of updates, which goes on from {self.last_epoch}"])
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
            "options": dict(p.options),
            "base_lrs": [float(base) for base in self.base_lrs],
        }

    def _apply(self) -> None:
        """Groups that joined in mid-run (Lightning's finetuning callbacks) bring their own base rate."""
        for group in self.optimizer.param_groups[len(self.base_lrs) :]:
            self.base_lrs.append(group.setdefault("initial_lr", group["lr"]))
        for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=False):
            group["lr"] = lr
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


class PlateauSchedule(Schedule):
    """Warmup, then a cut whenever the metric has not improved for ``patience`` validations (torch's ReduceLROnPlateau)."""

    def __init__(self, optimizer: Optimizer, name: str, phases: Phases) -> None:
        options = phases.options
        self._stand_in = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        self._plateau = ReduceLROnPlateau(self._stand_in, factor=options["factor"], patience=int(options["patience"]))
        super().__init__(optimizer, name, phases)

    def step(self, epoch: Any = None) -> None:
        """Lightning hands over the monitored metric."""
        if epoch is not None:
            self._plateau.step(float(epoch))
            self._apply()

    def get_lr(self) -> list[Any]:
        """The cut comes on top of the warmup; never below ``min_lr``."""
        cut = max(self._stand_in.param_groups[0]["lr"], self.phases.min_factor)
        return [lr * cut for lr in super().get_lr()]

    def state_dict(self) -> dict[str, Any]:
        """Also what the plateau remembers."""
        return {**super().state_dict(), "plateau": self._plateau.state_dict(), "cut": self._stand_in.param_groups[0]["lr"]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Also what the plateau remembers."""
        self._take_up(state_dict.get("plateau"), state_dict.get("cut"))
        super().load_state_dict(state_dict)

    def _take_up(self, plateau: Any, cut: Any) -> None:
        """What belongs to the metric: its best value and the validations since, and the cut that followed; all or none."""
        known = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")
        numbers = [plateau.get(name) for name in known] if isinstance(plateau, Mapping) else [None]
        if all(isinstance(number, (int, float)) for number in [*numbers, cut]) and 0 < cut <= 1:
            self._plateau.load_state_dict({name: plateau[name] for name in known})
            self._stand_in.param_groups[0]["lr"] = float(cut)
        else:
            say_left_out("schedule state", ["what the plateau remembers"])
