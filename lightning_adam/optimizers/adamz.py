"""AdamZ: Adam whose learning rate follows the loss (Zaznov et al. 2024, arXiv:2411.15375)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from lightning_adam.optimizers._foreach import (
    ForeachOptimizer,
    Tensors,
    adam_step,
    check_adam,
    check_range,
)
from lightning_adam.optimizers._ranks import mean_over_ranks


def loss_factor(
    losses: Sequence[float],
    patience: int = 100,
    stagnation_period: int = 10,
    overshoot_factor: float = 0.5,
    stagnation_factor: float = 1.2,
    stagnation_threshold: float = 0.2,
) -> float:
    """What the last ``patience`` losses (this step's last) do to the learning rate; 1 while there are fewer.

    Overshoot: this loss is the maximum. Stagnation: the population standard deviation of the last
    ``stagnation_period`` losses is below ``stagnation_threshold`` times that of all. Both may hold.

    Example:
        >>> loss_factor([1.0, 2.0, 3.0], patience=3)
        0.5
    """
    if len(losses) < patience or not all(math.isfinite(loss) for loss in losses):
        return 1.0
    overshoots = losses[-1] >= max(losses)
    short = losses[-min(stagnation_period, patience) :]
    stagnates = statistics.pstdev(short) < stagnation_threshold * statistics.pstdev(losses)
    return (overshoot_factor if overshoots else 1.0) * (stagnation_factor if stagnates else 1.0)


class AdamZ(ForeachOptimizer):
    """Adam with a learning rate that halves when the loss overshoots and grows when it stagnates.

    The loss comes from the closure, or as ``step(loss=...)``; where torch.distributed is in use, it is the mean over all
    ranks, without which their rates, and so their replicas, would drift apart.

    What the rules do to the learning rate is kept as a factor of its own (``group["loss_factor"]``), so that a schedule can
    write ``lr``: the two are multiplied. The limits hold for the unscheduled rate times the factor, so that a schedule that
    ends at 0 does not drive the factor up. ε is added after
    the square root of the bias-corrected v, as torch does; the authors' script adds it to the raw one. Their script clips
    the first group only: here all groups together.

    Args:
        params: parameters or groups.
        lr: learning rate.
        betas: decay rates of the moments.
        eps: added to √v̂.
        weight_decay: decoupled.
        overshoot_factor: on a loss that is the maximum of the last ``patience``.
        stagnation_factor: on a loss that hardly changes any more.
        stagnation_threshold: share of the long standard deviation under which the short one is stagnation.
        patience: losses that are remembered.
        stagnation_period: losses of the short standard deviation.
        min_lr: lower limit of the rate, before a schedule's multiplier.
        max_lr: upper limit.
        max_norm: total gradient norm to clip at; None where somebody else clips.

    Raises:
        ConfigError: a hyper-parameter out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        overshoot_factor: float = 0.5,
        stagnation_factor: float = 1.2,
        stagnation_threshold: float = 0.2,
        patience: int = 100,
        stagnation_period: int = 10,
        min_lr: float = 1e-7,
        max_lr: float = 1.0,
        max_norm: float | None = 1.0,
    ) -> None:
        check_adam(lr, betas, eps, weight_decay)
        check_range("overshoot_factor", overshoot_factor, 0.0, 1.0)
        check_range("stagnation_factor", stagnation_factor, 1.0, math.inf)
        check_range("patience", patience, 1, math.inf)
        check_range("min_lr", min_lr, 0.0, max_lr)
        rule = {
            "patience": patience,
            "stagnation_period": stagnation_period,
            "overshoot_factor": overshoot_factor,
            "stagnation_factor": stagnation_factor,
            "stagnation_threshold": stagnation_threshold,
        }
        limits = {"min_lr": min_lr, "max_lr": max_lr, "loss_factor": 1.0}
        self.max_norm = max_norm
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, **limits})
        self.param_groups[0].update(losses=[], rule=rule)

    def step(self, closure: Callable[[], Any] | None = None, loss: Any = None) -> Any:  # type: ignore[override]
        """One step on this step's loss; without one the factor stays as it is."""
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if loss is not None:
            self._observe(float(mean_over_ranks(loss, self.param_groups[0]["params"][0].device)))
        if self.max_norm is not None:
            torch.nn.utils.clip_grad_norm_([p for g in self.param_groups for p in g["params"]], self.max_norm)
        super().step()
        return loss

    def _observe(self, loss: float) -> None:
        memory = self.param_groups[0]
        memory["losses"] = [*memory["losses"], loss][-memory["rule"]["patience"] :]
        change = loss_factor(memory["losses"], **memory["rule"])
        for group in self.param_groups:
            group["loss_factor"] = _limited(group, group["loss_factor"] * change)

    def update(self, group: dict[str, Any], weights: Tensors, gradients: Tensors, states: Sequence[Any]) -> None:
        """Adam with the learning rate times the factor."""
        adam_step(group, weights, gradients, states, [group["lr"] * group["loss_factor"]] * len(states))


def _limited(group: dict[str, Any], factor: float) -> float:
    """The factor that keeps the unscheduled rate in the group's limits."""
    lr = float(group.get("initial_lr", group["lr"]))
    return min(max(lr * factor, group["min_lr"]), group["max_lr"]) / lr if lr > 0 else factor
