"""What a rule is asked about; quantities that several rules need are computed once per step, and only when one asks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from lightning_adam.diagnosis.course import ENOUGH, Course, Curve, curve_of, falls, loss_course
from lightning_adam.diagnosis.history import EARLY, PASSES, RATES, History, median
from lightning_adam.diagnosis.signals import RunSignals, StepSignals

BETTER_THAN, WORSE_THAN = 0.03, 0.12
"""Around the loss of a constant answer, as a share of it: what estimates of it err by, and what noisy steps add."""

KNOWS_MORE = 0.85
"""Of what guessing costs: under it something was learnt, wherever it began; much of some data nobody can predict."""
MOST_DOUBT = 0.1
"""Of what guessing costs: a loss that is lower by more has learnt something, however noisy it is."""
UNIT = 3
"""Targets' rms over it, or under its inverse, tell the absolute error from the squared one."""
MOST_BY_TARGET = 10
"""Times its start: a loss that is lower may have been raised by a target network that moves."""
GROWN = 2
"""Times the rms of the first targets: batches of one distribution differ by less."""


@dataclass(frozen=True)
class Case:
    """The present step, the steps before it, and the run."""

    now: StepSignals
    past: History
    run: RunSignals

    @cached_property
    def curve(self) -> Curve:
        """The loss before this step, smoothed."""
        return curve_of(self.past)

    @cached_property
    def course(self) -> Course:
        """Where the loss is going; a start that was far off makes no success of what guessing gives."""
        course = loss_course(self.past)
        if course == "rising" and self.target_may_explain(self.curve.now):
            return "unknown"
        is_start = course == "falling" and self.curve.count >= ENOUGH and not falls(self.curve, self.past.losses)
        return "standing" if is_start and self.only_guesses(self.curve.now) else course

    def target_may_explain(self, level: float) -> bool:
        """Whether a loss is no higher than what it is compared with may have made it."""
        if self.past.target_moves and level <= MOST_BY_TARGET * abs(self.curve.start):
            return True
        return self.targets_growth > 1 and level <= self.targets_growth * self.curve.best

    @cached_property
    def targets_growth(self) -> float:
        """How much larger the targets' mean square is than in the first steps, at least 1: a reward that grows, mostly.

        A loss that rises no more than they did is no worse than it was.
        """
        now = median(self.past.recent("target_rms", 5))
        ratio = now / self.past.first_target if self.past.first_target > 0 else math.nan
        return ratio * ratio if ratio > GROWN else 1.0

    @property
    def usual_norm(self) -> float:
        """The median of the last 50 gradient norms."""
        return self.past.usual_norm

    @property
    def first_loss(self) -> float:
        """Before anything was changed."""
        return next(iter(self.past.first_losses), self.now.loss)

    @property
    def first_norm(self) -> float:
        """The gradient's, before anything was changed."""
        return next(iter(self.past.first_norms), self.now.gradient_norm)

    @property
    def usual_loss(self) -> float:
        """The median of the last 50 losses."""
        return self.past.usual_loss

    @cached_property
    def guesses(self) -> tuple[float, ...]:
        """The loss of the best constant answer, by the targets and for the losses that people use; usually one number.

        The labels' entropy for cross entropy; else σ² of the targets for the squared error, √(2/π)·σ for the absolute one
        (of a normal distribution), or, of a loss that was negative, ln σ + ½ for the Gaussian likelihood (as
        ``torch.nn.GaussianNLLLoss`` counts it). Where the first step showed what constant answers cost in its own loss, it
        is that.
        """
        if self.run.constants and not self.past.is_signed:
            return self.run.constants
        entropy = median(self.past.recent("target_entropy", PASSES))
        rms, offset = (median(self.past.recent(f"target_{name}", PASSES)) for name in ("rms", "offset"))
        variance = rms * rms / (1 + offset * offset)
        if math.isfinite(entropy) or not variance > 0:
            return (entropy,) if math.isfinite(entropy) else ()
        if self.past.is_signed:
            return (0.5 * math.log(variance) + 0.5,)
        return (math.sqrt(2 * variance / math.pi) if self.is_absolute_error else variance,)

    @property
    def is_absolute_error(self) -> bool:
        """Of targets far from unit size, whether an untrained model's loss is nearer to their size than to its square."""
        first, rms = self.past.initial_loss, median(self.past.recent("target_rms", PASSES))
        if not (first > 0 and (rms > UNIT or rms < 1 / UNIT)):
            return False
        return abs(math.log(first / rms)) < abs(math.log(first / (rms * rms)))

    def only_guesses(self, level: float) -> bool:
        """Whether a loss is what one of the constant answers costs, or a little more, as far as its noise tells."""
        doubt = 3 * self.curve.error
        return any(
            -BETTER_THAN * self._scale_of(g) - min(doubt, MOST_DOUBT * self._scale_of(g))
            < level - g
            < WORSE_THAN * self._scale_of(g) + doubt
            for g in self.guesses
        )

    def _scale_of(self, guess: float) -> float:
        """A likelihood's may be near zero: half a nat is small then."""
        return max(abs(guess), 0.5) if self.past.is_signed else abs(guess)

    def beats_guessing(self, level: float) -> bool:
        """Whether a loss is lower than what every constant answer costs, by more than what estimates of that err by."""
        return all(level < g - BETTER_THAN * self._scale_of(g) for g in self.guesses)

    @property
    def loss_is_high(self) -> bool:
        """Whether there is something left to learn: not true once the loss is under 30 % of where it began."""
        return not self.past.losses or self.past.is_signed or self.past.level > 0.3 * self.past.initial_loss

    @property
    def loss_measures_progress(self) -> bool:
        """Of several optimizers, each other's adversary, it does not; a signed one may rise for good reasons."""
        return self.run.optimizers == 1 and not self.past.is_signed

    @property
    def progress(self) -> float:
        """Share of the run that is over; NaN where its length is not known."""
        total = self.run.total_steps
        return self.steps_done / total if total > 0 and math.isfinite(total) else math.nan

    @property
    def steps_done(self) -> int:
        """Of this optimizer: stepped by hand, it may do so in each batch, which the axis counts, not at all or often."""
        return self.past.count + 1 if self.run.mode == "manual" else self.now.step + 1

    @property
    def is_early(self) -> bool:
        """One of the first steps of a run that was not resumed."""
        return self.past.count < EARLY and self.run.first_step == 0 and not self.past.non_finite

    @property
    def has_second_moment(self) -> bool:
        """Whether the optimizer keeps one: then a step does not depend on the gradient's size."""
        return bool(self.past.recent("second_moment_p50", 16))

    @property
    def remembers_another_beta1(self) -> bool:
        """Whether m still holds over 1 % of what it was when β₁ jumped, as by ``OneCycleLR`` in a run of few steps: it was
        gathered by one β₁ and is corrected by another, and no bound for one holds."""
        changed, beta1 = self.past.beta1_changed, self.now.beta1
        return changed >= 0 and 0 < beta1 < 1 and beta1 ** (self.past.count - changed) > 0.01

    @property
    def warms_up(self) -> bool:
        """The helper's schedule says so, or the rate has risen."""
        return self.run.warmup > 1 or self.now.lr > self.past.first_lr * 1.001

    @property
    def highest_rate(self) -> float:
        """Of the last 25 steps: what one step at a wrong rate has done shows in those after it."""
        return max(self.past.rates, default=math.nan)

    @property
    def rate_was_raised(self) -> bool:
        """In 25 steps the rate has more than doubled, beyond any before; a warmup does not, once it is half over."""
        past, known = self.past, not math.isnan(self.past.former_peak)
        is_rise = known and self.highest_rate > max(2 * min(past.rates), 1.05 * past.former_peak)
        return is_rise and past.count > 2 * RATES and not self.run.warmup > past.count
