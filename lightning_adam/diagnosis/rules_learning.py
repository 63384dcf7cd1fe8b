"""What the course of the loss shows of learning: there is none, or it has stopped."""

from __future__ import annotations

import math

from lightning_adam.diagnosis.advice import configured_rate
from lightning_adam.diagnosis.case import KNOWS_MORE, Case
from lightning_adam.diagnosis.course import noise_of
from lightning_adam.diagnosis.finding import Finding
from lightning_adam.diagnosis.harm import MOST_DROPPED
from lightning_adam.diagnosis.history import median, spread
from lightning_adam.diagnosis.pace import falls_short, is_slow
from lightning_adam.diagnosis.rules_slow import is_a_short_way, never_arrives, rate_of_good_steps
from lightning_adam.diagnosis.rules_validation import memorises
from lightning_adam.diagnosis.saddle import leaves_a_saddle
from lightning_adam.diagnosis.theory import SMALL_RATIO
from lightning_adam.diagnosis.wording import number, percent

LOOKED_AT = 10
"""Steps between two looks at what changes over hundreds."""
ENOUGH = 100
"""Finite losses, by which a loss that stands is told from one that is noisy."""
SHORT_RUN, MOST_OF_A_SHORT_RUN = 75, 0.75
"""Losses and share of a run of hardly more than ENOUGH steps: by then, only what guessing costs is known to be too much."""
HARDLY_ANY = 0.1
"""Of the configured rate: where the run never had more, it is no matter of the labels."""
COLLAPSED = " Of a variational autoencoder: give the divergence less weight, or raise its weight from 0 in the first steps."
"""What a decoder that has lost its codes needs (Bowman et al. 2016, arXiv:1511.06349, section 3.1)."""


def no_learning(case: Case) -> Finding | None:
    """Nothing is learnt: all weights began at zero, or at 40 % of the run the loss is where it began.

    The median of the last losses (up to 200) against that of the 40 after the first ten (which a bad start may need):
    no significant fall (2.5 standard errors) of over 3.5 %, and with two standard errors more still under 20 %, so that
    noise is mistaken neither for a start nor for a success; and hardly anything was learnt in these ten either. Steps
    that are too small are LR-LOW's. Or, wherever it began, at half of the run (of hardly more than 100 steps: at three
    quarters) it stands still at what the same guess for every example gives. Or Dropout leaves a tenth or less, and the
    loss is too slow to arrive. Or, where validation's loss is known, what is learnt is learnt by heart: after a quarter of
    the run the loss is under 85 % of what guessing costs, and validation's, three times or more, never was under 98 % of
    it, and rises. Not told of a model with a target network that moves: its loss need not fall.
    """
    past, run = case.past, case.run
    if (found := memorises(case)) is not None:
        return found
    if past.count == 0 and run.matrices > 0 and run.zero_tensors == run.matrices and not _gets_gradients(case):
        return _zero_weights(case)
    if past.count % LOOKED_AT or not case.progress >= 0.4 or not _has_seen_enough(case) or case.run.optimizers > 1:
        return None
    if run.dropout >= MOST_DROPPED and (is_slow(case) or falls_short(case)):
        return _drops_nearly_all(case)
    if case.course in ("falling", "rising") or _is_at_its_lowest(case) or past.target_moves or leaves_a_saddle(case):
        return None
    first, level = median(past.first_losses[10:]), median(past.losses[-_compared(case) :])
    guesses = _stays_at_guessing(case, level)
    if not guesses and (past.is_signed or past.finite < ENOUGH or not _stands_where_it_began(case, first, level)):
        return None
    if median(past.recent("update_ratio_p50", 3)) < SMALL_RATIO or is_a_short_way(case):
        return None
    if past.peak_lr < HARDLY_ANY * configured_rate(case):
        return never_arrives(case)
    return _nothing_learnt(case, first, level, guesses)


def _stays_at_guessing(case: Case, level: float) -> bool:
    """After half of the run it stands there, and never was clearly lower: what was, knew more, and has lost it since, or
    measures something else by now."""
    if not (case.progress >= 0.5 and case.course == "standing" and case.only_guesses(level)):
        return False
    return case.past.is_signed or not case.past.best_loss < KNOWS_MORE * min(case.guesses) - 2 * case.curve.error


def _nothing_learnt(case: Case, first: float, level: float, guesses: bool) -> Finding:
    ratio = median(case.past.recent("update_ratio_p50", 3))
    advice = rate_of_good_steps(case) if ratio < 5e-4 else None
    steps = f" (weights move {percent(ratio)} of their norm per step, as usual)" if 5e-4 <= ratio <= 0.03 else ""
    return Finding(
        "NO-LEARNING",
        "warning",
        case.now.step,
        f"after {percent(case.progress)} of the run the loss is {number(level, 4)}, and it began at {number(first, 4)}"
        f"{': what guessing the same for every example gives' if guesses else ''}{steps}.",
        {"level": level, "first": first, "update_ratio": ratio},
        remedy="Look at the labels, whether they belong to the inputs, at the shapes that the loss compares, and whether "
        f"one batch can be learnt by heart.{COLLAPSED if guesses and case.run.constants else ''}"
        f"{f' {advice.text}' if advice is not None and advice.text else ''}",
        changes=advice.changes if advice is not None else {},
    )


def _drops_nearly_all(case: Case) -> Finding:
    first, level = case.past.initial_loss, case.past.level
    return Finding(
        "NO-LEARNING",
        "warning",
        case.now.step,
        f"Dropout leaves {percent(1 - case.run.dropout)} of what it is given, and after {percent(case.progress)} of the run "
        f"the loss is {number(level, 4)}; it began at {number(first, 4)}.",
        {"level": level, "first": first, "dropout": case.run.dropout},
        remedy=f"Use Dropout(p=0.1) to Dropout(p=0.5) instead of p={case.run.dropout:g}: p is the share that is dropped.",
    )


def _has_seen_enough(case: Case) -> bool:
    return case.past.finite >= ENOUGH or (case.progress >= MOST_OF_A_SHORT_RUN and case.past.finite >= SHORT_RUN)


def _compared(case: Case) -> int:
    """Losses of the present level: none of those that it is compared with."""
    return max(50, min(200, case.past.finite - 50))


def _stands_where_it_began(case: Case, first: float, level: float) -> bool:
    past, count = case.past, _compared(case)
    if not first > 0 or level > 1.5 * first or past.best_loss < 0.8 * first or _fell_at_once(case, level):
        return False
    error = 1.25 * noise_of(past.losses) * math.sqrt(1 / 40 + 1 / count)
    fall = first - level
    significant = fall > max(2.5 * error, 0.035 * first) or (case.progress < 0.7 and fall > 3 * error)
    return not significant and fall + 2 * error < 0.2 * first


def _is_at_its_lowest(case: Case) -> bool:
    """Clearly under every level before: it begins to learn, whatever noise hides of the pace."""
    earlier = case.past.levels[:-1]
    return bool(earlier) and case.curve.now < min(earlier) - 2 * case.curve.error


def _fell_at_once(case: Case, level: float) -> bool:
    """In its first steps, further than the noise of the first five losses: little is all that there was to learn."""
    past = case.past
    error = 1.25 * noise_of(past.losses) / math.sqrt(5)
    return level < past.initial_loss - max(0.06 * past.initial_loss, 1.5 * error)


def _gets_gradients(case: Case) -> bool:
    """All the same: of a linear model, or of a patch that is learnt on a network that stays as it is."""
    share = case.now.heavy.zero_gradients if case.now.heavy is not None else math.nan
    return share < 0.5


def _zero_weights(case: Case) -> Finding:
    return Finding(
        "NO-LEARNING",
        "critical",
        case.now.step,
        f"all {case.run.matrices} weight matrices are zero at the start, so their gradients are, too.",
        {"zero_tensors": case.run.zero_tensors, "matrices": case.run.matrices},
        remedy="Initialise the weights (torch.nn.init.kaiming_uniform_, or PyTorch's own reset_parameters()).",
    )


def plateau(case: Case) -> Finding | None:
    """Progress has stopped: it learnt, and the last 100 losses lie no lower than the 100 before; advice only.

    With the loss still over 30 % of L0, under a rate of at least 30 % of its peak, before 70 % of the run.
    """
    past = case.past
    if past.count % LOOKED_AT or len(past.losses) < 200 or not 0.3 <= case.progress <= 0.7:
        return None
    if (
        not case.loss_measures_progress
        or case.course != "standing"
        or case.now.lr < 0.3 * past.peak_lr
        or past.level > 0.9 * past.initial_loss
    ):
        return None
    now, before = median(past.losses[-100:]), median(past.losses[-200:-100])
    if now < before - 0.1 * spread(past.losses[-100:]):
        return None
    constant = case.run.schedule in ("", "constant")
    return Finding(
        "PLATEAU",
        "info",
        case.now.step,
        f"the loss has stayed at {number(now, 4)} over 200 steps.",
        {"level": now, "before": before, "spread": spread(past.losses[-100:]), "lr": case.now.lr},
        remedy=f"{'Let the rate decay from here (schedule=' + repr('cosine') + ')' if constant else 'The rate will decay'}: "
        "what is left is often its noise; else the model is too small, or the labels are noisy.",
        changes={"schedule": "cosine"} if constant else {},
    )
