"""Several optimizers stepped by hand: what can only be known when all of them are there."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer
from typing_extensions import override

from lightning_adam.config import OptimizerConfig
from lightning_adam.errors import ConfigError
from lightning_adam.guided import GuidedStep
from lightning_adam.planning import plan
from lightning_adam.schedules import Schedule


class ManualRun(Callback):
    """They share ``max_steps``, and every trainable parameter must be in one of them, and in one only."""

    def __init__(self) -> None:
        self._expected: list[tuple[Schedule, OptimizerConfig]] = []

    def expect(self, schedule: Schedule, config: OptimizerConfig) -> None:
        """The helper has made one of the optimizers."""
        self._expected.append((schedule, config))

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All optimizers are known, and nothing is restored yet.

        Raises:
            ConfigError: a trainable parameter is in no optimizer, or in two.
        """
        for schedule, config in self._expected:
            schedule.follow(plan(config, trainer, len(trainer.optimizers)))
        self._expected = []
        _refuse_shared(trainer.optimizers)
        if not any(word in type(trainer.strategy).__name__ for word in ("DeepSpeed", "FSDP")):
            _refuse_untrained(trainer, pl_module)


def _refuse_shared(optimizers: Sequence[Optimizer]) -> None:
    """Among the helper's optimizers: whoever makes one by hand over the weights of another means to."""
    owners: dict[int, int] = {}
    for position, optimizer in enumerate(optimizers):
        groups = optimizer.param_groups if isinstance(optimizer, GuidedStep) else []
        for name, parameter in ((n, p) for g in groups for n, p in zip(g["adam_names"], g["params"], strict=True)):
            if owners.setdefault(id(parameter), position) != position:
                raise ConfigError(
                    f"{name} is in two optimizers (the {owners[id(parameter)] + 1}. and the {position + 1}.): both would "
                    "step it. Narrow parameters= of one of them."
                )


def _refuse_untrained(trainer: Trainer, pl_module: LightningModule) -> None:
    trained = {id(p) for o in trainer.optimizers for group in o.param_groups for p in group["params"]}
    left = [name for name, p in pl_module.named_parameters() if p.requires_grad and id(p) not in trained]
    if left:
        raise ConfigError(
            f"{len(left)} trainable parameters are in no optimizer ({', '.join(left[:3])}): they would stay as they are. "
            "Freeze them with requires_grad_(False), or widen parameters= of one of the optimizers."
        )
