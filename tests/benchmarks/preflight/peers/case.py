"""One case of the benchmark as a tool is given it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import lightning as L
import torch
from torch import Tensor

from tests.benchmarks.preflight.cases import FAULTY, HEALTHY
from tests.benchmarks.preflight.parts import Built, Learner


class Unfit(Exception):
    """The tool is not made for such a case: it counts as not judged, neither as an alarm nor as a name."""


def build(name: str) -> Built:
    """Module, data and options, the same each time."""
    L.seed_everything(0, verbose=False)
    return (FAULTY[name][1] if name in FAULTY else HEALTHY[name])()


@dataclass(frozen=True)
class Case:
    """A case's name; what is made of it is made once."""

    name: str

    @cached_property
    def built(self) -> Built:
        """Module, data, and maybe arguments of ``preflight``."""
        return build(self.name)

    @property
    def module(self) -> Any:
        """The LightningModule."""
        return self.built[0]

    @cached_property
    def loader(self) -> Any:
        """Batches for training."""
        data = self.built[1]
        if not isinstance(data, L.LightningDataModule):
            return data
        data.setup("fit")
        return data.train_dataloader()

    @cached_property
    def batch(self) -> Any:
        """The first one."""
        return next(iter(self.loader))

    @property
    def has_forward(self) -> bool:
        """Whether the module can be called, as most tools want it."""
        return type(self.module).forward is not L.LightningModule.forward

    def automatic(self) -> Case:
        """Itself, set up, where ``training_step`` gives a loss without a Trainer."""
        if not self.module.automatic_optimization:
            raise Unfit("manual optimization needs a Trainer")
        self.module.setup("fit")
        return self

    def optimizer(self) -> torch.optim.Optimizer:
        """The module's own, the first one; with a Trainer only meanwhile, for those that ask for the run's length."""
        self.module.trainer = L.Trainer(max_steps=1000, logger=False, enable_checkpointing=False, enable_progress_bar=False)
        made = self.module.configure_optimizers()
        self.module.trainer = None
        made = made["optimizer"] if isinstance(made, dict) else made
        while isinstance(made, (list, tuple)):
            made = made[0]
        return made

    def pair(self) -> tuple[Tensor, Tensor]:
        """Input and target of a module that is a net and a loss of the two."""
        if not isinstance(self.module, Learner) or not all(isinstance(part, Tensor) for part in self.batch):
            raise Unfit("needs a net, a loss and a pair of tensors")
        inputs, targets = self.batch
        return inputs, targets
