"""The catalogue's rows of optimizers that average the weights in place of a schedule."""

from __future__ import annotations

from lightning_adam.optimizers.spec import OptimizerSpec

SCHEDULE_FREE = "Defazio et al. 2024, arXiv:2405.15682"

AVERAGING = (
    OptimizerSpec(
        "schedulefree_radam",
        "pytorch_optimizer.ScheduleFreeRAdam",
        "schedule-free, without a warmup of its own: the first steps are rectified",
        "z, v",
        8,
        2.5e-3,
        SCHEDULE_FREE,
        0.0,
        needs=("modes",),
        note="The first four steps only fill v, as long as its variance cannot be told.",
    ),
    OptimizerSpec(
        "schedulefree_sgd",
        "pytorch_optimizer.ScheduleFreeSGD",
        "schedule-free momentum, no v",
        "z",
        4,
        1.0,
        SCHEDULE_FREE,
        0.0,
        needs=("modes",),
        betas=(),
    ),
)
