"""Several optimizers stepped by hand: what can only be known when all of them are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer
from typing_extensions import override

from lightning_adam.errors import ConfigError
from lightning_adam.guided import GuidedStep
from lightning_adam.plain_names import plain_name


class ManualRun(Callback):
    """Every trainable parameter must be in one of them, and in one only."""

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All optimizers are known.

        Raises:
            ConfigError: a trainable parameter is in no optimizer, or in two.
        """
        _refuse_shared(trainer.optimizers, {id(p): name for name, p in pl_module.named_parameters()})
        if not any(word in type(trainer.strategy).__name__ for word in ("DeepSpeed", "FSDP")):
            _refuse_untrained(trainer, pl_module)


def _refuse_shared(optimizers: Sequence[Optimizer], names: Mapping[int, str]) -> None:
    """Among the helper's optimizers: whoever makes one by hand over the weights of another means to."""
    owners: dict[int, int] = {}
    for position, optimizer in enumerate(optimizers, 1):
        groups = optimizer.param_groups if isinstance(optimizer, GuidedStep) else []
        for key in (id(p) for group in groups for p in group["params"]):
            owner = owners.setdefault(key, position)
            if owner != position:
                name = plain_name(names.get(key, "A parameter"))
                raise ConfigError(
                    f"{name} is in two optimizers (number {owner} and {position}): both would step it. Narrow parameters= "
                    "of one of them."
                )


def _refuse_untrained(trainer: Trainer, pl_module: LightningModule) -> None:
    trained = {id(p) for o in trainer.optimizers for group in o.param_groups for p in group["params"]}
    left = [name for name, p in pl_module.named_parameters() if p.requires_grad and id(p) not in trained]
    if left:
        raise ConfigError(
            f"{len(left)} trainable parameters are in no optimizer ({', '.join(left[:3])}): they would stay as they are. "
            "Freeze them with requires_grad_(False), or widen parameters= of one of the optimizers."
        )
