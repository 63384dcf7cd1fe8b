"""What the optimizer's state and arithmetic show: β₂, ε, clipping, decay, precision, and state that was lost or spoilt."""

from __future__ import annotations

import math

from lightning_adam.diagnosis.finding import Finding
from lightning_adam.diagnosis.history import Case, median
from lightning_adam.diagnosis.theory import is_unbounded, slowest_decay, untuned_warmup
from lightning_adam.diagnosis.wording import loss_clause, percent, place, rounded

STALE_SURPRISE = 4.0
"""RMS_t of a tensor: healthy runs have a median of 20 passes of at most 2.2, stale ones 11 and more."""
EPS_RULES = 0.5
"""Mean share of ε in √v̂+ε: healthy at most 0.105, sick 0.87 and more."""


def beta2_low(case: Case) -> Finding | None:
    """β₁ ≥ √β₂, told at the first step: no bound holds the step, and Adam can diverge on convex problems (see theory.py)."""
    beta1, beta2 = case.now.beta1, case.now.beta2
    if case.past.count > 0 or not case.run.plain_moments or not is_unbounded(beta1, beta2):
        return None
    is_swapped = beta1 >= 0.95 and beta2 >= 0.8  # each would be usual in the other's place
    better = (beta2, beta1) if is_swapped else (beta1 if beta1 <= 0.95 else 0.9, 0.999)
    hint = ": they look swapped" if is_swapped else ", or 0.95 to 0.99 for large batches and transformers"
    return Finding(
        "BETA2-LOW",
        "warning",
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
    return Finding(
        "BETA2-STALE",
        "warning",
        case.now.step,
        f"gradients are {heavy.surprise_max:.3g} times what v expects, and have been for "
        f"{case.past.lasted(5, 10)} steps{place(heavy.surprise_max_in)}: v remembers "
        f"{1 / (1 - beta2):.0f} steps{loss_clause(case)}.",
        {"surprise": heavy.surprise_max, "beta2": beta2},
        (heavy.surprise_max_in,) if heavy.surprise_max_in else (),
        f"Use betas=({case.now.beta1:g}, 0.95), or optimizer='stableadamw', which divides the step by the surprise.",
        {"betas": (case.now.beta1, 0.95)},
    )


def eps_high(case: Case) -> Finding | None:
    """ε is more than half of √v̂+ε, averaged over the tensors (where v > 0), on five passes; healthy ≤ 0.105, sick ≥ 0.87.

    A warning where steps are small for it; where the rate makes up for it (the step is that of SGD), advice.
    """
    past, heavy = case.past, case.now.heavy
    rules = heavy is not None and past.count >= 9 and past.lasts("eps_share", 5, 4, EPS_RULES)
    if heavy is None or not rules or _is_learnt(case) or _overclips(case):
        return None
    small = median(past.recent("update_ratio_p50", 5)) < 5e-4
    lower = rounded(max(1e-15, min(1e-8, 1e-3 * heavy.second_moment_p50)))
    return Finding(
        "EPS-HIGH",
        "warning" if small else "info",
        case.now.step,
        f"eps={case.run.eps:g} is {percent(heavy.eps_share)} of the denominator: steps follow the gradient's size, as in SGD"
        f"{place(heavy.eps_share_max_in)}.",
        {"eps_share": heavy.eps_share, "eps": case.run.eps, "update_ratio": heavy.update_ratio_p50},
        (heavy.eps_share_max_in,) if heavy.eps_share_max_in else (),
        f"Use eps={lower:g}, or scale the loss up: gradients are too small for this eps.",
        {"eps": lower},
    )


def clip_always(case: Case) -> Finding | None:
    """Clipping leaves so little of the gradient (a thousandth) that ε rules the denominator.

    That every step is clipped is harmless by itself: Adam does not see the gradient's scale (measured: final loss 0.042
    with every step clipped to 1e-3, 0.051 with none).
    """
    past, heavy = case.past, case.now.heavy
    rules = heavy is not None and past.count >= 9 and past.lasts("eps_share", 5, 4, EPS_RULES)
    if heavy is None or not rules or _is_learnt(case) or not _overclips(case):
        return None
    usual = median(past.norms[-50:])
    return Finding(
        "CLIP-ALWAYS",
        "warning",
        case.now.step,
        f"clipping multiplies gradients by {median(past.clips[-25:]):.1g} at every step, and eps={case.run.eps:g} is then "
        f"{percent(heavy.eps_share)} of the denominator.",
        {"clip_coefficient": median(past.clips[-25:]), "eps_share": heavy.eps_share, "gradient_norm": usual},
        remedy=f"Use clip={rounded(usual)} (the usual norm) or none.",
        changes={"clip": rounded(usual)},
    )


def decay_dominates(case: Case) -> Finding | None:
    """Weight decay pulls harder than the gradient's step, on the last four passes, while the loss is high.

    In AdamW's equilibrium the ratio is about √(α·λ/2), far under 1. Healthy ≤ 0.14, sick ≥ 2.7.
    """
    past, heavy = case.past, case.now.heavy
    if heavy is None or past.count < 20 or not past.lasts("decay_ratio", 4, 4, 1.0) or not case.loss_is_high:
        return None
    ratio = heavy.decay_ratio
    lower = rounded(min(0.1, case.run.weight_decay / (20 * ratio)))
    return Finding(
        "DECAY-DOMINATES",
        "warning",
        case.now.step,
        f"weight decay pulls {ratio:.2g} times as hard as the gradient's step{place(heavy.decay_ratio_max_in)}"
        f"{loss_clause(case)}.",
        {"decay_ratio": ratio, "weight_decay": case.run.weight_decay},
        (heavy.decay_ratio_max_in,) if heavy.decay_ratio_max_in else (),
        f"Use weight_decay={lower} (now {case.run.weight_decay:g}), decoupled (AdamW), and none on biases and norms.",
        {"weight_decay": lower},
    )


def bf16_stall(case: Case) -> Finding | None:
    """Updates are rounded away: over 80 % of 16-bit elements do not move, on three passes (healthy ≤ 0.51, sick ≥ 0.94).

    Round-to-nearest loses |Δ| under half the spacing, 2⁻⁹ to 2⁻⁸ of the weight in bf16. A rate that is small by design is
    none.
    """
    past, heavy, now = case.past, case.now.heavy, case.now
    if heavy is None or past.count < 20 or not past.lasts("lost_updates", 3, 10, 0.8) or not case.loss_is_high:
        return None
    if now.lr < 0.02 * past.peak_lr:
        return None
    return Finding(
        "BF16-STALL",
        "warning",
        now.step,
        f"{percent(heavy.lost_updates)} of the {case.run.dtype} weights do not move: their updates are under half the "
        f"spacing of the type{place(heavy.lost_updates_max_in)}{loss_clause(case)}.",
        {"lost_updates": heavy.lost_updates, "lr": now.lr},
        (heavy.lost_updates_max_in,) if heavy.lost_updates_max_in else (),
        f"Keep the weights in 32 bit (Trainer(precision='bf16-mixed')), or try lr={rounded(10 * now.lr)}, or an optimizer "
        "with stochastic rounding or Kahan summation.",
        {"lr": rounded(10 * now.lr), "precision": "bf16-mixed"},
    )


def state_lost(case: Case) -> Finding | None:
    """The moments were reset: t went back or starts at 1 in a resumed run, or √v̂ fell faster than v can forget.

    v shrinks by β₂ per step at most: below half of that limit (see :func:`slowest_decay`) it was not carried on. Exact.
    """
    past, heavy = case.past, case.now.heavy
    if heavy is None:
        return None
    steps, roots = past.passes.get("state_step", []), past.passes.get("second_moment_p50", [])
    restarted = case.run.first_step > 10 and case.now.step == case.run.first_step and heavy.state_step == 1
    tensors = past.passes.get("tensors", [])  # a frozen tensor is not seen, and the others may be younger
    went_back = len(steps) > 1 and steps[-1] < steps[-2] and tensors[-1:] == tensors[-2:-1]
    if not (restarted or went_back or _fell(case, roots, steps)):
        return None
    kept = roots[-1] / roots[-2] if len(roots) > 1 and roots[-2] > 0 else math.nan
    return Finding(
        "STATE-LOST",
        "critical",
        case.now.step,
        f"the optimizer's moments were reset: its state counts {heavy.state_step:.0f} updates, and √v is "
        f"{kept:.2g} of what it was."
        if math.isfinite(kept)
        else f"the run goes on at step {case.now.step}, and the optimizer's state counts {heavy.state_step:.0f} updates.",
        {"state_step": heavy.state_step, "kept": kept},
        remedy="Load the optimizer's state with the weights (trainer.fit(ckpt_path=...)); where it is gone, warm up again "
        f"over {min(2000, untuned_warmup(case.now.beta2))} steps.",
    )


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
    if _remembers_another_beta2(case):
        return None
    allowed = 1.25 if run.state_dtype in ("uint8", "int8") else 1.02
    if heavy is None or not run.plain_moments or not heavy.bound_excess > allowed:
        return None
    return Finding(
        "STATE-CORRUPT",
        "critical",
        case.now.step,
        f"the step of {heavy.bound_excess_in} is {heavy.bound_excess:.3g} times the largest that any gradients can give: "
        "its moments do not belong together (quantised too coarsely, overflown, or half restored).",
        {"bound_excess": heavy.bound_excess, "normalised_rms": heavy.normalised_rms_max},
        (heavy.bound_excess_in,) if heavy.bound_excess_in else (),
        "Keep the state in 32 bit (optimizer='adamw'; in bitsandbytes min_8bit_size or an override for embeddings), and "
        "restart from a checkpoint before this step.",
        {"optimizer": "adamw"},
    )


def _remembers_another_beta2(case: Case) -> bool:
    """Whether v still holds over 1 % of what it was when β₂ was changed: the bound for one β₂ does not hold for two."""
    past, beta2 = case.past, case.now.beta2
    return past.beta2_changed >= 0 and 0 < beta2 < 1 and beta2 ** (past.count - past.beta2_changed) > 0.01


def scaler_skips(case: Case) -> Finding | None:
    """The fp16 scaler left out five steps in a row, or its scale is under 1.

    Before the first step that was taken: eight, unless the loss itself overflows; the search from 65536 for a scale takes
    up to three, with losses that are summed a few more.
    """
    past, now = case.past, case.now
    forward = past.bad_losses >= past.skips > 0
    enough = 5 if past.taken > 0 or forward else 8
    if not case.run.scaled or not (past.skips >= enough or (now.scale < 1 and past.count > 5)):
        return None
    return Finding(
        "SCALER-SKIPS",
        "critical",
        now.step,
        f"the loss scaler has left out {past.skips} steps in a row, and its scale is {now.scale:.3g}"
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
    if case.past.count > 0 or not run.plain_moments or not run.smallest_eps < tiny:
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


def warmup_lint(case: Case) -> Finding | None:
    """Advice at step 0: no warmup to speak of (under 2 % of the run, and under 2/(1-β₂) steps), where both are known."""
    run = case.run
    if (
        case.past.count > 0
        or run.first_step > 0
        or not run.plain_moments
        or not run.warmup < min(untuned_warmup(case.now.beta2), 0.02 * run.total_steps)
    ):
        return None
    steps = min(untuned_warmup(case.now.beta2), round(run.total_steps / 20))
    if steps <= run.warmup:  # a run so short has no room for a better one
        return None
    return Finding(
        "NO-WARMUP",
        "info",
        case.now.step,
        f"a warmup of {run.warmup:g} steps is short for beta2={case.now.beta2:g}: the first steps are the largest.",
        {"warmup": run.warmup, "untuned": untuned_warmup(case.now.beta2)},
        remedy=f"Use warmup={steps} (2/(1-beta2), at most a twentieth of the run).",
        changes={"warmup": steps},
    )


def _is_learnt(case: Case) -> bool:
    """Under 5 % of where it began: small gradients are then no surprise."""
    return bool(case.past.losses) and case.past.level < 0.05 * case.past.initial_loss


def _overclips(case: Case) -> bool:
    return median(case.past.clips[-25:]) <= 1e-3
