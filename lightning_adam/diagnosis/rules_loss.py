"""What the loss alone shows: it is not finite, it has left its range, nothing is learnt."""

from __future__ import annotations

import math

from lightning_adam.diagnosis.finding import Finding
from lightning_adam.diagnosis.history import Case, median, spread
from lightning_adam.diagnosis.theory import SMALL_RATIO
from lightning_adam.diagnosis.wording import loss_clause, rounded

NON_FINITE_REMEDY = {
    "loss": "The weights were still finite: look at this batch (NaN inputs, log or division by 0 in the loss), "
    "then restart from the last checkpoint.",
    "gradient": "The loss was finite: look for sqrt, norm or log at 0 in the named layer (add an epsilon inside), "
    "or run with Trainer(detect_anomaly=True); restart from the last checkpoint.",
    "moment": "Loss and gradient were finite: the optimizer's state overflowed, or eps={eps:g} let 0/0 through; restart "
    "from the last checkpoint with eps=1e-8 and 32-bit state.",
    "parameter": "Loss and gradient were finite: the step itself overflowed, or eps={eps:g} let 0/0 through; restart from "
    "the last checkpoint with eps=1e-8, and a lower lr if the loss was rising.",
}


def non_finite(case: Case) -> Finding | None:
    """NaN or Inf; exact. The step's own order tells the cause: loss, then gradient, then moment or parameter."""
    bad, past = case.now.non_finite, case.past
    if bad is None or past.non_finite:
        return None
    names = bad.parameters
    before = f"; the last {len(past.losses)} losses were finite (last {past.losses[-1]:.4g})" if past.losses else ""
    place = f" in {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}" if names else ""
    return Finding(
        "NON-FINITE",
        "critical",
        case.now.step,
        f"the {bad.where}{place} became NaN or Inf first (batch {case.now.batch}){before}.",
        {"first": bad.where, "loss": case.now.loss, "gradient_norm": case.now.gradient_norm, "batch": case.now.batch},
        names,
        NON_FINITE_REMEDY[bad.where].format(eps=case.run.smallest_eps),
        {"eps": 1e-8} if bad.where in ("moment", "parameter") and case.run.smallest_eps < 1e-12 else {},
    )


def loss_diverged(case: Case) -> Finding | None:
    """The loss has left its range for good.

    median of 10 > max(3·best, best + 0.1·L0), or > 1.5·L0, where best is the lowest median of 25; and over the range of the
    60 before: their median + 6·spread, and 95 % of them (near zero loss, noise has a heavy tail).
    Not asked of several optimizers: adversaries' losses rise in healthy runs.
    """
    past, now = case.past, case.now
    recent = [*past.losses[-9:], *([now.loss] if math.isfinite(now.loss) else [])]
    if len(past.losses) < 25 or len(recent) < 10 or not case.loss_falls_by_itself:
        return None
    level, best, first = median(recent), past.best_loss, past.initial_loss
    window = past.losses[-69:-9]
    usual = max(median(window) + 6 * spread(window), sorted(window)[int(0.95 * len(window))])
    limit = max(3 * best, best + 0.1 * first, usual)
    if not (level > limit or (level > 1.5 * first and level > 2 * best and level > usual)):
        return None
    lower = rounded(past.peak_lr / 3)
    return Finding(
        "LOSS-DIVERGED",
        "critical",
        now.step,
        f"the loss went from {best:.4g} (its best level) to {level:.4g} and stays there.",
        {"level": level, "best": best, "limit": limit, "first": first},
        remedy=f"Restart from a checkpoint before step {now.step - 5} with lr={lower} (was {past.peak_lr:.3g}) or a "
        "schedule that decays; if an earlier finding names a cause, mend that first.",
        changes={"lr": lower},
    )


def loss_spike(case: Case) -> Finding | None:
    """The loss jumps for a moment: > 3·median of 50, > median + 8·spread and > median + 0.2·L0, from step 30 on.

    A plain z > 6 flags 4-8 % of healthy runs, hence the two further conditions. Advice only: one batch is no sickness.
    """
    past, now = case.past, case.now
    if not math.isfinite(now.loss) or len(past.losses) < 30 or not case.loss_falls_by_itself:
        return None
    window = past.losses[-50:]
    level, width = median(window), spread(window)
    if not now.loss > max(3 * level, level + 8 * width, level + 0.2 * past.initial_loss):
        return None
    return Finding(
        "LOSS-SPIKE",
        "info",
        now.step,
        f"the loss jumped from {level:.4g} to {now.loss:.4g} at batch {now.batch}.",
        {"loss": now.loss, "median": level, "spread": width, "batch": now.batch},
        remedy="If it comes back down, one batch did it: look at that batch. If spikes recur, use clip=1.0, "
        "then betas=(0.9, 0.95).",
        changes={"clip": 1.0},
    )


def no_learning(case: Case) -> Finding | None:
    """Nothing is learnt: all weights began at zero, or at 40 % of the run the loss is where it began.

    The median of the last 50 losses against that of the first 25: less than 3.5 % lower, and known to a tenth (three
    standard errors of both medians), so that noise is not mistaken for a start. Before 70 % of the run it must also be no
    significant fall (three standard errors): a slow start falls slowly. Steps that are too small are LR-LOW's.
    """
    past, run = case.past, case.run
    if past.count == 0 and run.matrices > 0 and run.zero_tensors == run.matrices:
        return _zero_weights(case)
    if not case.progress >= 0.4 or len(past.losses) < 100 or not case.loss_falls_by_itself:
        return None
    first, level = median(past.first_losses), median(past.losses[-50:])
    error = 1.25 * spread(past.losses[-50:]) * math.sqrt(1 / 25 + 1 / 50)
    fall = first - level
    if fall > 0.035 * first or 3 * error > 0.1 * first or level > 1.5 * first or past.best_loss < 0.9 * first:
        return None
    floor, ratio = median(past.recent("normalised_rms", 3)), median(past.recent("update_ratio_p50", 3))
    if (fall > 3 * error and case.progress < 0.7) or ratio < SMALL_RATIO:
        return None
    return Finding(
        "NO-LEARNING",
        "warning",
        case.now.step,
        f"after {case.progress:.0%} of the run the loss is {level:.4g}, and it began at {first:.4g}.",
        {"level": level, "first": first, "update_ratio": ratio, "normalised_rms": floor},
        remedy="The optimizer steps as it should (weights move "
        f"{ratio:.2%} of their norm per step): look at the labels, whether they belong to the inputs, and at what the "
        "loss compares; try to overfit one batch.",
    )


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
    if len(past.losses) < 200 or not 0.3 <= case.progress <= 0.7 or not case.loss_falls_by_itself:
        return None
    now, before = median(past.losses[-100:]), median(past.losses[-200:-100])
    bouncing = spread(past.losses[-100:])
    learnt = now < 0.9 * past.initial_loss
    if not (learnt and case.loss_is_high) or now < before - 0.1 * bouncing or case.now.lr < 0.3 * past.peak_lr:
        return None
    return Finding(
        "PLATEAU",
        "info",
        case.now.step,
        f"the loss has stayed at {now:.4g} over 200 steps{loss_clause(case)}.",
        {"level": now, "before": before, "spread": bouncing, "lr": case.now.lr},
        remedy="Let the rate decay from here (schedule='cosine' or 'wsd'): what is left is often its noise; else the model "
        "is too small, or the labels are noisy.",
        changes={"schedule": "cosine"},
    )
