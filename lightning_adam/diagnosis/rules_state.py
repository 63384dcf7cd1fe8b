"""What the optimizer's state and arithmetic show: β₂, ε, clipping, decay, precision, and state that was lost or spoilt."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lightning_adam.diagnosis.advice import configured_rate, higher_rate
from lightning_adam.diagnosis.bearable import creeps
from lightning_adam.diagnosis.case import Case
from lightning_adam.diagnosis.finding import Finding
from lightning_adam.diagnosis.further_fit import made_anew
from lightning_adam.diagnosis.harm import agrees
from lightning_adam.diagnosis.history import median
from lightning_adam.diagnosis.theory import SMALL_RATIO, is_unbounded, noise_floor, slowest_decay, untuned_warmup
from lightning_adam.diagnosis.trainer_words import words_for
from lightning_adam.diagnosis.wording import loss_clause, named, number, percent, place, rounded

UNBOUNDED_GROWTH = 2.0
"""Factor by which the bound on the step grows over m's memory: under it, β₁ ≥ √β₂ is a suspicion that the loss decides."""

STALE_SURPRISE = 4.0
"""RMS_t of a tensor: healthy runs have a median of 20 passes of at most 2.2, stale ones 11 and more."""
EPS_RULES = 0.5
"""Mean share of ε in √v̂+ε: healthy at most 0.105, sick 0.87 and more."""

SEARCHES = 24
"""Halvings of the first scale before the first step: 2⁻⁸ is left of 65536, at which a loss of 1e7 fits."""
COUPLED = frozenset({"Adam", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad"})
"""Torch's optimizers that add the decay to the gradient, as SGD does: L2, unless they are told otherwise."""
USUAL_DECAY, USUAL_L2 = 0.1, 5e-4
"""The most that people use: of AdamW's, in language models; of L2, in residual networks."""
DECAY_RULES = 0.7
"""The decay's pull over the optimizer's step: √(α·λ/2) at α·λ = 1, where nothing is left of the weights."""


def beta2_low(case: Case) -> Finding | None:
    """β₁ ≥ √β₂, told at the first step: no bound holds the step, and Adam can diverge on convex problems (see theory.py).

    A warning where the two are swapped, or where the bound (β₁²/β₂)^(t/2) doubles within 1/(1-β₁) steps; a suspicion where
    it hardly grows, as at (0.9, 0.8).
    """
    beta1, beta2 = case.now.beta1, case.now.beta2
    if not case.run.plain_moments or not 0 <= beta1 <= 1 or not is_unbounded(beta1, beta2):
        return None
    memory = 1 / max(1 - beta1, 1e-12)
    grows = 0.5 * memory * math.log(beta1 * beta1 / beta2) > math.log(UNBOUNDED_GROWTH)
    if case.past.count > 0 and (grows or not agrees("LR-HIGH", case)):
        return None
    is_swapped = beta1 >= 0.95 and beta2 >= 0.8  # each would be usual in the other's place
    better = (beta2, beta1) if is_swapped and beta1 < 1 else (beta1 if beta1 <= 0.95 else 0.9, 0.999)
    hint = ": they look swapped" if is_swapped else ", or 0.95 to 0.99 for large batches and transformers"
    return Finding(
        "BETA2-LOW",
        "warning" if grows or case.past.count > 0 else "info",
        case.now.step,
        f"betas=({beta1:g}, {beta2:g}) have beta1 >= sqrt(beta2) = {math.sqrt(beta2):.3g}: nothing bounds the step.",
        {"beta1": beta1, "beta2": beta2, "sqrt_beta2": math.sqrt(beta2)},
        remedy=f"Use betas=({better[0]:g}, {better[1]:g}){hint}.",
        changes={"betas": better},
    )


def beta2_stale(case: Case) -> Finding | None:
    """v lags the gradients: RMS_t > 4 in some tensor on the last five passes, over ten steps or more.

    Wortsman et al. 2023 (arXiv:2304.13013). After a jump of g, RMS_t = 1/√(1-β₂ˢ) s steps later: at β₂ = 0.999 7 after 20
    steps, at 0.95 1.3. So a fast v never fires it. Healthy runs: median of 20 at most 2.2; stale: 11 and more. Where v is no
    average of g² (Prodigy scales it by its own estimate), g²/v says nothing of the kind.
    """
    heavy = case.now.heavy
    if (
        heavy is None
        or not case.run.plain_moments
        or case.past.count <= 40
        or not case.past.lasts("surprise_max", 5, 10, STALE_SURPRISE)
    ):
        return None
    beta2 = case.now.beta2
    if not 0.95 < beta2 < 1 or not 0 <= case.now.beta1 < 1 or not _stays_heavy(case) or _follows_a_raise(case):
        return None
    return Finding(
        "BETA2-STALE",
        "warning",
        case.now.step,
        f"gradients are {number(heavy.surprise_max)} times what v expects, and have been for "
        f"{case.past.lasted(5, 10)} steps{place(heavy.surprise_max_in)}: v remembers "
        f"{number(1 / (1 - beta2))} steps{loss_clause(case)}.",
        {"surprise": heavy.surprise_max, "beta2": beta2},
        named(heavy.surprise_max_in),
        f"Use betas=({min(case.now.beta1, 0.95):g}, 0.95), or optimizer='stableadamw', which divides steps by the surprise.",
        {"betas": (min(case.now.beta1, 0.95), 0.95)},
    )


def _follows_a_raise(case: Case) -> bool:
    """The rate was raised within half of v's memory: gradients have grown because the weights were thrown out."""
    past = case.past
    return past.raised >= 0 and past.count - past.raised < 0.5 / (1 - case.now.beta2)


def _stays_heavy(case: Case) -> bool:
    """After a single bad batch gradients fall back; where v is stale, they stay at their new level."""
    last = case.past.norms[-10:]
    return not last or median(last) > 0.01 * max(case.past.norms[-50:])


def eps_high(case: Case) -> Finding | None:
    """ε is more than half of √v̂+ε, averaged over the tensors (where v > 0), on five passes; healthy ≤ 0.105, sick ≥ 0.87.

    A warning where steps are small for it; where the rate makes up for it (the step is that of SGD), advice. Small: by the
    weights, or |u| under half of what pure noise gives without ε. Or v is zero although the gradients are not: their squares
    are under the smallest number of its type.
    """
    past, heavy = case.past, case.now.heavy
    if heavy is not None and _squares_vanish(case):
        return _vanished(case, heavy.update_ratio_p50)
    rules = heavy is not None and past.count >= 9 and past.lasts("eps_share", 5, 4, EPS_RULES)
    if heavy is None or not rules or _is_learnt(case) or _overclips(case):
        return None
    small = median(past.recent("update_ratio_p50", 5)) < 5e-4 or _is_under_noise(case)
    root = heavy.second_moment_p50
    lower = rounded(max(1e-15, min(1e-8, 1e-3 * root))) if root > 0 else 1e-8
    known = case.run.eps if math.isfinite(case.run.eps) else math.inf
    return Finding(
        "EPS-HIGH",
        "warning" if small else "info",
        case.now.step,
        f"eps{f'={case.run.eps:g}' if math.isfinite(case.run.eps) else ''} is {percent(heavy.eps_share)} of the "
        f"denominator: steps follow the gradient's size, as in SGD{place(heavy.eps_share_max_in)}.",
        {"eps_share": heavy.eps_share, "eps": case.run.eps, "update_ratio": heavy.update_ratio_p50},
        named(heavy.eps_share_max_in),
        f"Use eps={lower:g}, or scale the loss up: gradients are too small for this eps."
        if lower < known
        else "Scale the loss up: gradients are too small for any eps.",
        {"eps": lower} if lower < known else {},
    )


def _squares_vanish(case: Case) -> bool:
    """Of more than half of the tensors, on five passes, while at least half of the gradients' elements are not zero."""
    past = case.past
    is_zero = past.count >= 9 and past.lasts("second_moment_p50", 5, 4, -1.0, 1e-300)
    return is_zero and median(past.recent("zero_gradients", 5)) < 0.5 and case.loss_is_high


def _vanished(case: Case, ratio: float) -> Finding:
    return Finding(
        "EPS-HIGH",
        "warning" if ratio < 5e-4 else "info",
        case.now.step,
        f"v is zero and the gradients are not (norm {number(case.now.gradient_norm)}): their squares are too small for "
        f"{case.run.state_dtype or 'its type'}, and eps is the whole denominator.",
        {"gradient_norm": case.now.gradient_norm, "eps": case.run.eps, "update_ratio": ratio},
        remedy="Scale the loss up until it is about 1: no eps mends this.",
    )


def _is_under_noise(case: Case) -> bool:
    beta1, rms = case.now.beta1, median(case.past.recent("normalised_rms", 5))
    return 0 <= beta1 < 1 and rms < 0.5 * noise_floor(beta1)


def clip_always(case: Case) -> Finding | None:
    """Clipping leaves so little of the gradient (a thousandth) that ε rules the denominator; or, in SGD, no step.

    That every step is clipped is harmless by itself: Adam does not see the gradient's scale (measured: final loss 0.042
    with every step clipped to 1e-3, 0.051 with none). SGD does: there the clipped gradient is the step.
    """
    past, heavy = case.past, case.now.heavy
    if heavy is None or past.count < 9 or _is_learnt(case):
        return None
    share = _share_of_eps_when_clipped(case)
    if share is None and not _clip_holds_sgd(case):
        return None
    usual, left = median(past.norms[-50:]), median(past.clips[-25:])
    limit = rounded(usual)
    return Finding(
        "CLIP-ALWAYS",
        "warning",
        case.now.step,
        f"clipping multiplies gradients by {number(left, 1)} at every step"
        + (f", and eps is then {percent(share)} of the denominator." if share is not None else ": hardly a step is left."),
        {"clip_coefficient": left, "eps_share": heavy.eps_share, "gradient_norm": usual},
        remedy=f"Use clip={limit:g} (the usual norm) or none." if limit > 0 else "Clip less, or not at all.",
        changes={"clip": limit} if limit > 0 else {},
    )


def _share_of_eps_when_clipped(case: Case) -> float | None:
    heavy = case.now.heavy
    if heavy is None or not case.past.lasts("eps_share", 5, 4, 0.5) or not _overclips(case):
        return None
    return heavy.eps_share


def _clip_holds_sgd(case: Case) -> bool:
    """The step follows the gradient's size, a twentieth of it is left, and weights hardly move."""
    if not _clip_leaves_little(case) or case.past.count < 60:
        return False
    return creeps(case) or median(case.past.recent("update_ratio_p50", 5)) < 2 * SMALL_RATIO


def _clip_leaves_little(case: Case) -> bool:
    """A twentieth of a step that follows the gradient's size: it is too short for whatever else the rules look at."""
    return case.run.steps_like == "sgd" and median(case.past.clips[-25:]) < 0.05


def decay_dominates(case: Case) -> Finding | None:
    """Weight decay pulls harder than the gradient's step, on the last four passes, while the loss is high.

    In AdamW's equilibrium the ratio is about √(α·λ/2), far under 1; where α·λ reaches 1, weights are their last step, and
    it is 1 exactly. Healthy ≤ 0.14, sick ≥ 0.99.
    """
    past, heavy = case.past, case.now.heavy
    if heavy is None or past.count < 20 or not past.lasts("decay_ratio", 4, 4, DECAY_RULES) or not case.loss_is_high:
        return None
    ratio, is_coupled = heavy.decay_ratio, case.run.steps_like == "sgd" or case.run.optimizer in COUPLED
    lower = rounded(min(USUAL_L2 if is_coupled else USUAL_DECAY, case.run.weight_decay / (20 * ratio)))
    if not lower < case.run.weight_decay < math.inf or not math.isfinite(ratio) or _clip_leaves_little(case):
        return None
    return Finding(
        "DECAY-DOMINATES",
        "warning",
        case.now.step,
        f"weight decay pulls {number(ratio, 2)} times as hard as the gradient's step{place(heavy.decay_ratio_max_in)}"
        f"{loss_clause(case)}.",
        {"decay_ratio": ratio, "weight_decay": case.run.weight_decay},
        named(heavy.decay_ratio_max_in),
        f"Use weight_decay={lower} (now {case.run.weight_decay:g}), decoupled (AdamW), and none on biases and norms.",
        {"weight_decay": lower},
    )


def bf16_stall(case: Case) -> Finding | None:
    """Updates are rounded away: over 80 % of 16-bit elements do not move, on three passes (healthy ≤ 0.51, sick ≥ 0.94).

    Round-to-nearest loses |Δ| under half the spacing, 2⁻⁹ to 2⁻⁸ of the weight in bf16. A rate that is small by design is
    none, at a schedule's end or in a warmup.
    """
    past, heavy, now = case.past, case.now.heavy, case.now
    if heavy is None or past.count < 20 or not past.lasts("lost_updates", 3, 10, 0.8) or not case.loss_is_high:
        return None
    if now.lr < 0.02 * max(past.peak_lr, configured_rate(case)):
        return None
    advice = higher_rate(case, 10.0)
    return Finding(
        "BF16-STALL",
        "warning",
        now.step,
        f"{percent(heavy.lost_updates)} of the {case.run.dtype} weights do not move: their updates are under half the "
        f"spacing of the type{place(heavy.lost_updates_max_in)}{loss_clause(case)}.",
        {"lost_updates": heavy.lost_updates, "lr": now.lr},
        named(heavy.lost_updates_max_in),
        f"Keep the weights in 32 bit ({words_for(case.run).mixed_precision}), or use an optimizer with stochastic rounding "
        f"or Kahan summation. {advice.text or 'A higher rate would be lost less.'}",
        {**advice.changes, "precision": "bf16-mixed"},
    )


def state_lost(case: Case) -> Finding | None:
    """The moments were reset: t went back or starts at 1 in a resumed run, or √v̂ fell faster than v can forget.

    v shrinks by β₂ per step at most: below half of that limit (see :func:`slowest_decay`) it was not carried on. Exact.
    """
    past, heavy = case.past, case.now.heavy
    if heavy is None or (case.run.reset_asked and case.now.step == case.run.first_step):
        return None
    steps, roots = past.passes.get("state_step", []), past.passes.get("second_moment_p50", [])
    restarted = case.run.first_step > 10 and case.now.step == case.run.first_step and heavy.state_step == 1
    tensors = past.passes.get("tensors", [])  # a frozen tensor is not seen, and the others may be younger
    went_back = len(steps) > 1 and steps[-1] < steps[-2] and tensors[-1:] == tensors[-2:-1]
    if not (restarted or went_back or _fell(case, roots, steps)):
        return None
    if restarted and case.run.fits_again:
        return made_anew(case)
    kept = roots[-1] / roots[-2] if len(roots) > 1 and roots[-2] > 0 else math.nan
    return Finding(
        "STATE-LOST",
        "critical",
        case.now.step,
        f"the optimizer's moments were reset: its state counts {number(heavy.state_step)} updates, and √v is "
        f"{number(kept, 2)} of what it was."
        if math.isfinite(kept)
        else f"the run goes on at step {case.now.step}, and the state of its optimizer counts {number(heavy.state_step)}.",
        {"state_step": heavy.state_step, **({"kept": kept} if math.isfinite(kept) else {})},
        remedy=f"Load the optimizer's state with the weights ({words_for(case.run).restore}); where it is gone, warm up "
        f"again over {_warmup_again(case)} steps.",
    )


def _warmup_again(case: Case) -> int:
    left = case.run.total_steps - case.steps_done
    untuned = min(2000, untuned_warmup(case.now.beta2))
    return max(1, min(untuned, round(left / 10))) if math.isfinite(left) and left > 0 else untuned


def _fell(case: Case, roots: list[float], steps: list[float]) -> bool:
    if len(roots) < 2 or not case.run.plain_moments or case.past.count <= 5 or not roots[-2] > 0:
        return False
    if case.past.beta2_changed > case.past.pass_counts[-2]:  # v̂ is v under another correction now
        return False
    tensors, gap = case.past.passes.get("tensors", []), case.past.pass_counts[-1] - case.past.pass_counts[-2]
    if (
        len(tensors) < 2 or tensors[-1] != tensors[-2]
    ):  # the median is over other tensors: some were unfrozen, or had no gradient
        return False
    return roots[-1] < 0.5 * slowest_decay(case.now.beta2, gap, steps[-2]) * roots[-2]


def state_corrupt(case: Case) -> Finding | None:
    """A tensor's rms of |m̂|/(√v̂+ε) is over the bound for any gradients (theory.py): m and v do not belong together.

    Proof, with 2 % for rounding; 8-bit states may err by 25 %. Healthy: at most 0.76 of the bound, spoilt: 72 and more.
    """
    heavy, run = case.now.heavy, case.run
    if _remembers_another_beta2(case) or case.remembers_another_beta1:
        return None
    allowed = 1.25 if run.state_dtype in ("uint8", "int8") else 1.02
    if heavy is None or not run.plain_moments or not allowed < heavy.bound_excess < math.inf:
        return None
    wider, changes = WIDER_STATE.get(run.state_dtype, (RESTORED, {}))
    return Finding(
        "STATE-CORRUPT",
        "critical",
        case.now.step,
        f"the step of {heavy.bound_excess_in or 'a tensor'} is {number(heavy.bound_excess)} times the largest that any "
        "gradients can give: its moments do not belong together (quantised too coarsely, overflown, or half restored).",
        {"bound_excess": heavy.bound_excess, "normalised_rms": heavy.normalised_rms_max},
        named(heavy.bound_excess_in),
        f"Restart from a checkpoint before this step{wider.format(mixed_precision=words_for(run).mixed_precision)}.",
        changes,
    )


IN_8_BIT: tuple[str, Mapping[str, str]] = (
    ", and keep the state in 32 bit (optimizer='adamw'; in bitsandbytes min_8bit_size or an override for embeddings)",
    {"optimizer": "adamw"},
)
IN_16_BIT = (", and keep weights and state in 32 bit ({mixed_precision})", {"precision": "bf16-mixed"})
WIDER_STATE = {"uint8": IN_8_BIT, "int8": IN_8_BIT, "float16": IN_16_BIT, "bfloat16": IN_16_BIT}
"""What gives moments more digits, by their type; those of 32 bit have them, and were spoilt by what wrote to them."""
RESTORED = ", and look at what writes to optimizer.state: loading half of it, or another optimizer's"


def _remembers_another_beta2(case: Case) -> bool:
    """Whether v still holds over 1 % of what it was when β₂ was changed: the bound for one β₂ does not hold for two."""
    past, beta2 = case.past, case.now.beta2
    return past.beta2_changed >= 0 and 0 < beta2 < 1 and beta2 ** (past.count - past.beta2_changed) > 0.01


def scaler_skips(case: Case) -> Finding | None:
    """The fp16 scaler left out five steps in a row, or goes on leaving them out at a scale under 1.

    Before the first step that was taken it searches, unless the loss itself overflows: from 65536 it is at 1 after 16
    halvings, and a large finite loss (a regression in its own units) may need as many as it has digits. Where 24 were not
    enough, gradients are infinite or NaN at every scale.
    """
    past, now = case.past, case.now
    forward = past.bad_losses >= past.skips > 0
    enough = 5 if past.taken > 0 or forward else SEARCHES
    if not case.run.scaled or not (past.skips >= enough or (past.skips > 0 and past.taken > 0 and now.scale < 1)):
        return None
    return Finding(
        "SCALER-SKIPS",
        "critical",
        now.step,
        f"the loss scaler has left out {past.skips} steps in a row, and its scale is {number(now.scale)}"
        f"{': the forward pass itself overflows, which no scale mends' if forward else ''}.",
        {"skips": past.skips, "scale": now.scale, "forward_overflows": float(forward)},
        remedy="Use precision='bf16-mixed', or 32-bit; else look for values over 65504 (large inputs, unnormalised "
        "activations, sums over long sequences) and lower lr.",
        changes={"precision": "bf16-mixed"},
    )


def eps_lint(case: Case) -> Finding | None:
    """ε that its type cannot hold: 0/0 is NaN for every element whose gradient has always been zero."""
    run = case.run
    tiny = {"float16": 6e-8, "bfloat16": 9.2e-41}.get(run.state_dtype, 1.4e-45)
    if case.past.count > 0 or not run.plain_moments or not 0 <= run.smallest_eps < tiny:
        return None
    return Finding(
        "NON-FINITE",
        "info",
        case.now.step,
        f"eps={run.smallest_eps:g} is zero in {run.state_dtype or 'this type'}: the first gradient of zero gives 0/0.",
        {"eps": run.smallest_eps},
        remedy="Use eps=1e-8 (1e-6 for fp16 state).",
        changes={"eps": 1e-8},
    )


def _is_learnt(case: Case) -> bool:
    """Under 5 % of where it began: small gradients are then no surprise."""
    return bool(case.past.losses) and not case.past.is_signed and case.past.level < 0.05 * case.past.initial_loss


def _overclips(case: Case) -> bool:
    return median(case.past.clips[-25:]) <= 1e-3
