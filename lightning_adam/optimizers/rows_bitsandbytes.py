"""The catalogue's rows from bitsandbytes."""

from __future__ import annotations

from lightning_adam.optimizers.spec import OptimizerSpec

EIGHT_BIT = "Dettmers et al. 2022, arXiv:2110.02861"
BITS = "lightning_adam.optimizers.eight_bit."

BITSANDBYTES = (
    OptimizerSpec(
        "adam8bit",
        BITS + "Adam8bit",
        "Adam with 8-bit state; weight decay enters the gradient",
        "m, v in 8 bit",
        2,
        1e-3,
        EIGHT_BIT,
        0.0,
    ),
    OptimizerSpec("adamw8bit", BITS + "AdamW8bit", "AdamW with 8-bit state", "m, v in 8 bit", 2, 1e-3, EIGHT_BIT),
    OptimizerSpec(
        "paged_adamw",
        BITS + "PagedAdamW",
        "AdamW; the GPU driver may page its state out (on a CPU: AdamW)",
        "m, v",
        8,
        1e-3,
        "Dettmers et al. 2023, arXiv:2305.14314",
    ),
    OptimizerSpec(
        "paged_adamw8bit",
        BITS + "PagedAdamW8bit",
        "both: 8 bit, and paged on a GPU",
        "m, v in 8 bit",
        2,
        1e-3,
        "Dettmers et al. 2023, arXiv:2305.14314",
    ),
    OptimizerSpec(
        "lion8bit",
        BITS + "Lion8bit",
        "Lion with 8-bit state",
        "m in 8 bit",
        1,
        3e-4,
        "Chen et al. 2023, arXiv:2302.06675",
        betas=(0.9, 0.99),
    ),
    OptimizerSpec(
        "ademamix8bit",
        BITS + "AdEMAMix8bit",
        "AdEMAMix with 8-bit state",
        "two m, v in 8 bit",
        3,
        1e-3,
        "Pagliardini et al. 2024, arXiv:2409.03137",
        betas=(0.9, 0.999, 0.9999),
    ),
    OptimizerSpec(
        "lamb8bit",
        BITS + "LAMB8bit",
        "LAMB with 8-bit state",
        "m, v in 8 bit",
        2,
        5e-3,
        "You et al. 2019, arXiv:1904.00962, algorithm 2",
        fixed={"eps": 1e-6},
    ),
    OptimizerSpec(
        "paged_lion",
        BITS + "PagedLion",
        "Lion; the GPU driver may page its state out",
        "m",
        4,
        3e-4,
        "Chen et al. 2023, arXiv:2302.06675",
        betas=(0.9, 0.99),
    ),
    OptimizerSpec(
        "paged_ademamix",
        BITS + "PagedAdEMAMix",
        "AdEMAMix; the GPU driver may page its state out",
        "two m, v",
        12,
        1e-3,
        "Pagliardini et al. 2024, arXiv:2409.03137",
        betas=(0.9, 0.999, 0.9999),
        note="Pages with CUDA only: a CPU build lacks the kernel, and a tensor of 100,000 elements ends the first step.",
    ),
)
