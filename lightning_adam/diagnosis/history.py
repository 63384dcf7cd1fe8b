"""What the rules remember of the steps before the present one; every field is a plain type."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from lightning_adam.diagnosis.signals import HeavySignals, StepSignals
from lightning_adam.diagnosis.stored import is_alike
from lightning_adam.diagnosis.window import Window

WINDOW = 200
"""Steps of loss and gradient norm that are remembered."""
USUAL = 50
"""Of these, the last ones: their median is what is usual."""
RATES = 25
"""Learning rates that are remembered: whether a rate was raised shortly before something broke."""
LOW = 0.01001
"""Of its peak: a rate that two steps of a tenth have lowered, and a rounding more."""
BETA1_JUMP = 0.005
"""Between two steps; a cycle over 100 steps moves β₁ by 0.003."""
LEVELS = 40
"""Points of the curve of the whole run."""
ODD_INPUT = 5
"""Times the usual largest value of a batch."""
PASSES = 24
"""Passes over all tensors that are remembered."""
EARLY = 10
"""Steps at the beginning that all get the pass: missing warmup and a hopeless rate show there, and nowhere earlier."""


@dataclass
class History:
    """The run so far.

    Attributes:
        count: steps seen, skipped ones included.
        taken: steps that moved the weights.
        losses: the last finite losses, oldest first.
        norms: the last finite gradient norms.
        first_losses: the first finite losses, at most 50.
        first_norms: the first finite gradient norms, at most five.
        best_loss: lowest median of 25 losses so far.
        best_level: the same over the losses before the last 25: what the present level is compared with.
        first_lr: learning rate of the first step.
        peak_lr: highest learning rate so far that was held for two steps: one step's slip is no peak of a schedule.
        low_lr: steps in a row at 1 % of it or less.
        skips: steps in a row that the scaler left out.
        bad_losses: how many of these had a loss that was not finite.
        unzeroed: steps in a row whose gradients were added to the last step's.
        without_gradient: steps in a row with the same parameters without a gradient, by number and the names of the first.
        missing: that number.
        idle: those names, one a line.
        clips: the last clip coefficients.
        logits: the first ten watched logits.
        early_ratio: largest update ratio of a weight matrix in the first ten steps.
        early_ratio_in: where that was.
        early_lr: learning rate of that step.
        unit_rate: learning rate at which the first step would have moved weight matrices by their whole norm, in the
            geometric mean of the median matrix and the one that moves most; NaN where none of the first ten moved any.
        spikes: counts of steps whose gradient stood out, at most 50.
        passes: per heavy signal its last values, oldest first.
        pass_counts: the count of steps before each of these passes.
        ratio_average: moving average of the median update ratio, over about five steps.
        moved: sum of the median update ratio over all steps: the length of the way, in norms of the weights.
        first_target: rms of the targets in the first ten steps, the highest of them.
        first_given: rms of what the first layer was given in the first ten steps, the highest of them.
        non_finite: whether something was not finite before.
        beta2: of the last step.
        beta2_changed: the count of steps when it was changed last; -1 where it has always been the same.
        beta1: of the last step.
        beta1_changed: the count of steps when it jumped last, by more than a long cycle moves it in a step; -1 for never.
        rates: the last learning rates.
        former_peak: highest learning rate before these; the first one where there were none.
        raised: the count of steps when the rate was raised last; -1 where it never was.
        odd_input: the count of steps when a batch's largest value stood out last; -1 where none did.
        level_before_odd: the median of the 25 losses before it.
        levels: the whole curve of the loss: medians of equal stretches, at most 40.
        stretch: losses in each of these.
        finite: how many losses were finite.
        is_signed: whether a loss was negative, or the first ones zero: then zero is no floor of it.
        validated: how often validation has told its loss since the first step.
        untrained_validation: what it was before the first step.
        first_validation: the first since then.
        lowest_validation: the lowest.
        last_validation: the last.
        level_validated: the training loss' level at the first.
        target_moves: whether a target network has changed since training began.
    """

    count: int = 0
    taken: int = 0
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    first_losses: list[float] = field(default_factory=list)
    first_norms: list[float] = field(default_factory=list)
    best_loss: float = math.inf
    best_level: float = math.inf
    first_lr: float = math.nan
    peak_lr: float = 0.0
    low_lr: int = 0
    skips: int = 0
    bad_losses: int = 0
    unzeroed: int = 0
    without_gradient: int = 0
    missing: int = 0
    idle: str = ""
    clips: list[float] = field(default_factory=list)
    logits: list[float] = field(default_factory=list)
    early_ratio: float = 0.0
    early_ratio_in: str = ""
    early_lr: float = 0.0
    unit_rate: float = math.nan
    spikes: list[int] = field(default_factory=list)
    passes: dict[str, list[float]] = field(default_factory=dict)
    pass_counts: list[int] = field(default_factory=list)
    ratio_average: float = math.nan
    moved: float = 0.0
    first_target: float = math.nan
    first_given: float = math.nan
    non_finite: bool = False
    beta2: float = math.nan
    beta2_changed: int = -1
    beta1: float = math.nan
    beta1_changed: int = -1
    rates: list[float] = field(default_factory=list)
    former_peak: float = math.nan
    raised: int = -1
    odd_input: int = -1
    level_before_odd: float = math.nan
    levels: list[float] = field(default_factory=list)
    stretch: int = 25
    finite: int = 0
    is_signed: bool = False
    validated: int = 0
    untrained_validation: float = math.nan
    first_validation: float = math.nan
    lowest_validation: float = math.inf
    last_validation: float = math.nan
    level_validated: float = math.nan
    target_moves: bool = False

    def __post_init__(self) -> None:
        """The windows are made anew from the lists whenever a state is restored."""
        self._order()

    def _order(self) -> None:
        self._usual_norm = Window(self.norms, USUAL)
        self._usual_loss, self._level = Window(self.losses, USUAL), Window(self.losses, 25)
        self._former_level = Window(self.losses[-50:-25], 25)
        self._initial_loss = _level_of_first(self.first_losses[:5])

    @property
    def usual_norm(self) -> float:
        """The median of the last 50 gradient norms."""
        return self._usual_norm.median()

    @property
    def usual_loss(self) -> float:
        """The median of the last 50 losses."""
        return self._usual_loss.median()

    @property
    def windows(self) -> tuple[Window, Window, Window]:
        """Of the usual gradient norm, the usual loss and the level."""
        return self._usual_norm, self._usual_loss, self._level

    @property
    def initial_loss(self) -> float:
        """L0: the median of the first five losses; the very first one where they have exploded from it."""
        return self._initial_loss

    @property
    def level(self) -> float:
        """The median of the last 25 losses: where the loss is now."""
        return self._level.median()

    @property
    def has_learnt(self) -> bool:
        """Whether the loss is not above its start; where zero is no floor of it, or nothing is known, so it counts."""
        return self.is_signed or not self.level > self.initial_loss

    def recent(self, signal: str, passes: int) -> list[float]:
        """A heavy signal on the last passes, oldest first, NaN left out."""
        return [v for v in self.passes.get(signal, [])[-passes:] if not math.isnan(v)]

    def lasts(self, signal: str, passes: int, steps: int, low: float, high: float = math.inf) -> bool:
        """Whether the signal lay between the limits on the last passes: at least so many, over at least so many steps."""
        needed = self._needed(passes, steps)
        values = self.recent(signal, needed or 0)
        return needed is not None and len(values) == needed and all(low < v < high for v in values)

    def lasted(self, passes: int, steps: int) -> int:
        """Over how many steps :meth:`lasts` looks."""
        return self._span(self._needed(passes, steps) or passes)

    def _needed(self, passes: int, steps: int) -> int | None:
        return next((k for k in range(passes, len(self.pass_counts) + 1) if self._span(k) >= steps), None)

    def _span(self, passes: int) -> int:
        """Steps from the first to the last of the last passes."""
        return self.pass_counts[-1] - self.pass_counts[-passes]

    def before_step(self, now: StepSignals) -> None:
        """Take in what this step's rules must already know of it: counters and the pass."""
        self._remember_beta2(now.beta2)
        self.beta1_changed = self.count if abs(now.beta1 - self.beta1) > BETA1_JUMP else self.beta1_changed
        self.beta1 = now.beta1
        self.skips = self.skips + 1 if now.skipped else 0
        self.bad_losses = self.bad_losses + (not math.isfinite(now.loss)) if now.skipped else 0
        self.unzeroed = self.unzeroed + 1 if now.not_zeroed else 0
        idle = "\n".join(now.unused)
        same = now.without_gradient > 0 and (now.without_gradient, idle) == (self.missing, self.idle)
        self.without_gradient = self.without_gradient + 1 if same else int(now.without_gradient > 0)
        self.missing, self.idle = now.without_gradient, idle
        self.first_lr = now.lr if self.count == 0 else self.first_lr
        if math.isfinite(now.lr):
            self.peak_lr = max(self.peak_lr, min([now.lr, *self.rates[-1:]]))
        if len(self.rates) == RATES:
            self.former_peak = max(self.rates[0], self.first_lr if math.isnan(self.former_peak) else self.former_peak)
        if math.isfinite(now.lr):
            _keep(self.rates, now.lr, RATES)
        self.low_lr = self.low_lr + 1 if now.lr < LOW * self.peak_lr else 0
        if now.heavy is not None:
            self._remember_pass(now, now.heavy)
        self.target_moves = self.target_moves or now.target_moves
        if math.isfinite(now.validation_loss):
            self._remember_validation(now.validation_loss)

    def after_step(self, now: StepSignals) -> None:
        """Take in the rest, once the rules were asked; what is not finite is not remembered."""
        self.count += 1
        self.taken += not now.skipped
        self.non_finite = self.non_finite or now.non_finite is not None
        if math.isfinite(now.clip_coefficient):
            _keep(self.clips, now.clip_coefficient, 50)
        if math.isfinite(now.logit_max) and len(self.logits) < 10:
            self.logits.append(now.logit_max)
        if math.isfinite(now.gradient_norm):
            _keep(self.norms, now.gradient_norm, WINDOW)
            self._usual_norm.push(now.gradient_norm)
            if len(self.first_norms) < 5:
                self.first_norms.append(now.gradient_norm)
        if math.isfinite(now.loss):
            self._remember_loss(now.loss)

    def _remember_beta2(self, beta2: float) -> None:
        if math.isnan(beta2):
            return
        if not math.isnan(self.beta2) and self.beta2 != beta2:
            self.beta2_changed = self.count
        self.beta2 = beta2

    def _remember_validation(self, loss: float) -> None:
        if self.count == 0:
            self.untrained_validation = loss
            return
        if not self.validated:
            self.first_validation, self.level_validated = loss, self.level
        self.validated, self.last_validation = self.validated + 1, loss
        self.lowest_validation = min(self.lowest_validation, loss)

    def _remember_pass(self, now: StepSignals, heavy: HeavySignals) -> None:
        if heavy.input_max > ODD_INPUT * median(self.recent("input_max", 16)):
            self.odd_input, self.level_before_odd = self.count, self.level
        for name in _NUMBERS:
            _keep(self.passes.setdefault(name, []), float(getattr(heavy, name)), PASSES)
        _keep(self.pass_counts, self.count, PASSES)
        if not math.isnan(heavy.update_ratio_p50):
            self._average_ratio(heavy.update_ratio_p50)
        if self.count < EARLY:
            self.first_target = _higher(self.first_target, heavy.target_rms)
            self.first_given = _higher(self.first_given, heavy.layer_rms)
        if self.count < EARLY and heavy.update_ratio_max > self.early_ratio:
            self.early_ratio, self.early_ratio_in = heavy.update_ratio_max, heavy.update_ratio_max_in
            self.early_lr = now.lr
        if self.count < EARLY and math.isnan(self.unit_rate) and 0 < heavy.update_ratio_max < math.inf:
            median_matrix = heavy.update_ratio_p50 if heavy.update_ratio_p50 > 0 else heavy.update_ratio_max
            self.unit_rate = now.lr / math.sqrt(median_matrix) / math.sqrt(heavy.update_ratio_max)

    def _average_ratio(self, ratio: float) -> None:
        """Forgets by 0.8 per step since the last pass, as an average over every step would."""
        gap = self.pass_counts[-1] - self.pass_counts[-2] if len(self.pass_counts) > 1 else 1
        self.moved += gap * ratio
        keep = 0.0 if math.isnan(self.ratio_average) else 0.8 ** min(gap, 5)
        self.ratio_average = keep * (self.ratio_average if keep else 0.0) + (1 - keep) * ratio

    def _remember_loss(self, loss: float) -> None:
        _keep(self.losses, loss, WINDOW)
        self._usual_loss.push(loss)
        former = self._level.push(loss)
        if former is not None:
            self._former_level.push(former)
        if len(self.first_losses) < 50:
            self.first_losses.append(loss)
        if len(self.first_losses) <= 5:
            self._initial_loss = _level_of_first(self.first_losses)
        self.is_signed = self.is_signed or loss < 0 or (self.finite == 4 and not self.initial_loss > 0)
        self._remember_level()
        if len(self.losses) >= 25:
            self.best_loss = min(self.best_loss, self.level)
        if len(self.losses) >= 50:
            self.best_level = min(self.best_level, self._former_level.median())

    def _remember_level(self) -> None:
        """Of each stretch; when there are too many, every other is kept and stretches are twice as long."""
        self.finite += 1
        if self.finite % self.stretch == 0:
            self.levels = [*self.levels, median(self.losses[-self.stretch :])]
        if len(self.levels) > LEVELS:
            self.levels, self.stretch = self.levels[1::2], 2 * self.stretch

    def forget_last(self, steps: int) -> None:
        """The weights are those of so many steps before: what came since is not their past.

        Of what came before that, losses and gradient norms stay: without them nothing would be unusual for a while, and
        what goes wrong right after would not be seen.
        """
        self.passes, self.pass_counts, self.ratio_average = {}, [], math.nan
        self.losses, self.norms = (values[: max(0, len(values) - steps)] for values in (self.losses, self.norms))
        self.levels, self.spikes = [], [count for count in self.spikes if count < self.count - steps]
        self._order()
        self.best_loss = self.best_level = self.level if len(self.losses) >= 25 else math.inf

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a checkpoint."""
        return asdict(self)

    @classmethod
    def restore(cls, stored: Mapping[str, Any]) -> tuple[History, list[str]]:
        """The inverse of :meth:`to_dict`, and the names of what is of another type than it should be and was left out.

        Fields that only another version knows are passed over.
        """
        fresh, taken = cls(), copy.deepcopy(dict(stored))
        known = {f.name: taken[f.name] for f in fields(cls) if f.name in taken}
        lost = [name for name, value in known.items() if not is_alike(value, getattr(fresh, name))]
        if "count" in lost or "count" not in known:  # what the rest is counted by
            return fresh, sorted(known)
        if {*lost} & _PASSES_TOGETHER or not known.keys() >= _PASSES_TOGETHER:
            lost += sorted(_PASSES_TOGETHER & known.keys() - {*lost})
        return cls(**{name: value for name, value in known.items() if name not in lost}), lost


_PASSES_TOGETHER = frozenset({"passes", "pass_counts"})
"""What belongs to the same passes: one without the other says nothing."""
_NUMBERS = tuple(f.name for f in fields(HeavySignals) if f.type in ("float", "int"))


N = TypeVar("N", int, float)


def _keep(values: list[N], value: N, most: int) -> None:
    """One more, and no more than so many: in place, for a step copies no list."""
    values.append(value)
    if len(values) > most:
        del values[0]


def _higher(known: float, value: float) -> float:
    """Of a number that may not be known yet, and one that may be zero or NaN."""
    return value if value > (0.0 if math.isnan(known) else known) else known


def _level_of_first(losses: Sequence[float]) -> float:
    level = median(losses)
    return losses[0] if losses and 0 < 2 * losses[0] < level else level


def median(values: Sequence[float]) -> float:
    """The median; NaN for nothing."""
    ordered, half = sorted(values), len(values) // 2
    if not ordered:
        return math.nan
    return ordered[half] if len(ordered) % 2 else 0.5 * (ordered[half - 1] + ordered[half])


def spread(values: Sequence[float]) -> float:
    """Robust standard deviation, 1.4826 · median absolute deviation; NaN for nothing."""
    centre = median(values)
    return 1.4826 * median([abs(v - centre) for v in values])
