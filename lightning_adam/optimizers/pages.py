"""What the catalogue's pages say beside the rows: each optimizer's update in a line or two, and how it was verified.

θ weights, g gradient, α rate, λ weight decay, t the step; m̂ = m/(1-β₁ᵗ), v̂ = v/(1-β₂ᵗ); ⟨x⟩_β ← β⟨x⟩ + (1-β)x averages.
"""

from __future__ import annotations

_ADAM = "m = ⟨g⟩_β₁, v = ⟨g²⟩_β₂;  θ ← θ - α·m̂/(√v̂ + ε)"
_ADAMW = "m = ⟨g⟩_β₁, v = ⟨g²⟩_β₂;  θ ← θ - α·(m̂/(√v̂ + ε) + λθ)"
_LION = "c = β₁m + (1-β₁)g;  θ ← θ - α·(sign(c) + λθ);  m = ⟨g⟩_β₂"
_ADEMAMIX = "m₁ = ⟨g⟩_β₁, m₂ = ⟨g⟩_β₃, v = ⟨g²⟩_β₂;  θ ← θ - α·((m̂₁ + 5m₂)/(√v̂ + ε) + λθ)"

RULES: dict[str, str] = {
    "adam": f"g ← g + λθ;  {_ADAM}",
    "adamw": _ADAMW,
    "amsgrad": "m = ⟨g⟩_β₁, v = ⟨g²⟩_β₂, w ← max(w, v);  θ ← θ - α·(m̂/(√ŵ + ε) + λθ)",
    "nadam": "μ_t = β₁(1 - 0.96^(0.004t)/2);\nm̄ = (1-μ_t)·g/(1-Πμ) + μ_{t+1}·m/(1-Πμ·μ_{t+1});  θ ← θ - α·(m̄/(√v̂ + ε) + λθ)",
    "radam": "θ ← θ - α·(r_t·m̂/√v̂ + λθ) where v's variance is tractable (ρ_t > 5), else θ ← θ - α·(m̂ + λθ)",
    "adamax": "g ← g + λθ;  m = ⟨g⟩_β₁, u ← max(β₂u, |g|);  θ ← θ - α·m̂/u",
    "adafactor": "v = R·C/mean(R), rows and columns averaged with 1 - t^-0.8;  u = g/√v;\n"
    "θ ← (1-αλ)θ - max(10⁻³, rms(θ))·min(α, 1/√t)·u/max(1, rms(u))",
    "rmsprop": "g ← g + λθ;  v = ⟨g²⟩_0.99;  θ ← θ - α·g/(√v + ε)",
    "sgd": "g ← g + λθ;  b ← μb + g;  θ ← θ - α·(g + μb)",
    "lbfgs": "θ ← θ - τ·H·g, H from the last eight pairs of steps and gradient changes, τ by a strong-Wolfe line search",
    "muon": "hidden matrices: b = ⟨g⟩_μ, O = orthogonalised((1-μ)g + μb) by five Newton-Schulz iterations;\n"
    f"θ ← (1-αλ)θ - 0.2·√max(rows, columns)·α·O;  all else: {_ADAMW}",
    "adam8bit": f"g ← g + λθ;  {_ADAM}, m and v in blocks of 8 bit",
    "adamw8bit": f"{_ADAMW}, m and v in blocks of 8 bit",
    "paged_adamw": _ADAMW,
    "paged_adamw8bit": f"{_ADAMW}, m and v in blocks of 8 bit",
    "lion8bit": f"{_LION}, m in blocks of 8 bit",
    "ademamix8bit": f"{_ADEMAMIX}, state in blocks of 8 bit",
    "lamb8bit": "r = m̂/(√v̂ + ε) + λθ;  θ ← θ - α·(‖θ‖/‖r‖)·r, tensor by tensor, m and v in blocks of 8 bit",
    "paged_lion": _LION,
    "paged_ademamix": _ADEMAMIX,
    "adabelief": "m = ⟨g⟩_β₁, s = ⟨(g-m)²⟩_β₂ + ε;  θ ← (1-αλ)θ - α·m̂/(√ŝ + ε)",
    "sm3": "ν = min over an element's row and column + g²; rows and columns keep their largest ν;\n"
    "m = ⟨g/√ν⟩_0.9;  θ ← θ - α·m",
    "ranger": "RAdam on centred gradients; every sixth step slow ← slow + (θ - slow)/2, θ ← slow (Lookahead)",
    "ranger21": "g clipped unit by unit, centred, over its deviation;  u = (1.9m - 0.9m_last)/norm, of odd and even steps;\n"
    "θ ← (1 - αλ/√mean(v̂))·(norm loss)·θ - α/(1-β₁ᵗ)·u/softplus(√max v̂);  Lookahead each fifth step",
    "lion": _LION,
    "sophia": "m = ⟨g⟩_β₁;  every tenth step h = ⟨z·(Hz)⟩_β₂, z normal;  θ ← (1-αλ)θ - α·clip(m/max(h, ε), ±p)",
    "adan": "m = ⟨g⟩_β₁, v = ⟨g - g_last⟩_β₂, n = ⟨(g + β₂(g - g_last))²⟩_β₃;\nθ ← (θ - α·(m̂ + β₂v̂)/(√n̂ + ε))/(1+αλ)",
    "adopt": "m = ⟨clip(g/max(√v_last, ε), ±t^(1/4))⟩_β₁, v = ⟨g²⟩_β₂;  θ ← (1-αλ)θ - α·m",
    "ademamix": _ADEMAMIX,
    "stableadamw": "v, u: averages of g, g², corrected as they are made;\n"
    "η = α/max(1, rms(g/√u));  θ ← θ - η·(v/(√u + ε) + λθ)",
    "adamp": f"{_ADAM}, less its part along θ where g is orthogonal to θ (and a tenth of λ there);  θ ← (1-αλ)θ before",
    "soap": "Adam in the eigenbasis of ⟨GGᵀ⟩ and ⟨GᵀG⟩, renewed every ten steps by one power iteration;  θ ← (1-αλ)θ after",
    "prodigy": "m, v of d·g;  d ← max(d, Σ⟨g, θ₀-θ⟩/‖s‖₁), s = ⟨d·g⟩;  θ ← (1-dαλ)θ - d·α·m/(√v + dε)",
    "schedulefree_adamw": "z ← z - α·(g/(√v̂ + ε) + λy);  x ← average of z;  gradients at y = (1-β₁)z + β₁x",
    "schedulefree_radam": "as schedulefree_adamw; z's step times r_t where v's variance is tractable (ρ_t > 4), else none",
    "schedulefree_sgd": "z ← z - α·(g + λy);  x ← average of z;  gradients at y = (1-μ)z + μx",
    "grams": "θ ← (1-αλ)θ - α·sign(g)·|m̂/(√v̂ + ε)|",
    "lamb": "r = m̂/(√v̂ + ε) + λθ;  θ ← θ - α·(‖θ‖/‖r‖)·r, tensor by tensor",
    "adam_mini": "m = ⟨g⟩_β₁, v = ⟨mean of g² over a block⟩_β₂;  θ ← (1-αλ)θ - α·m̂/(√v̂ + ε);\n"
    "blocks: rows, heads of queries and keys (num_embeds, num_heads), the elements of a bias, other vectors whole",
    "adamz": f"{_ADAM} with α·f;  f halves when the loss is the largest of 100, grows by 1.2 when it stagnates",
    "caadam": f"{_ADAM} with α·S(tensor), S from its number of elements",
    "hn_adam": "Λ = Λ₀ - |m|/max(|m|, |g|);  m = ⟨g⟩_β₁, v = ⟨|g|^Λ⟩_β₂;  θ ← θ - α·m/(v^(1/Λ) + ε), max v where Λ < 2",
    "bds_adam": "b ← κb + (1-κ)g, κ from tanh‖g‖;  σ = deviation of b;  v = ⟨(b/σ)²⟩_β₂;\n"
    "θ ← θ - α·r_t/(1-β₁ᵗ)·clamp(1/σ, 0.3, 2.5)·(b/σ)/(√v + ε)",
}
"""Name to update rule."""

_REFERENCE = "100 steps in float64 against the paper's equations in NumPy: relative error"
_BY_NAME: dict[str, str] = {
    "lbfgs": "each direction against the two-loop recursion in NumPy to 1e-9, each length against Wolfe's conditions",
    "muon": f"{_REFERENCE} at most 0.4 % (torch iterates in bf16)",
    **dict.fromkeys(
        ("paged_adamw", "paged_lion", "paged_ademamix"), f"{_REFERENCE} at most 1e-5 (float32; not on a GPU that pages)"
    ),
}
PACKAGES: dict[str, str] = {
    **dict.fromkeys(("adam", "adamw", "adan", "radam", "ranger", "stableadamw"), "torch-optimi"),
    **dict.fromkeys(("schedulefree_adamw", "schedulefree_radam", "schedulefree_sgd"), "schedulefree"),
    "adabelief": "adabelief-pytorch",
    "lion": "lion-pytorch",
    "prodigy": "prodigyopt",
}
"""Name to the package, its authors' or another library's, that it is compared with (``tests/test_authors_packages.py``)."""


def verified(name: str) -> str:
    """How the optimizer of this name is checked in the tests (``tests/test_independent_references.py``)."""
    quantised = f"{_REFERENCE} at most 2.5 %, its quantisation"
    equations = _BY_NAME.get(name, quantised if name.endswith("8bit") else f"{_REFERENCE} at most 1e-6")
    return f"{equations};\nand against {PACKAGES[name]}'s own steps, as close" if name in PACKAGES else equations
