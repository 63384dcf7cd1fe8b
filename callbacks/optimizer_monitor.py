"""Writes what the optimizer does to the logger: moments, effective learning rates, and the steps really taken."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_adam.callbacks.monitor_callback import MonitorCallback
from lightning_adam.monitoring import Granularity, StatisticsOptions


class OptimizerMonitor(MonitorCallback):
    """Logs moment statistics, effective learning rates and step sizes of every optimizer.

    =============================== ========================================== ==================================
    tag                             meaning                                    healthy
    =============================== ========================================== ==================================
    adam/log10_lr                   learning rate that the step used           as scheduled
    adam/log10_update_ratio_p50     ‖Δθ‖/‖θ‖, median over the tensors          -3.5 to -2 (about 1e-3)
    adam/log10_step_size_rms        rms of |Δθ| over all elements              falls with the learning rate
    adam/log10_effective_lr_p50     α/(√v̂+ε), median                          drifts slowly
    adam/log10_first_moment_rms     rms of m̂                                   under the second moment's
    adam/log10_second_moment_rms    rms of √v̂                                  no jumps
    adam/log10_gradient_norm        total norm before clipping                 no jumps
    adam/signal_to_noise            mean of |m̂|/(√v̂+ε)                        0.1 to 0.6
    adam/clipped_steps_total        steps that clipping changed (the helper's) any; see the rules
    =============================== ========================================== ==================================

    With them go, per parameter group, the same (``adam.groups/…``); pooled histograms with their quantiles and a heatmap
    (``adam.dist/…``); what clipping left (``adam.clip/…``) and what the GradScaler skipped (``adam.amp/…``); every tensor's
    quantities (``adam_matrix/…``); and as text the configuration and the tensors that stand out (``adam/top``).

    The weights are bit for bit those of a run without the monitor. Parameters are copied on logged steps only, and only
    where the optimizer's state does not tell the step. Shards (FSDP) are measured where they are and put together by one
    collective per logged step.

    Args:
        every_n_steps: optimizer steps between two logged steps; the trainer's ``log_every_n_steps`` by default.
        tensors: globs of parameter names that also get scalars of their own (``adam.tensors/…``); by default all
            tensors of a model that has at most 32.
        include: globs of the parameter names to look at; all by default.
        exclude: globs of parameter names to leave out.
        granularity: the finest that is written: ``"model"``, ``"group"`` (and the model), or ``"parameter"`` (and both).
        top: how many tensors the tables of ``adam/top`` hold: largest update ratio, largest surprise, smallest step.

    Raises:
        ConfigError: an argument out of range; at the start of training a glob that matches no parameter.
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        tensors: str | Sequence[str] | None = None,
        include: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] | None = None,
        granularity: Granularity = "parameter",
        top: int = 5,
    ) -> None:
        super().__init__(StatisticsOptions(every_n_steps, tensors, include, exclude, granularity, top))
