"""Every tag: what it means, what is healthy, what to do. TensorBoard shows the text behind the ⓘ of the Scalars tab."""

from __future__ import annotations

PLUGIN = "lightning_adam"
"""The plugin name of the series that only our own tools read: the Adam tab, the doctor."""

HEADLINE: dict[str, str] = {
    "log10_lr": "log10 of the learning rate that this step used. Healthy: as you scheduled it.",
    "log10_update_ratio_p10": "log10 ‖Δθ‖/‖θ‖ of the tensor at the 10th percentile. Far below -4: it hardly learns.",
    "log10_update_ratio_p50": (
        "log10 ‖Δθ‖/‖θ‖, median over the tensors: how far one step moves the weights. **Healthy: about -2.7**, "
        "0.2 %. Above -1.5 for long: divide the learning rate by 3. Below -3.8, where steps agree: multiply it."
    ),
    "log10_update_ratio_p90": "log10 ‖Δθ‖/‖θ‖ of the tensor at the 90th percentile. Above -1: look at the heatmap.",
    "log10_step_size_rms": "log10 of the rms of |Δθ| over all elements, without weight decay. Follows the learning rate.",
    "log10_effective_lr_p50": (
        "log10 of α/(√v̂+ε), what each gradient component is multiplied by: median over the tensors of each one's median."
    ),
    "log10_first_moment_rms": "log10 of the rms of m̂ over all elements. Healthy: well under the second moment's.",
    "log10_second_moment_rms": "log10 of the rms of √v̂ over all elements. A jump: a heavy gradient; steps stay small after.",
    "log10_gradient_norm": "log10 of the total gradient norm before clipping. Healthy: no jumps of more than one unit.",
    "signal_to_noise": (
        "Mean of |m̂|/(√v̂+ε). 1: every step agrees, raise the learning rate; about 0.2 at β₁ = 0.9: gradients are noise."
    ),
    "clipped_steps_total": "Steps whose gradients the helper's rule clipped, so far. Under Adam, many are harmless.",
    "findings_total": "Findings so far; the text tab has them (adam/findings). Healthy: 0.",
}
"""The headline scalars, at most twelve."""

QUANTITY_TEXTS: dict[str, str] = {
    "gradient_norm": "‖g‖ after unscaling and clipping",
    "first_moment_rms": "rms of m̂ = m/(1-β₁ᵗ)",
    "first_moment_max": "largest |m̂|",
    "second_moment_rms": "rms of √v̂, v̂ = v/(1-β₂ᵗ)",
    "second_moment_min": "smallest √v̂",
    "second_moment_max": "largest √v̂",
    "effective_lr_p01": "α/(√v̂+ε), 1st percentile over the elements",
    "effective_lr_p50": "α/(√v̂+ε), median over the elements",
    "effective_lr_p99": "α/(√v̂+ε), 99th percentile over the elements",
    "step_size_rms": "rms of |Δθ| without decoupled decay",
    "step_size_max": "largest |Δθ|",
    "update_ratio": "‖Δθ‖/‖θ‖; about 2e-3 is healthy",
    "gradient_surprise": "sqrt(mean(g²/max(v̂,ε²))); about 1 is healthy, above 4 for long: v is stale",
    "signal_to_noise": "mean of |m̂|/(√v̂+ε)",
    "eps_dominated": "mean of ε/(√v̂+ε) where v > 0; near 1: Adam has become SGD",
}

PICTURES: dict[str, str] = {
    "log10_step_size": "log10 |Δθ| over all elements; the lowest bin also holds zeros.",
    "log10_effective_lr": "log10 α/(√v̂+ε) over all elements.",
    "update_ratio_heatmap": "‖Δθ‖/‖θ‖, its rate's decay divided out, pale where no rule objects: tensors × logged steps.",
}

TENSOR_HISTOGRAMS: dict[str, str] = {
    "step_size": "log10 |Δθ| over the sampled elements of each tensor, packed; the lowest bin also holds zeros.",
    "effective_lr": "log10 α/(√v̂+ε) over the sampled elements of each tensor, packed.",
}

CLIPPING: dict[str, str] = {
    "log10_norm_after": "log10 of the total gradient norm that the clipping rule left over.",
    "clipped": "1 where the clipping rule changed this step's gradients. Always 1: the limit, not the data, sets the norm.",
    "skipped_steps_total": "Steps that the GradScaler skipped for Inf or NaN, so far. A few at the start are normal.",
}

QUANTILES: dict[str, str] = {
    f"log10_{quantity}_{at}": f"log10 {formula}: {words}."
    for quantity, formula in (
        ("step_size", "|Δθ| over all weights that moved"),
        ("effective_lr", "α/(√v̂+ε) over all weights with v > 0"),
    )
    for at, words in (("p01", "1st percentile"), ("p50", "median"), ("p99", "99th percentile"))
}


def description(tag: str) -> str:
    """The text of a tag such as ``adam/log10_lr`` or ``adam.groups/log10_lr/decay``; empty where there is none."""
    room, _, rest = tag.partition("/")
    name = rest.split("/")[0]
    if room.endswith((".tensors", "_matrix")):
        return QUANTITY_TEXTS.get(name, "")
    if room.endswith("_histograms"):
        return TENSOR_HISTOGRAMS.get(name, "")
    shared = QUANTILES if room.endswith(".dist") else HEADLINE
    return shared.get(name) or PICTURES.get(name) or CLIPPING.get(name, "")
