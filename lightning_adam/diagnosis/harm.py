"""An alarm needs harm: what no proof stands behind is told as information until the loss agrees."""

from __future__ import annotations

import math
from dataclasses import replace

from lightning_adam.diagnosis.case import KNOWS_MORE, Case
from lightning_adam.diagnosis.changed_aim import rose_at_once
from lightning_adam.diagnosis.course import ENOUGH, LATE, LEARNT, STUCK, Curve, falls, has_fallen, noise_of
from lightning_adam.diagnosis.finding import Finding
from lightning_adam.diagnosis.history import median
from lightning_adam.diagnosis.large_steps import FALLEN, HOPELESS, lost_its_start, never_recovered
from lightning_adam.diagnosis.large_weights import large_weights_decide
from lightning_adam.diagnosis.pace import AGREE, ends_at, falls_short, is_slow, pace_of, would_show
from lightning_adam.diagnosis.saddle import leaves_a_saddle
from lightning_adam.diagnosis.theory import LARGE_RATIO

PROOF = frozenset({
    "NON-FINITE", "STATE-LOST", "STATE-CORRUPT", "SCALER-SKIPS", "GRAD-NOT-ZEROED", "NO-GRADIENT", "ZERO-GRADIENT",
    "OPTIMIZER-STALE", "BETA2-LOW", "WRONG-SIGN", "NO-LEARNING", "LOSS-DIVERGED", "BROADCAST", "LABEL-RANGE", "ONE-CLASS",
    "DOUBLE-SOFTMAX", "DOUBLE-SIGMOID", "NLL-NEEDS-LOG", "SYMMETRIC-INIT",
})  # fmt: skip
"""Rules that are exact, or that look at the loss themselves."""
SMALL_STEPS = frozenset({
    "LR-LOW", "SCHEDULE-COLLAPSED", "SCHEDULE-NEVER-ARRIVES", "EPS-HIGH", "CLIP-ALWAYS", "BF16-STALL", "DECAY-DOMINATES",
    "GRAD-VANISHING", "DEAD-PARAMETER", "INPUT-CONSTANT", "DUPLICATES", "UNUSED-PARAMETER", "OPTIMIZER-MISSES",
    "SORTED",
})  # fmt: skip
"""Rules whose sickness makes training slow: a loss that stands still, or that falls too slowly to arrive, agrees."""
SHORTENED = frozenset({
    "LR-LOW", "SCHEDULE-NEVER-ARRIVES", "EPS-HIGH", "CLIP-ALWAYS", "BF16-STALL", "OPTIMIZER-MISSES",
})  # fmt: skip
"""Of these, rules that measure that each step, or what it moves, is a part of what it should be: that time runs out agrees,
too."""
LEADS_NOWHERE = frozenset({"LR-LOW", "SCHEDULE-NEVER-ARRIVES"})
"""Rules that weights which have hardly left their initialisation prove, whatever the loss."""
RATES_TOO_SMALL = LEADS_NOWHERE | {"SCHEDULE-COLLAPSED"}
"""Rules that are no consequence of a rate that is too large."""
FIRST_STEPS = frozenset({"INPUT-SCALE", "LR-HIGH", "NO-WARMUP"})
"""Rules that see their sickness in the first steps only: the suspicion lasts until the loss has fallen, or not."""
SCALES = frozenset({"INPUT-SCALE", "INIT-SCALE"})
"""Rules of a start that is far too high: a fall from there says nothing."""
INFLATED = 20
"""A first loss of standardised data is under it: about 1 for squares, ln(classes) for cross entropy."""
LARGE_STEPS = frozenset({"LR-HIGH", "NO-WARMUP"})
"""Rules that measure that steps are too large."""
GIVEN_BACK = 1 / 3
"""Of its fall."""
SOON_LOWER = 0.8
"""Of what guessing costs: where a loss has to be going."""
RECURRING = frozenset({"GRAD-EXPLODING"})
"""Rules of what comes again and again: that time runs out agrees."""
LEFT = 50
"""Steps."""
GONE = 20
"""Steps after which a rate that is under 1 % of its peak has not only dipped, as ``SCHEDULE-COLLAPSED`` counts them."""
BOUNCING = frozenset({"OSCILLATION"})
"""Rules that noise looks like: only a loss that rises agrees."""

CLEARED = 0.5
"""Of its start: a suspicion of a run that falls below it was none."""
ADVERSARY = 10
"""Times its start: what a loss of one of several optimizers does below that may be the other's doing."""
HARDLY_MOVED = 0.1
"""Of a weight's norm, by all steps together."""
MOST_DROPPED = 0.9
"""By Dropout: what is left is scaled by 1/(1-p), and its variance by as much; people use up to 0.8."""
ONE_LABEL_FOR = 0.4
"""Of the run: data that are sorted by class have shown another one by then."""
LATE_ENOUGH = 0.5
"""Of the run: random features may be meant to stay frozen, and a head learns slowly on them."""
LONGEST_PATIENCE = 90
"""Steps."""


def judged(finding: Finding, case: Case) -> tuple[Finding, bool]:
    """The finding with the severity that the loss allows, and whether it is a suspicion that may still be confirmed."""
    if finding.severity != "warning" or finding.rule in PROOF:
        return finding, False
    if agrees(finding.rule, case):
        return replace(finding, severity="warning"), False
    return replace(finding, severity="info"), True


def agrees(rule: str, case: Case) -> bool:
    """Whether the loss shows the harm that the rule's sickness does."""
    if rule == "EVAL-MODE" and case.run.idle_norms:  # a layer that does nothing, whatever the loss
        return True
    if case.run.optimizers > 1:
        return _agrees_of_several(rule, case)
    if case.course == "rising":
        return _may_have_made_it_rise(rule, case)
    if rule in SCALES:
        return _scale_holds_back(rule, case)
    if rule in BOUNCING or case.curve.count < patience(case):
        return False
    if rule == "ONE-LABEL":  # of one tensor, as a patch that is to be taken for something else, it is the aim
        return case.run.one_class and case.run.tensors != 1 and case.progress >= ONE_LABEL_FOR
    if rule == "FROZEN":
        is_short = case.run.matrices > 0 and falls_short(case)  # norms and biases alone are often meant so, and learn slowly
        return case.progress >= LATE_ENOUGH and (case.course == "standing" or is_short)
    if rule in SMALL_STEPS:
        return _slows_learning(rule, case)
    if rule in LARGE_STEPS:
        return _large_steps_ruined(case)
    return is_stuck(case) or (rule in RECURRING and falls_short(case))


def _may_have_made_it_rise(rule: str, case: Case) -> bool:
    is_apart = rule in SCALES and case.guesses and case.beats_guessing(case.curve.now)
    return not is_apart and not (rule in LARGE_STEPS and (is_unmoved(case) or rose_at_once(case)))


def _scale_holds_back(rule: str, case: Case) -> bool:
    has_moved = rule != "INPUT-SCALE" or not 0 < case.past.moved < HARDLY_MOVED
    is_held = rule == "INIT-SCALE" and (falls_short(case) or large_weights_decide(case, ends_at(case, pace_of(case))))
    return has_moved and case.curve.count >= patience(case) and (is_left_high(case) or is_held)


def _large_steps_ruined(case: Case) -> bool:
    """What was learnt, or what was initialised; not where another reason is seen for a loss that stands."""
    if gives_back(case) or lost_its_start(case) or never_recovered(case):
        return True
    if lacks_a_rate(case) or has_slowed_down(case) or leaves_a_saddle(case):
        return False
    return not is_unmoved(case) and is_where_it_began(case)


def _slows_learning(rule: str, case: Case) -> bool:
    """As SMALL_STEPS says; what is but shortened may be falling, where its noise would hide that it does."""
    if rule == "INPUT-CONSTANT" and case.only_guesses(case.curve.now):  # the best that can be had of it
        return True
    if rule in LEADS_NOWHERE and case.curve.signed and is_where_it_was_initialised(case):
        return True
    if rule == "SCHEDULE-COLLAPSED" and stood_before_its_rate_fell(case):
        return False
    if rule == "SCHEDULE-COLLAPSED" and stays_where_its_rate_left_it(case):
        return True
    is_hidden = rule in SHORTENED and case.course == "standing" and not would_show(case)
    is_cut_off = rule in SHORTENED or rule == "SCHEDULE-COLLAPSED"
    return (is_slow(case) and not is_hidden) or (is_cut_off and falls_short(case))


def _agrees_of_several(rule: str, case: Case) -> bool:
    """Adversaries' losses rise and stand still in healthy runs: not far out, under hopeless steps, or at unmoved weights."""
    if _left_its_range(case) or (rule in LEADS_NOWHERE and is_where_it_was_initialised(case)):
        return True
    if rule == "SCHEDULE-COLLAPSED":
        return stays_where_its_rate_left_it(case)
    hopeless = case.past.early_ratio > HOPELESS or case.past.ratio_average > HOPELESS / 25
    waited = case.curve.count >= patience(case)
    return rule in ("LR-HIGH", "NO-WARMUP") and hopeless and waited and (case.course == "rising" or is_stuck(case))


def is_where_it_was_initialised(case: Case) -> bool:
    """The run began with untrained weights, and after half of it all steps together are under a tenth of them.

    What has not moved has not learnt, whatever an adversary does to the loss. Healthy runs of the corpus: over 0.26.
    """
    past, run = case.past, case.run
    is_whole = past.count >= 0.9 * case.now.step
    return run.untrained and is_whole and case.progress >= 0.5 and 0 < past.moved < HARDLY_MOVED


def patience(case: Case) -> float:
    """Losses that a healthy run may need before it begins to fall: a quarter of the run, 40 to 90."""
    total = case.run.total_steps
    return min(LONGEST_PATIENCE, max(ENOUGH, 0.25 * total)) if math.isfinite(total) else ENOUGH


def is_stuck(case: Case) -> bool:
    """Nothing was learnt: it stands still where it began, or at what guessing gives."""
    curve = case.curve
    if case.course == "standing" and case.only_guesses(curve.now):
        return True
    if curve.signed:
        is_about_zero = abs(curve.start) < 2 * curve.noise  # differences of energies: their level says nothing
        return case.course == "standing" and not is_about_zero and not curve.now < curve.start - 2 * curve.error
    return case.course == "standing" and curve.now >= STUCK * curve.start


def is_where_it_began(case: Case) -> bool:
    """At what guessing gives, however it got there; or stuck, and noise would not have hidden a fall by a quarter.

    What has fallen further may stand at a high floor.
    """
    curve = case.curve
    if case.only_guesses(curve.now) and not passes_guessing(case):
        return True
    if curve.signed:
        return is_stuck(case)
    if case.guesses and all(curve.now < KNOWS_MORE * guess for guess in case.guesses):
        return False
    start = max(curve.start, case.first_loss)  # large steps may learn most of it in the first five
    return is_stuck(case) and start - curve.now + _doubt(curve) < FALLEN * start


def _doubt(curve: Curve) -> float:
    """Two standard errors of the difference between the medians of the first five losses and of the last ones."""
    return 2 * math.hypot(curve.error, 1.25 * curve.noise / math.sqrt(5))


def passes_guessing(case: Case) -> bool:
    """It falls, and is lower than what guessing gives, or will be after as many steps again at its pace."""
    soon = case.curve.now - max(0.0, pace_of(case)) * case.curve.count
    return case.course == "falling" and (case.beats_guessing(case.curve.now) or case.beats_guessing(soon / SOON_LOWER))


def gives_back(case: Case) -> bool:
    """A signed loss had gained more than noise, and has lost a third of it: a suspicion of large steps needs no more."""
    curve = case.curve
    margin = max(GIVEN_BACK * curve.progress, 6 * curve.error, 4 * curve.noise)
    is_gain = curve.signed and curve.progress > 4 * curve.noise
    return is_gain and case.course != "falling" and curve.now > curve.best + margin


def stays_where_its_rate_left_it(case: Case) -> bool:
    """For 50 steps, or a quarter of the run, the rate has been under 1 % of its peak, and in these the loss, which is not
    learnt, has not fallen; or is, and gradients agree with each other, as they do on a slope and at no floor.

    Twice as many of a loss that had been falling: its noise may hide that it goes on.
    """
    total = case.run.total_steps
    steps = max(GONE, min(LEFT, round(total / 4))) if math.isfinite(total) else LEFT
    curve, since = case.curve, 2 * steps if case.course == "falling" else steps
    is_unlearnt = curve.signed or curve.now > LEARNT * curve.start or median(case.past.recent("alignment", 5)) > AGREE
    return is_unlearnt and case.past.low_lr >= since and not has_fallen(case.past.losses[-since:])


def stood_before_its_rate_fell(case: Case) -> bool:
    """It knew more than guessing, and in the 50 steps before the rate went under 1 % of its peak it had not fallen: what is
    left may be noise."""
    losses, low = case.past.losses, case.past.low_lr
    before = losses[-low - LEFT : -low] if low else []
    knows_more = bool(case.guesses) and all(case.curve.now < KNOWS_MORE * guess for guess in case.guesses)
    return knows_more and len(before) == LEFT and not has_fallen(before)


def lacks_a_rate(case: Case) -> bool:
    """For 20 steps the rate has been under 1 % of its peak, and the loss is no higher than it began: it stands for that.

    Not where a first step moved the weights by a multiple of their norm, as in :func:`is_unmoved`.
    """
    curve, past = case.curve, case.past
    return past.low_lr >= GONE and past.early_ratio <= HOPELESS and curve.now <= curve.start + _doubt(curve)


def has_slowed_down(case: Case) -> bool:
    """Adagrad's steps shrink by themselves, as 1/√t: the loss has fallen, and they are no larger than others' any more."""
    recent, curve = median(case.past.recent("update_ratio_p50", 3)), case.curve
    is_lower = not curve.signed and curve.now < case.first_loss - _doubt(curve)
    return case.run.steps_like == "accumulated" and recent < LARGE_RATIO and is_lower


def is_unmoved(case: Case) -> bool:
    """At what guessing gives, and never above it by more than noise: large steps that ruin a model show in its loss.

    Not where a first step moved the weights by a multiple of their norm: that is enough to forget what was initialised.
    """
    first, start = case.past.first_losses, max(case.curve.start, case.first_loss)
    highest = max(first, default=math.nan)
    if case.past.early_ratio > HOPELESS:
        return False
    return case.only_guesses(case.curve.now) and highest < max(1.2 * start, start + 4 * noise_of(first))


def has_another_cause(rule: str, case: Case) -> bool:
    """Of what shows that nothing is learnt: than steps that are only suspected to be too large; with them nothing is learnt
    by heart."""
    is_by_heart = bool(case.guesses) and case.beats_guessing(case.curve.now)
    learns_nothing = rule == "NO-LEARNING" and (is_unmoved(case) or case.run.dropout >= MOST_DROPPED or is_by_heart)
    return rule in RATES_TOO_SMALL or learns_nothing


def is_left_high(case: Case) -> bool:
    """Half of the run is over, of what guessing gives the loss keeps 60 % at its best, and does not fall; or it is twice as
    high.

    Where nobody knows what guessing gives: of a start that raw values have inflated it keeps a thirtieth.
    """
    curve, guess = case.curve, max(case.guesses, default=math.inf)
    if not is_inflated(case):
        return is_stuck(case)
    if case.progress > LATE and (curve.now > 2 * guess or stays_over_guessing(case)):
        return True
    share = math.sqrt(STUCK) if case.is_absolute_error else STUCK
    left = share * guess if case.guesses else curve.start / 30
    if case.progress < 0.5:
        return False
    return not falls(curve, case.past.losses[-100:]) and min(curve.now, curve.best) > left


def stays_over_guessing(case: Case) -> bool:
    """At its pace it would end no lower than what the same answer for every example costs."""
    return bool(case.guesses) and not case.beats_guessing(min(case.curve.best, ends_at(case, pace_of(case))))


def is_inflated(case: Case) -> bool:
    """The first loss is higher than that of standardised data, or than five times what guessing gives."""
    return not case.curve.start < min(INFLATED, 5 * max(case.guesses, default=math.inf))


def is_cleared(rule: str, case: Case) -> bool:
    """The loss has fallen far enough to say that a suspicion was none; a start that raw values inflate says nothing."""
    curve = case.curve
    if rule in SCALES or lost_its_start(case):
        return False
    if curve.signed or case.course != "falling":
        return case.course == "falling"
    is_far = curve.now < CLEARED * curve.start or (rule in LARGE_STEPS and _is_lower_late(case))
    return is_far and not (rule in LARGE_STEPS and case.only_guesses(curve.now))


def _is_lower_late(case: Case) -> bool:
    """After half of the run, by steps of a usual size: by how much it might be, nobody knows of some data."""
    is_usual = case.past.early_ratio <= HOPELESS and case.past.ratio_average < LARGE_RATIO
    return is_usual and case.progress >= LATE_ENOUGH and case.curve.start - case.curve.now > _doubt(case.curve)


def rises_after_a_fall(case: Case) -> bool:
    """It had fallen by a quarter first: what ruins the first steps does not let it."""
    curve = case.curve
    return case.course == "rising" and not curve.signed and curve.best < (1 - FALLEN) * curve.start


def had_fallen_before_odd_batch(case: Case) -> bool:
    """By a quarter."""
    return not case.curve.signed and case.past.level_before_odd < (1 - FALLEN) * case.curve.start


def blew_up(case: Case) -> bool:
    """Whether the run had left its range before: what is not finite then is the end of it, not the cause."""
    if case.rate_was_raised:
        return True
    return _left_its_range(case) or (case.past.count < 10 and case.past.early_ratio > ADVERSARY)


def _left_its_range(case: Case) -> bool:
    """Rising; of several optimizers, each other's adversary, far beyond what a healthy run's loss does."""
    far = case.run.optimizers == 1 or case.curve.now > ADVERSARY * abs(case.curve.start)
    return case.course == "rising" and far
