"""The catalogue: one row per optimizer. Libraries are imported when their optimizer is asked for."""

from __future__ import annotations

import math

from lightning_adam.errors import ConfigError, nearest
from lightning_adam.optimizers.spec import OptimizerSpec, build_optimizer

__all__ = ["OPTIMIZERS", "OptimizerSpec", "available_optimizers", "build_optimizer", "get_optimizer"]

_ADAM, _ADAMW = "Kingma & Ba 2014, arXiv:1412.6980", "Loshchilov & Hutter 2019, arXiv:1711.05101"
_EIGHT_BIT = "Dettmers et al. 2022, arXiv:2110.02861"
_PO, _BITS, _OURS = "pytorch_optimizer.", "lightning_adam.optimizers.eight_bit.", "lightning_adam.optimizers."
_DECOUPLED = {"weight_decouple": True}


def fourth_root(step: float) -> float:
    """ADOPT's bound of its normalised gradient (algorithm 2); pytorch_optimizer's own is a lambda: no pickle takes it."""
    return math.pow(step, 0.25)


_TORCH = (
    OptimizerSpec("adam", "torch.optim.Adam", "weight decay enters the gradient", "m, v", 8, 1e-3, _ADAM, 0.0, fused=True),
    OptimizerSpec("adamw", "torch.optim.AdamW", "Adam with decoupled decay", "m, v", 8, 1e-3, _ADAMW, fused=True),
    OptimizerSpec(
        "amsgrad",
        "torch.optim.AdamW",
        "divides by the largest v so far",
        "m, v, max v",
        12,
        1e-3,
        "Reddi et al. 2018, arXiv:1904.09237",
        fixed={"amsgrad": True},
        fused=True,
    ),
    OptimizerSpec(
        "nadam",
        "torch.optim.NAdam",
        "Adam with Nesterov momentum",
        "m, v",
        8,
        2e-3,
        "Dozat 2016, ICLR workshop",
        fixed={"decoupled_weight_decay": True},
    ),
    OptimizerSpec(
        "radam",
        "torch.optim.RAdam",
        "rectifies the first steps' variance",
        "m, v",
        8,
        1e-3,
        "Liu et al. 2019, arXiv:1908.03265",
        fixed={"decoupled_weight_decay": True},
    ),
    OptimizerSpec("adamax", "torch.optim.Adamax", "infinity norm for v", "m, max |g|", 8, 2e-3, _ADAM, 0.0),
    OptimizerSpec(
        "adafactor",
        "torch.optim.Adafactor",
        "factored v, no m",
        "row v, column v",
        0.03,
        1e-2,
        "Shazeer & Stern 2018, arXiv:1804.04235",
        betas=(),
    ),
    OptimizerSpec("rmsprop", "torch.optim.RMSprop", "v without m", "v", 4, 1e-3, "Hinton 2012, lecture 6e", 0.0, betas=()),
    OptimizerSpec(
        "sgd",
        "torch.optim.SGD",
        "Nesterov momentum, no v",
        "momentum",
        4,
        0.1,
        "Sutskever et al. 2013, ICML",
        0.0,
        fixed={"momentum": 0.9, "nesterov": True},
        fused=True,
        betas=(),
    ),
    OptimizerSpec(
        "lbfgs",
        "torch.optim.LBFGS",
        "quasi-Newton; runs the batch several times per step",
        "history",
        80,
        1.0,
        "Liu & Nocedal 1989, Math. Programming 45",
        0.0,
        fixed={"max_iter": 4, "history_size": 10, "line_search_fn": "strong_wolfe"},
        needs=("closure",),
        betas=(),
    ),
    OptimizerSpec(
        "muon",
        _OURS + "muon.MuonWithAdamW",
        "Muon on hidden matrices, AdamW on the rest",
        "momentum; m, v",
        4,
        1e-3,
        "Jordan et al. 2024, kellerjordan.github.io/posts/muon",
        0.1,
        needs=("matrices",),
        betas=(0.9, 0.95),
    ),
)
_BITSANDBYTES = (
    OptimizerSpec("adam8bit", _BITS + "Adam8bit", "Adam with 8-bit state", "m, v in 8 bit", 2, 1e-3, _EIGHT_BIT),
    OptimizerSpec("adamw8bit", _BITS + "AdamW8bit", "AdamW with 8-bit state", "m, v in 8 bit", 2, 1e-3, _EIGHT_BIT),
    OptimizerSpec(
        "paged_adamw",
        _BITS + "PagedAdamW",
        "AdamW; the GPU driver may page its state out (on a CPU: AdamW)",
        "m, v",
        8,
        1e-3,
        "Dettmers et al. 2023, arXiv:2305.14314",
    ),
    OptimizerSpec(
        "paged_adamw8bit",
        _BITS + "PagedAdamW8bit",
        "both: 8 bit, and paged on a GPU",
        "m, v in 8 bit",
        2,
        1e-3,
        "Dettmers et al. 2023, arXiv:2305.14314",
    ),
    OptimizerSpec(
        "lion8bit",
        _BITS + "Lion8bit",
        "Lion with 8-bit state",
        "m in 8 bit",
        1,
        3e-4,
        "Chen et al. 2023, arXiv:2302.06675",
        betas=(0.9, 0.99),
    ),
    OptimizerSpec(
        "ademamix8bit",
        _BITS + "AdEMAMix8bit",
        "AdEMAMix with 8-bit state",
        "two m, v in 8 bit",
        3,
        1e-3,
        "Pagliardini et al. 2024, arXiv:2409.03137",
        betas=(0.9, 0.999, 0.9999),
    ),
)
_PYTORCH_OPTIMIZER = (
    OptimizerSpec(
        "adabelief", _PO + "AdaBelief", "v of the surprise g - m", "m, s", 8, 1e-3, "Zhuang et al. 2020, arXiv:2010.07468"
    ),
    OptimizerSpec(
        "sm3",
        _PO + "SM3",
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
        _PO + "Ranger",
        "RAdam with lookahead",
        "m, v, slow weights",
        12,
        1e-3,
        "Wright 2019, github.com/lessw2020/Ranger-Deep-Learning-Optimizer",
        fixed=_DECOUPLED,
        betas=(0.95, 0.999),
    ),
    OptimizerSpec(
        "ranger21",
        _PO + "Ranger21",
        "AdamW with eight additions; its own schedule is off",
        "m, v, max v, lookahead",
        20,
        1e-3,
        "Wright & Demeure 2021, arXiv:2106.13731",
        1e-4,
        fixed={"disable_lr_scheduler": True},
        needs=("total_steps",),
    ),
    OptimizerSpec(
        "lion", _PO + "Lion", "the sign of m", "m", 4, 3e-4, "Chen et al. 2023, arXiv:2302.06675", betas=(0.9, 0.99)
    ),
    OptimizerSpec(
        "sophia",
        _PO + "SophiaH",
        "clipped step by a diagonal Hessian estimate",
        "m, h, last estimate",
        12,
        6e-2,
        "Liu et al. 2023, arXiv:2305.14342",
        fixed={"update_period": 10},
        needs=("hessian",),
        betas=(0.96, 0.99),
    ),
    OptimizerSpec(
        "adan",
        _PO + "Adan",
        "Nesterov momentum from gradient differences",
        "m, v, n, last g",
        16,
        1e-3,
        "Xie et al. 2022, arXiv:2208.06677",
        fixed=_DECOUPLED,
        betas=(0.98, 0.92, 0.99),
    ),
    OptimizerSpec(
        "adopt",
        _PO + "ADOPT",
        "converges with any β₂",
        "m, v",
        8,
        1e-3,
        "Taniguchi et al. 2024, arXiv:2411.02853",
        fixed={**_DECOUPLED, "clip_lambda": fourth_root},
        betas=(0.9, 0.9999),
    ),
    OptimizerSpec(
        "ademamix",
        _PO + "AdEMAMix",
        "a fast and a slow m",
        "two m, v",
        12,
        1e-3,
        "Pagliardini et al. 2024, arXiv:2409.03137",
        fixed=_DECOUPLED,
        betas=(0.9, 0.999, 0.9999),
    ),
    OptimizerSpec(
        "stableadamw",
        _PO + "StableAdamW",
        "AdamW that divides its rate by the surprise",
        "m, v",
        8,
        1e-3,
        "Wortsman et al. 2023, arXiv:2304.13013",
        betas=(0.9, 0.99),
    ),
    OptimizerSpec(
        "adamp", _PO + "AdamP", "no growth of scale-invariant weights", "m, v", 8, 1e-3, "Heo et al. 2021, arXiv:2006.08217"
    ),
    OptimizerSpec(
        "adam_mini",
        _PO + "AdamMini",
        "one v per block of a tensor",
        "m, block v",
        4,
        1e-3,
        "Zhang et al. 2024, arXiv:2406.16793",
        needs=("model",),
    ),
    OptimizerSpec(
        "soap",
        _PO + "SOAP",
        "Adam in Shampoo's eigenbasis",
        "m, v, two covariances, two bases",
        24,
        3e-3,
        "Vyas et al. 2024, arXiv:2409.11321",
        betas=(0.95, 0.95),
    ),
    OptimizerSpec(
        "lamb",
        _PO + "Lamb",
        "Adam with a trust ratio per tensor, for large batches",
        "m, v",
        8,
        5e-3,
        "You et al. 2019, arXiv:1904.00962",
    ),
    OptimizerSpec(
        "prodigy",
        _PO + "Prodigy",
        "finds the learning rate itself",
        "m, v, s, start",
        16,
        1.0,
        "Mishchenko & Defazio 2023, arXiv:2306.06101",
    ),
    OptimizerSpec(
        "schedulefree_adamw",
        _PO + "ScheduleFreeAdamW",
        "averages the weights in place of a schedule",
        "z, v",
        8,
        2.5e-3,
        "Defazio et al. 2024, arXiv:2405.15682",
        needs=("modes",),
    ),
    OptimizerSpec(
        "grams", _PO + "Grams", "Adam's size with the gradient's sign", "m, v", 8, 1e-3, "Cao et al. 2024, arXiv:2412.17107"
    ),
)
_OWN = (
    OptimizerSpec(
        "adamz", _OURS + "adamz.AdamZ", "the rate follows the loss: down on overshoot, up on stagnation", "m, v; losses", 8,
        1e-3, "Zaznov et al. 2024, arXiv:2411.15375", 0.0, fixed={"max_norm": None}, needs=("loss",),
    ),
    OptimizerSpec(
        "caadam", _OURS + "caadam.CaAdam", "scales each tensor's step by its connections", "m, v", 8, 1e-3,
        "Genet & Inzirillo 2024, arXiv:2410.24216", 0.0,
    ),
    OptimizerSpec(
        "hn_adam", _OURS + "hn_adam.HNAdam", "a norm that adapts to the gradient; drawn in [2, 4]", "m, v, max v", 12,
        1e-3, "Reyad, Sarhan & Arafa 2023, doi 10.1007/s00521-023-08568-z, algorithm 2", 0.0,
    ),
    OptimizerSpec(
        "bds_adam", _OURS + "bds_adam.BDSAdam", "v of the smoothed gradient over its spread (the authors' code; no m)",
        "smoothed g, v", 8, 1e-3, "Shao et al. 2025, doi 10.1038/s41598-025-20788-y; code wengshiqian/BDS-Adam", 0.0,
    ),
)  # fmt: skip
OPTIMIZERS: dict[str, OptimizerSpec] = {row.name: row for row in (*_TORCH, *_BITSANDBYTES, *_PYTORCH_OPTIMIZER, *_OWN)}


def available_optimizers() -> tuple[OptimizerSpec, ...]:
    """Every optimizer of the catalogue."""
    return tuple(OPTIMIZERS.values())


def get_optimizer(name: str) -> OptimizerSpec:
    """The row of this name.

    Raises:
        ConfigError: there is none; the message has the nearest and all names.
    """
    if name not in OPTIMIZERS:
        known = ", ".join(OPTIMIZERS)
        raise ConfigError(f"optimizer={name!r} is not in the catalogue.{nearest(str(name), OPTIMIZERS)} Known: {known}.")
    return OPTIMIZERS[name]
