"""The catalogue's rows from pytorch-optimizer."""

from __future__ import annotations

import math

from lightning_adam.optimizers.spec import OptimizerSpec

PO = "pytorch_optimizer."
DECOUPLED = {"weight_decouple": True}


def fourth_root(step: float) -> float:
    """ADOPT's bound of its normalised gradient, t^(1/4) (algorithm 2), where t counts from the first real step.

    pytorch_optimizer counts the step that only fills v, too; and its own bound is a lambda, which no pickle takes.
    """
    return math.pow(step - 1, 0.25)


PYTORCH_OPTIMIZER = (
    OptimizerSpec(
        "adabelief", PO + "AdaBelief", "v of the surprise g - m", "m, s", 8, 1e-3, "Zhuang et al. 2020, arXiv:2010.07468"
    ),
    OptimizerSpec(
        "sm3",
        PO + "SM3",
        "one accumulator per row and column",
        "row, column, momentum",
        4,
        0.1,
        "Anil et al. 2019, arXiv:1901.11150",
        0.0,
        fixed={"momentum": 0.9},
        betas=(),
    ),
    OptimizerSpec(
        "ranger",
        PO + "Ranger",
        "RAdam with lookahead",
        "m, v, slow weights",
        12,
        1e-3,
        "Wright 2019, github.com/lessw2020/Ranger-Deep-Learning-Optimizer",
        fixed={**DECOUPLED, "degenerated_to_sgd": True},
        betas=(0.95, 0.999),
        note="Every sixth step ends half-way back to the slow weights: that is Lookahead.",
    ),
    OptimizerSpec(
        "ranger21",
        PO + "Ranger21",
        "AdamW with eight additions; its own schedule is off",
        "m, v, max v, lookahead",
        20,
        1e-3,
        "Wright & Demeure 2021, arXiv:2106.13731",
        1e-4,
        fixed={"disable_lr_scheduler": True},
        needs=("total_steps",),
        note="Every fifth step ends half-way back to the slow weights: that is Lookahead; the library adds 1 to the sum "
        "of v̂ that weight decay is divided by.",
    ),
    OptimizerSpec(
        "lion", PO + "Lion", "the sign of m", "m", 4, 3e-4, "Chen et al. 2023, arXiv:2302.06675", betas=(0.9, 0.99)
    ),
    OptimizerSpec(
        "sophia",
        PO + "SophiaH",
        "clipped step by a diagonal Hessian estimate",
        "m, h, last estimate",
        12,
        6e-2,
        "Liu et al. 2023, arXiv:2305.14342",
        0.002,
        fixed={"update_period": 10},
        needs=("hessian",),
        betas=(0.96, 0.99),
        note="The paper's rate is lr·p: 0.06 and decay 0.002 with p = 0.01 are its 6e-4 and 0.2.",
    ),
    OptimizerSpec(
        "adan",
        PO + "Adan",
        "Nesterov momentum from gradient differences",
        "m, v, n, last g",
        16,
        1e-3,
        "Xie et al. 2022, arXiv:2208.06677",
        fixed={"weight_decouple": False},
        betas=(0.98, 0.92, 0.99),
    ),
    OptimizerSpec(
        "adopt",
        PO + "ADOPT",
        "converges with any β₂",
        "m, v",
        8,
        1e-3,
        "Taniguchi et al. 2024, arXiv:2411.02853",
        fixed={**DECOUPLED, "clip_lambda": fourth_root},
        betas=(0.9, 0.9999),
        note="The first step only fills v, as in the paper; weight decay acts in it already.",
    ),
    OptimizerSpec(
        "ademamix",
        PO + "AdEMAMix",
        "a fast and a slow m",
        "two m, v",
        12,
        1e-3,
        "Pagliardini et al. 2024, arXiv:2409.03137",
        fixed=DECOUPLED,
        betas=(0.9, 0.999, 0.9999),
    ),
    OptimizerSpec(
        "stableadamw",
        PO + "StableAdamW",
        "AdamW that divides its rate by the surprise",
        "m, v",
        8,
        1e-3,
        "Wortsman et al. 2023, arXiv:2304.13013",
        betas=(0.9, 0.99),
    ),
    OptimizerSpec(
        "adamp",
        PO + "AdamP",
        "no growth of scale-invariant weights",
        "m, v",
        8,
        1e-3,
        "Heo et al. 2021, arXiv:2006.08217",
        note="ε is added to √v before its bias is corrected.",
    ),
    OptimizerSpec(
        "soap",
        PO + "SOAP",
        "Adam in Shampoo's eigenbasis",
        "m, v, two covariances, two bases",
        24,
        3e-3,
        "Vyas et al. 2024, arXiv:2409.11321",
        betas=(0.95, 0.95),
        note="The first step only makes the basis and moves nothing, as its authors do; bytes are those of a square matrix: "
        "rows² and columns² enter each twice, a vector has 8.",
    ),
    OptimizerSpec(
        "prodigy",
        PO + "Prodigy",
        "finds the learning rate itself",
        "m, v, s, start",
        16,
        1.0,
        "Mishchenko & Defazio 2023, arXiv:2306.06101",
        shared=("lr", "betas", "beta3", "d0", "d_coef", "growth_rate", "bias_correction", "safeguard_warmup"),
        note="One lr and one betas hold for all groups; as its authors, it refuses others.",
    ),
    OptimizerSpec(
        "schedulefree_adamw",
        PO + "ScheduleFreeAdamW",
        "averages the weights in place of a schedule",
        "z, v",
        8,
        2.5e-3,
        "Defazio et al. 2024, arXiv:2405.15682",
        needs=("modes",),
    ),
    OptimizerSpec(
        "grams", PO + "Grams", "Adam's size with the gradient's sign", "m, v", 8, 1e-3, "Cao et al. 2024, arXiv:2412.17107"
    ),
)
