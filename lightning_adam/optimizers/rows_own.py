"""The catalogue's rows of the optimizers that no library has, or none as its paper has them."""

from __future__ import annotations

from lightning_adam.optimizers.spec import OptimizerSpec

OURS = "lightning_adam.optimizers."

OWN = (
    OptimizerSpec(
        "lamb", OURS + "lamb.LAMB", "Adam with a trust ratio per tensor, for large batches", "m, v", 8, 5e-3,
        "You et al. 2019, arXiv:1904.00962, algorithm 2",
    ),
    OptimizerSpec(
        "adam_mini", OURS + "adam_mini.AdamMini", "one v per output neuron, or per head", "m, block v", 4, 1e-3,
        "Zhang et al. 2024, arXiv:2406.16793, algorithm 3",
    ),
    OptimizerSpec(
        "adamz", OURS + "adamz.AdamZ", "the rate follows the loss: down on overshoot, up on stagnation", "m, v; losses", 8,
        1e-3, "Zaznov et al. 2024, arXiv:2411.15375", 0.0, fixed={"max_norm": None}, needs=("loss",),
    ),
    OptimizerSpec(
        "caadam", OURS + "caadam.CaAdam", "scales each tensor's step by its connections", "m, v", 8, 1e-3,
        "Genet & Inzirillo 2024, arXiv:2410.24216", 0.0,
    ),
    OptimizerSpec(
        "hn_adam", OURS + "hn_adam.HNAdam", "a norm that adapts to the gradient; drawn in [2, 4]", "m, v, max v", 12,
        1e-3, "Reyad, Sarhan & Arafa 2023, doi 10.1007/s00521-023-08568-z, algorithm 2", 0.0,
    ),
    OptimizerSpec(
        "bds_adam", OURS + "bds_adam.BDSAdam", "v of the smoothed gradient over its spread (the authors' code; no m)",
        "smoothed g, v", 8, 1e-3, "Shao et al. 2025, doi 10.1038/s41598-025-20788-y; code wengshiqian/BDS-Adam", 0.0,
    ),
)  # fmt: skip
