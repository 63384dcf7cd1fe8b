"""What a monitor asks of whoever trains: Lightning's Trainer, Fabric, a plain loop, Hugging Face's Trainer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_adam.gradient_norms import GradientNorms
from lightning_adam.monitoring.sink import Sink


@dataclass(frozen=True)
class Plan:
    """What is planned for one optimizer.

    Attributes:
        schedule: name of the helper's schedule; empty where the schedule is not the helper's.
        warmup: its warmup in optimizer steps; NaN where it is not known.
        total_steps: length of the run in optimizer steps; NaN where it is not known.
        configuration: its groups, schedule and clipping as Markdown.
    """

    schedule: str = ""
    warmup: float = math.nan
    total_steps: float = math.nan
    configuration: str = ""


class Run(Protocol):
    """One training run, as a monitor sees it. Optimizers are named by their position among ``optimizers``."""

    @property
    def module(self) -> nn.Module:
        """The network, without wrappers."""

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        """All of them, in the order of their positions."""

    @property
    def sinks(self) -> Sequence[Sink]:
        """Where it is logged to; empty on all ranks but the main one."""

    @property
    def log_interval(self) -> int:
        """Optimizer steps between two logged ones; 0 for never."""

    @property
    def accumulation(self) -> int:
        """What each loss was divided by before its backward."""

    @property
    def loss_scale(self) -> Tensor | float | None:
        """What fp16 multiplies the loss by, on its device where that saves a wait; None without a gradient scaler."""

    @property
    def clip_norm(self) -> float:
        """The total norm that the loop itself clips to, beside the helper's rule; NaN where it does not."""

    def norms_of_clipping(self, optimizer: Optimizer) -> GradientNorms | None:
        """What clipping measured when it clipped this optimizer's gradients last, the helper's rule or the trainer's own
        clipping; None where nobody tells."""

    @property
    def flat_shards(self) -> bool:
        """Whether each rank holds a flat stretch of every parameter (FSDP1)."""

    @property
    def has_batches(self) -> bool:
        """Whether it says when gradients are complete and a batch is over; else all happens in the optimizer's step."""

    @property
    def mode(self) -> str:
        """Who calls backward and step: ``automatic`` (Lightning), ``manual`` (training_step) or ``loop``."""

    @property
    def fits_again(self) -> bool:
        """Whether it goes on from the step of an earlier fit with new optimizers, and without a checkpoint."""

    @property
    def is_main(self) -> bool:
        """Whether this rank writes and speaks."""

    def step(self, position: int) -> int:
        """The log's x-axis for the optimizer's present step: the same before, during and right after it."""

    def gradient_scale(self, optimizer: Optimizer) -> Tensor | float:
        """What its gradients still carry of fp16's scale when they are complete; 1 for nothing."""

    def plan(self, position: int) -> Plan:
        """What is planned for the optimizer."""

    def any_rank(self, decision: bool) -> bool:
        """Whether any rank decides so; all ranks ask together."""

    def schedulers(self) -> Sequence[Any]:
        """torch's schedulers, whose base rates change when a rate is lowered."""

    def averages(self) -> Sequence[Mapping[str, Any]]:
        """Averages of the weights that others keep, by name, the tensors themselves: they go back with the weights."""

    def stop(self) -> str:
        """End the run after this step; says in words where everything was saved."""

    def tell(self, line: str) -> None:
        """A line for the user's console, from the main rank."""

    def end(self) -> None:
        """Nobody watches any more: take back what was put at who trains."""
