"""What special optimizers need of the training loop. The helper attaches them; each serves all optimizers of a trainer."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from lightning_adam.callbacks._lightning import loss_share
from lightning_adam.fresh_state import COMPANIONS_OWN
from lightning_adam.optimizers.adamz import AdamZ
from lightning_adam.optimizers.sophia import estimate_hessian, hessian_is_due, takes_hessian

KEPT = COMPANIONS_OWN
"""The training weights while the averaged ones are in use: computing the way back would round them."""


class LossForAdamZ(Callback):
    """Hands each step's loss to AdamZ: under fp16 and in manual optimization its closure does not."""

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """The loss is known and not yet used."""
        for optimizer in (o for o in trainer.optimizers if isinstance(o, AdamZ)):
            passes = _pass_of_step(trainer, optimizer)
            mean = loss.detach() / loss_share(trainer)
            if passes > 1:
                mean = torch.lerp(optimizer.adam_arguments["loss"], mean, 1 / passes)  # type: ignore[attr-defined]
            optimizer.adam_arguments = {"loss": mean}  # type: ignore[attr-defined]

    @override
    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """A step that fp16 left out has not taken what it was given."""
        vars(optimizer).pop("adam_arguments", None)


class HessianForSophia(Callback):
    """Estimates the Hessian's diagonal every ``update_period`` steps, and hands it to Sophia; averaged over ranks.

    Under accumulation the first micro-batch gives it: the authors, too, estimate on a part of the batch (section 2.3).
    """

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """The loss still has its graph."""
        for optimizer in (o for o in trainer.optimizers if takes_hessian(o) and hessian_is_due(o)):
            if _pass_of_step(trainer, optimizer) > 1:
                continue
            estimates = estimate_hessian(optimizer, loss, loss_share(trainer))
            if not estimates:
                continue
            hessian = [trainer.strategy.reduce(h, reduce_op="mean") for h in estimates]
            optimizer.adam_arguments = {"hessian": hessian}  # type: ignore[attr-defined]

    @override
    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """A step that fp16 left out has not taken what it was given."""
        vars(optimizer).pop("adam_arguments", None)


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


def _pass_of_step(trainer: Trainer, optimizer: Any) -> int:
    """Which of its step's backward passes this is, from 1; a step takes ``adam_arguments`` away.

    Each pass tells something, and the step takes the mean over its own passes: under accumulation a step has several. Where
    several optimizers are stepped by hand, nobody knows whose a pass is: the last one counts.
    """
    is_first = not hasattr(optimizer, "adam_arguments") or len(trainer.optimizers) > 1
    optimizer.adam_passes = 1 if is_first else optimizer.adam_passes + 1
    return int(optimizer.adam_passes)


def _keep_training_weights(optimizer: Any) -> None:
    for parameter, state in optimizer.state.items():
        state[KEPT] = parameter.detach().clone()


def _restore_training_weights(optimizer: Any) -> None:
    for parameter, state in optimizer.state.items():
        if KEPT in state:
            parameter.data.copy_(state.pop(KEPT))


def _schedule_free(trainer: Trainer) -> Iterator[Any]:
    return (o for o in trainer.optimizers if "train_mode" in o.param_groups[0])
