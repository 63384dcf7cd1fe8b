"""The sixteenth round's faults of the step: updates that are lost, written over or piled up."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.benchmarks.preflight.data import rows
from tests.benchmarks.preflight.parts import Built
from tests.benchmarks.preflight.register import faulty
from tests.benchmarks.preflight.sojourners_healthy import Glyphs, drawings
from tests.benchmarks.preflight.sojourners_healthy_generative import (
    Denoiser,
    Follower,
    pairs,
    plain,
)
from tests.benchmarks.preflight.sojourners_healthy_tables import Claims
from tests.benchmarks.preflight.sojourners_parts import (
    ByHand,
    clients,
    dense,
)


class Hand(ByHand):
    """A table, by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.net = dense(5, 48, 1)

    def compute(self, batch: Any) -> Tensor:
        """Mean square."""
        return F.mse_loss(self.net(batch["x"]).squeeze(-1), batch["amount"])


@faulty("GRAD-NOT-ZEROED")
def gradients_of_all_steps_together() -> Built:
    """Manual optimization, ``zero_grad`` was forgotten."""

    class Piling(Hand):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.manual_backward(self.compute(batch))
            self.optimizers().step()

    return Piling(), rows(**clients())


@faulty("UPDATE-LOST", "ZERO-GRADIENT")
def gradients_cleared_before_the_step() -> Built:
    """backward, zero_grad, step."""

    class Cleared(Hand):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            self.manual_backward(self.compute(batch))
            optimizer.zero_grad()
            optimizer.step()

    return Cleared(), rows(**clients())


@faulty("UPDATE-LOST")
def step_that_is_never_made() -> Built:
    """backward, and the step only every thousandth batch of an epoch of thirty."""

    class Never(Hand):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.compute(batch))
            if (batch_idx + 1) % 1000 == 0:
                optimizer.step()

    return Never(), rows(**clients())


@faulty("UPDATE-LOST")
def slow_copy_written_over_the_quick_one() -> Built:
    """The average goes into the layer that is trained."""

    class Backwards(Denoiser):
        def on_train_batch_end(self, *_: Any) -> None:
            for kept, new in zip(self.average.parameters(), self.leave.parameters(), strict=True):
                new.data.copy_(kept.data)

    return Backwards(), plain()


@faulty("UPDATE-LOST")
def weights_loaded_at_each_step() -> Built:
    """The checkpoint is loaded in ``on_train_batch_start``."""

    class Loading(Glyphs):
        def __init__(self) -> None:
            super().__init__()
            self.first = copy.deepcopy(self.net.state_dict())

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.net.load_state_dict(self.first)

    return Loading(), drawings()


@faulty("UPDATE-LOST", "NO-GRADIENT")
def step_that_returns_nothing() -> Built:
    """``return`` was forgotten: Lightning skips the step."""

    class Nothing(Claims):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.log("loss", self.compute(batch))

    return Nothing(), rows(**clients())


@faulty("OPTIMIZER-MISSES", "OPTIMIZER-STALE", "UPDATE-LOST", "FROZEN")
def slow_copy_in_the_optimizer() -> Built:
    """``self.slow.parameters()`` where the quick ones were meant."""

    class Slow(Follower):
        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW([*self.slow.parameters(), *self.predictor.parameters()], lr=1e-3)

    return Slow(), pairs()
