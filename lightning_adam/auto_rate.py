"""``lr="auto"`` in a run: whose data are looked at, one answer for all ranks, and what a resumed run keeps."""

from __future__ import annotations

import importlib
import logging
import math
from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from lightning_adam.config import OptimizerConfig
from lightning_adam.errors import ConfigError
from lightning_adam.learning_rate import SuggestedRate, look_at_weights, rate_for
from lightning_adam.optimizers.choice import Choice
from lightning_adam.plain_names import plain_name
from lightning_adam.planning import ASSUMED_LENGTH
from lightning_adam.preflight.placing import is_sharded
from lightning_adam.saved_record import FOUND_LR, names_of

LOG = logging.getLogger("lightning_adam")


def found_rate(module: nn.Module, config: OptimizerConfig, choice: Choice, trainer: Any | None) -> float:
    """The rate for ``lr="auto"``: the checkpoint's where a run is resumed, else found on the trainer's data.

    ``la.describe`` asks before there is a trainer: then what the weights alone suggest stands for it.

    Raises:
        ConfigError: there is no trainer, or its strategy holds shards; and as :func:`lightning_adam.suggest_lr`.
    """
    instead = "write lr=float(la.suggest_lr(module, loader)), or a number."
    if trainer is None and not math.isnan(ASSUMED_LENGTH.get()):
        return look_at_weights(module, choice.spec.name)
    if trainer is None:
        raise ConfigError(f"lr='auto' looks at the trainer's data, and there is no trainer: {instead}")
    if is_sharded(trainer):
        strategy = type(trainer.strategy).__name__
        raise ConfigError(f"lr='auto' under {strategy}: weights would be in shards when rates are tried. Before, {instead}")
    seam = importlib.import_module("lightning_adam.callbacks._lightning")
    kept = _rate_in_checkpoint(seam.checkpoint_being_loaded(trainer), module)
    if kept is not None and not config.reset_optimizer:
        return kept
    return _announced(rate_for(module, seam.training_data(trainer), config, trainer), trainer)


def _announced(found: SuggestedRate, trainer: Any) -> float:
    """The rate for all ranks, which the first one logs."""
    lr = _of_first_rank(found.lr)
    if getattr(trainer, "is_global_zero", True):
        LOG.warning("lr='auto' is %s", found)
    return lr


def remember_rate(optimizer: Optimizer, lr: float) -> None:
    """Keep it in the groups, whose numbers go into checkpoints."""
    for group in optimizer.param_groups:
        group[FOUND_LR] = lr


def _rate_in_checkpoint(checkpoint: Mapping[str, Any], module: nn.Module) -> float | None:
    """What was found for these parameters when the run began."""
    ours = {plain_name(name) for name, _ in module.named_parameters()}
    groups = [group for state in checkpoint.get("optimizer_states", ()) for group in state["param_groups"]]
    known = [float(group[FOUND_LR]) for group in groups if FOUND_LR in group and ours & {*names_of(group)}]
    return known[0] if known else None


def _of_first_rank(lr: float) -> float:
    """Ranks have other batches each, and would find other rates."""
    if not (dist.is_available() and dist.is_initialized()):
        return lr
    shared = [lr]
    dist.broadcast_object_list(shared)
    return shared[0]
