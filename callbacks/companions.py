"""What special optimizers need of the training loop. The helper attaches them; each serves all optimizers of a trainer."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from lightning_adam.callbacks._lightning import loss_scale
from lightning_adam.errors import ConfigError
from lightning_adam.fresh_state import COMPANIONS_OWN
from lightning_adam.optimizers.adamz import AdamZ
from lightning_adam.optimizers.sophia import estimate_hessian, hessian_is_due

KEPT = COMPANIONS_OWN
"""The training weights while the averaged ones are in use: computing the way back would round them."""


class ManualRun(Callback):
    """Several optimizers stepped by hand: every trainable parameter must have one."""

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All optimizers are known.

        Raises:
            ConfigError: a trainable parameter is in no optimizer.
        """
        if not any(word in type(trainer.strategy).__name__ for word in ("DeepSpeed", "FSDP")):
            _refuse_untrained(trainer, pl_module)


def _refuse_untrained(trainer: Trainer, pl_module: LightningModule) -> None:
    trained = {id(p) for o in trainer.optimizers for group in o.param_groups for p in group["params"]}
    left = [name for name, p in pl_module.named_parameters() if p.requires_grad and id(p) not in trained]
    if left:
        raise ConfigError(
            f"{len(left)} trainable parameters are in no optimizer ({', '.join(left[:3])}): they would stay as they are. "
            "Freeze them with requires_grad_(False), or widen parameters= of one of the optimizers."
        )


class LossForAdamZ(Callback):
    """Hands each step's loss to AdamZ: under fp16 and in manual optimization its closure does not."""

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """The loss is known and not yet used."""
        for optimizer in trainer.optimizers:
            if isinstance(optimizer, AdamZ):
                optimizer.adam_arguments = {"loss": loss.detach() / loss_scale(trainer)}  # type: ignore[attr-defined]


class HessianForSophia(Callback):
    """Estimates the Hessian's diagonal every ``update_period`` steps, and hands it to Sophia; averaged over ranks."""

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """The loss still has its graph."""
        for optimizer in trainer.optimizers:
            if type(optimizer).__name__ == "SophiaH" and hessian_is_due(optimizer):
                estimates = estimate_hessian(optimizer, loss, loss_scale(trainer))
                hessian = [trainer.strategy.reduce(h, reduce_op="mean") for h in estimates]
                optimizer.adam_arguments = {"hessian": hessian}  # type: ignore[attr-defined]


class ScheduleFreeModes(Callback):
    """Switches schedule-free optimizers to their averaged weights for validation, checkpoints and the end."""

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train on the training weights."""
        self._switch(trainer, "train")

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the averaged weights."""
        self._switch(trainer, "eval")

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on training."""
        if trainer.training or trainer.state.fn == "fit":
            self._switch(trainer, "train")

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the averaged weights in the module."""
        self._switch(trainer, "eval")

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the averaged weights, with the training weights in the optimizer's state."""
        training = any(o.param_groups[0]["train_mode"] for o in _schedule_free(trainer))
        self._switch(trainer, "eval")
        checkpoint["state_dict"] = {k: v.clone() for k, v in trainer.strategy.lightning_module_state_dict().items()}
        states = [copy.deepcopy(trainer.strategy.optimizer_state(o)) for o in trainer.optimizers]
        checkpoint["optimizer_states"] = states
        if training:
            self._switch(trainer, "train")

    def _switch(self, trainer: Trainer, mode: str) -> None:
        for optimizer in _schedule_free(trainer):
            if mode == "eval" and optimizer.param_groups[0]["train_mode"]:
                _keep_training_weights(optimizer)
            getattr(optimizer, mode)()
            if mode == "train":
                _restore_training_weights(optimizer)


def _keep_training_weights(optimizer: Any) -> None:
    for parameter, state in optimizer.state.items():
        state[KEPT] = parameter.detach().clone()


def _restore_training_weights(optimizer: Any) -> None:
    for parameter, state in optimizer.state.items():
        if KEPT in state:
            parameter.data.copy_(state.pop(KEPT))


def _schedule_free(trainer: Trainer) -> Iterator[Any]:
    return (o for o in trainer.optimizers if "train_mode" in o.param_groups[0])
