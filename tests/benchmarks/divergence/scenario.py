"""What one run of the benchmark is, and the module that trains it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

import lightning_adam as la
from tests.benchmarks.divergence.data import Batch, Draw

Loss = Callable[[Tensor, Tensor], Tensor]
BatchFault = Callable[[int, Batch], Batch]
LossFault = Callable[[int, Tensor, Tensor], Tensor]
StateFault = Callable[[int, Optimizer], None]


def cross_entropy(out: Tensor, y: Tensor) -> Tensor:
    """Of classes, or of each character."""
    return F.cross_entropy(out.reshape(-1, out.shape[-1]).float(), y.reshape(-1))


def squared(out: Tensor, y: Tensor) -> Tensor:
    """Mean squared error; a single output is squeezed."""
    return F.mse_loss((out.squeeze(-1) if out.shape[-1] == 1 else out).float(), y.float())


@dataclass(frozen=True)
class Scenario:
    """One run.

    Attributes:
        name: unique.
        draw: draws a batch.
        net: makes the network.
        loss: of its output.
        steps: optimizer steps.
        cause: the code of its sickness; empty for a healthy run.
        accepted: other codes that name the same mistake (their remedy is the same).
        onset: step at which the sickness begins; a finding before it is a false alarm.
        cure: fields that are replaced to heal it.
        tier: ``core``, or ``hygiene`` where the cure does not change the loss; these are told apart.
        optimizer: name for the helper, or a function of parameters and learning rate.
        lr, betas, eps, weight_decay, schedule, warmup, clip: for the helper.
        factor: learning rate per step as a multiplier, through torch's LambdaLR and plain AdamW instead of the helper.
        precision, accumulate: for the Trainer.
        batch_fault, loss_fault, state_fault, init: what is broken, per step or at the start.
        manual: whether the module steps by itself; with ``zeroed=False`` it forgets zero_grad.
        resume: step at which the run is saved and taken up again; with ``resume_without_state`` the moments are lost.
        logits: modules that the monitor watches.
    """

    name: str
    draw: Draw
    net: Callable[[], nn.Module]
    loss: Loss = cross_entropy
    steps: int = 300
    cause: str = ""
    accepted: frozenset[str] = frozenset()
    onset: int = 0
    cure: Mapping[str, Any] = field(default_factory=dict)
    tier: str = "core"
    optimizer: str | Callable[[Any, float], Optimizer] = "adamw"
    lr: float = 1e-3
    betas: tuple[float, float] | None = None
    eps: float | None = None
    weight_decay: float = 0.01
    schedule: str = "constant"
    warmup: int = 0
    clip: float | None = None
    factor: Callable[[int], float] | None = None
    precision: Any = "32-true"
    accumulate: int = 1
    batch_fault: BatchFault | None = None
    loss_fault: LossFault | None = None
    state_fault: StateFault | None = None
    init: Callable[[nn.Module], None] | None = None
    manual: bool = False
    zeroed: bool = True
    resume: int = 0
    resume_without_state: bool = False
    logits: tuple[str, ...] = ()
    gan: bool = False

    def cured(self) -> Scenario:
        """The same run without the mistake."""
        return replace(self, **self.cure)


class Trained(L.LightningModule):
    """Trains a scenario's network, with what the scenario breaks."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__()
        self.scenario, self.net = scenario, scenario.net()
        if scenario.init is not None:
            scenario.init(self.net)
        self.automatic_optimization = not scenario.manual
        self.step_before = -1

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """The loss, spoilt if asked."""
        out = self.net(batch[0])
        loss = self.scenario.loss(out, batch[1])
        if self.scenario.loss_fault is not None:
            loss = self.scenario.loss_fault(self.global_step, loss, out)
        if not self.scenario.manual:
            return loss
        optimizer: Any = self.optimizers()
        if self.scenario.zeroed:
            optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Tamper with the optimizer's state."""
        if self.scenario.state_fault is not None and self.global_step != self.step_before:
            self.scenario.state_fault(self.global_step, self.trainer.optimizers[0])
        self.step_before = self.global_step

    def configure_optimizers(self) -> Any:
        """The helper's, or plain torch with a LambdaLR: both must be understood."""
        s = self.scenario
        if s.factor is None and isinstance(s.optimizer, str):
            given = {"betas": s.betas, "eps": s.eps, "weight_decay": s.weight_decay}
            kept = {k: v for k, v in given.items() if v is not None}
            return la.configure_optimizers(
                self, s.optimizer, lr=s.lr, schedule=s.schedule, warmup=s.warmup, clip=s.clip, total_steps=s.steps, **kept
            )
        parameters = [p for p in self.parameters() if p.requires_grad]
        if isinstance(s.optimizer, str):
            optimizer: Optimizer = torch.optim.AdamW(
                parameters, lr=s.lr, betas=s.betas or (0.9, 0.999), eps=s.eps or 1e-8, weight_decay=s.weight_decay
            )
        else:
            optimizer = s.optimizer(parameters, s.lr)
        if s.factor is None:
            return optimizer
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, s.factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Adversaries(L.LightningModule):
    """A GAN on digits with two optimizers, stepped by hand; D sees real images and G's."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__()
        from tests.benchmarks.divergence.models import mlp

        self.scenario, self.automatic_optimization = scenario, False
        self.g = mlp([16, 64, 64, 64])
        self.d = mlp([64, 64, 64, 1], lambda: nn.LeakyReLU(0.2))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """D's step, then G's, with the loss that does not saturate (Goodfellow et al. 2014)."""
        optimizers: Any = self.optimizers()
        real, noise = batch[0].clamp(-2, 2) / 2, torch.randn(len(batch[0]), 16)
        optimizers[0].zero_grad()
        loss = F.softplus(-self.d(real)).mean() + F.softplus(self.d(self.g(noise).detach())).mean()
        self.manual_backward(loss)
        optimizers[0].step()
        optimizers[1].zero_grad()
        self.manual_backward(F.softplus(-self.d(self.g(noise))).mean())
        optimizers[1].step()

    def configure_optimizers(self) -> Any:
        """Plain Adam for each; ``lr`` is D's, G has a tenth of it under a hopeless one."""
        s, betas = self.scenario, self.scenario.betas or (0.5, 0.999)
        return [
            torch.optim.Adam(self.d.parameters(), lr=s.lr, betas=betas),
            torch.optim.Adam(self.g.parameters(), lr=min(s.lr, 1e-3), betas=betas),
        ]
