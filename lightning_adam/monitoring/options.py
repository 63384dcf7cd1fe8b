"""What the two monitors take: checked when a callback is made, and quick to import, which happens before any training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lightning_adam.diagnosis.finding import SEVERITIES
from lightning_adam.errors import ConfigError, check_choice, nearest
from lightning_adam.monitoring.selection import Patterns, as_patterns

ACTIONS = ("warn", "stop", "skip_step", "rollback", "reduce_lr")

Granularity = Literal["model", "group", "parameter"]


@dataclass(frozen=True)
class StatisticsOptions:
    """What :class:`lightning_adam.callbacks.OptimizerMonitor` takes; its docstring says what each means.

    Raises:
        ConfigError: an argument out of range.
    """

    every_n_steps: int | None = None
    tensors: Patterns = None
    include: Patterns = None
    exclude: Patterns = None
    granularity: Granularity = "parameter"
    top: int = 5

    def __post_init__(self) -> None:
        every, known = self.every_n_steps, get_args(Granularity)
        if every is not None and (type(every) is not int or every < 1):
            raise ConfigError(
                f"every_n_steps={every!r}: give a positive number of optimizer steps, or None for the trainer's "
                "log_every_n_steps."
            )
        if self.granularity not in known:
            meant = nearest(str(self.granularity), known)
            raise ConfigError(f"granularity={self.granularity!r}: give one of {known}.{meant}")
        if type(self.top) is not int or self.top < 0:
            raise ConfigError(f"top={self.top!r}: give how many tensors the tables hold, such as 5; 0 for none.")
        for name in ("tensors", "include", "exclude"):
            object.__setattr__(self, name, as_patterns(name, getattr(self, name)))


@dataclass(frozen=True)
class DivergenceOptions:
    """What :class:`lightning_adam.callbacks.DivergenceMonitor` takes; its docstring says what each means.

    Raises:
        ConfigError: an argument is not allowed; the message has the nearest right spelling.
    """

    on_divergence: str = "warn"
    max_actions: int = 3
    raise_on: str | None = None
    trial: Any = None
    every_n_steps: int = 20
    logits: Sequence[str] = ()
    ignore: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_choice("on_divergence", self.on_divergence, ACTIONS)
        if self.raise_on is not None:
            check_choice("raise_on", self.raise_on, SEVERITIES)
        if self.trial is not None and not hasattr(self.trial, "set_user_attr"):
            raise ConfigError(f"trial={self.trial!r}: give the optuna.Trial that the objective got, or leave it out.")
        _check_count("max_actions", self.max_actions)
        _check_count("every_n_steps", self.every_n_steps)
        if isinstance(self.logits, str) or not isinstance(self.logits, Sequence):
            given = self.logits if isinstance(self.logits, str) else "head"
            raise ConfigError(f"logits={self.logits!r}: give a list of globs, such as logits=[{given!r}].")
        object.__setattr__(self, "logits", tuple(self.logits))
        object.__setattr__(self, "ignore", _checked(self.ignore))

    @property
    def acts(self) -> bool:
        """Whether it does more than tell."""
        return self.on_divergence != "warn"


def _checked(ignore: Any) -> tuple[str, ...]:
    """The rules are loaded only where codes are given."""
    if isinstance(ignore, tuple) and not ignore:
        return ()
    from lightning_adam.diagnosis.facts import FACTS
    from lightning_adam.diagnosis.ignoring import checked_ignore
    from lightning_adam.diagnosis.rules import BESIDE, RULES

    return checked_ignore(ignore, (*RULES, *BESIDE, *FACTS))


def _check_count(argument: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{argument}={value!r}: give a positive whole number.")
