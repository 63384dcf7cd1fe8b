"""Kinds of faults in hooks, in steps by hand, and in the plan."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import nn
from torch.nn import functional as F

import lightning_adam as la
from tests.benchmarks.preflight.data import clusters, loader
from tests.benchmarks.preflight.outsiders_parts import ByHand
from tests.benchmarks.preflight.parts import Built, Stepped, perceptron
from tests.preflight_kinds import Kinds, test_kind_is_named_by_its_cause, test_what_looks_like_the_kind_is_let_pass  # noqa: F401

KINDS = Kinds()
sick, healthy = KINDS.sick, KINDS.healthy


class Hooked(Stepped):
    """SGD, so that clipping counts."""

    def __init__(self) -> None:
        super().__init__(lambda m, b: F.cross_entropy(m.net(b[0]), b[1]), net=perceptron(12, 4))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@sick("UPDATE-LOST")
def optimizer_step_that_only_calls_the_closure() -> Built:
    """Nobody steps."""

    class Model(Hooked):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            optimizer_closure()

    return Model(), loader(*clusters())


@sick("CLIP-ALWAYS")
def clipped_to_nothing_in_a_hook() -> Built:
    """The trainer knows nothing of it."""

    class Model(Hooked):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            nn.utils.clip_grad_norm_(self.parameters(), 1e-4)

    return Model(), loader(*clusters())


class Manual(ByHand):
    """One net, one optimizer, and a schedule that someone has to step."""

    lr, sign, warmup = 1e-3, 1.0, 0

    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron(12, 4)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        loss = self.sign * F.cross_entropy(self.net(batch[0]), batch[1])
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(optimizer, gradient_clip_val=1.0)
        optimizer.step()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.net.parameters(), lr=self.lr)
        rise = lambda step: min(1.0, (step + 1) / self.warmup) if self.warmup else 0.9**step  # noqa: E731
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, rise)]


class SteppedByEpoch(Manual):
    """As Lightning's page on manual optimization has it."""

    def on_train_epoch_end(self) -> None:
        self.lr_schedulers().step()


@healthy
def by_hand_with_a_clip_and_a_schedule() -> Built:
    return SteppedByEpoch(), loader(*clusters())


@sick("SCHEDULE-NEVER-ARRIVES")
def nobody_steps_the_warmup() -> Built:
    """Under manual optimization Lightning does not."""
    module = Manual()
    module.warmup = 1000
    return module, loader(*clusters())


@sick("WRONG-SIGN")
def by_hand_with_a_minus() -> Built:
    module = SteppedByEpoch()
    module.sign = -1.0
    return module, loader(*clusters())


@sick("LR-HIGH")
def by_hand_at_a_rate_of_twenty() -> Built:
    """SGD with momentum: a hundred times too much."""

    class Model(SteppedByEpoch):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.net.parameters(), lr=20.0, momentum=0.9)
            return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]

    return Model(), loader(*clusters())


@sick("SCHEDULE-COLLAPSED")
def plateau_that_waits_for_a_loss_to_rise() -> Built:
    """``mode="max"`` of ``val_loss``."""

    class Model(Hooked):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max")
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}

    return Model(), loader(*clusters())


@sick("SCHEDULE-COLLAPSED")
def schedule_of_the_second_optimizer() -> Built:
    """The first one's is well."""

    class Pair(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = perceptron(12, 12), perceptron(12, 4)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            loss = F.cross_entropy(self.head(self.body(batch[0])), batch[1])
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(loss)
            for part in (*self.optimizers(), *self.lr_schedulers()):
                part.step()

        def configure_optimizers(self) -> Any:
            both = [torch.optim.Adam(net.parameters(), lr=1e-3) for net in (self.body, self.head)]
            schedules = [torch.optim.lr_scheduler.StepLR(o, size, 0.1) for o, size in zip(both, (1000, 2), strict=True)]
            return both, schedules

    return Pair(), loader(*clusters())


class Followed(Hooked):
    """A slow copy follows behind each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = [p.detach().clone() for p in self.net.parameters()]

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        for slow, fast in zip(self.slow, self.net.parameters(), strict=True):
            slow.lerp_(fast.detach(), 0.001)


@sick("UPDATE-LOST")
def weights_written_over_behind_each_batch() -> Built:
    """By their average, which a thousandth of each step gets into."""

    class Model(Followed):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_end(outputs, batch, batch_idx)
            for slow, fast in zip(self.slow, self.net.parameters(), strict=True):
                fast.data.copy_(slow)

    return Model(), loader(*clusters())


@healthy
def average_kept_in_a_copy() -> Built:
    return Followed(), loader(*clusters())


@sick("SCHEDULE-NEVER-ARRIVES")
def warmup_that_lasts_longer_than_the_run() -> Built:
    """Thirty epochs of a hundred."""

    class Model(Hooked):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 100))]

    return Model(), loader(*clusters()), {"trainer": L.Trainer(max_epochs=30, logger=False)}


@healthy
def schedule_stepped_at_each_fourth_batch() -> Built:
    """As often as the optimizer, and the run is as long as that."""

    class Model(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(12, 4)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]) / 4)
            if (batch_idx + 1) % 4 == 0:
                self.optimizers().step()
                self.optimizers().zero_grad()
                self.lr_schedulers().step()

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-3)
            return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=150)]

    return Model(), loader(*clusters()), {"trainer": L.Trainer(max_epochs=20, logger=False)}


def test_what_a_hook_behind_each_batch_changes_is_set_back() -> None:
    """Its own averages, which no state dict knows, and the weights."""
    module = Followed()
    before = [p.detach().clone() for p in (*module.slow, *module.parameters())]

    la.preflight(module, loader(*clusters()))

    assert all(torch.equal(a, b) for a, b in zip(before, (*module.slow, *module.parameters()), strict=True))


def ramp(begins: int) -> Built:
    """Nothing at first, and the whole rate from a step on."""

    class Late(Stepped):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
            late = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(step >= begins))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": late, "interval": "step"}}

    module = Late(lambda m, b: F.cross_entropy(m.net(b[0]), b[1]), net=perceptron(12, 4))
    return module, loader(*clusters()), {"trainer": L.Trainer(max_epochs=10, logger=False)}


@sick("SCHEDULE-NEVER-ARRIVES")
def rate_that_begins_behind_the_end() -> Built:
    """It is 0 for all of the 300 steps."""
    return ramp(400)


@healthy
def rate_that_begins_after_some_steps() -> Built:
    """It is 0 for ten."""
    return ramp(10)


def at_rate(lr: float, width: int) -> Built:
    """A perceptron on clusters that are easy to tell apart."""

    class Fast(Stepped):
        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=lr)

    net = perceptron(12, 4, width=width)
    return Fast(lambda m, b: F.cross_entropy(m.net(b[0]), b[1]), net=net), loader(*clusters())


@sick("LR-HIGH")
def rate_that_throws_the_start_away() -> Built:
    """The loss is first many times as large, and small in the end: the first steps replace all weights."""
    return at_rate(0.15, width=64)


@healthy
def rate_of_a_hundredth_on_a_small_net() -> Built:
    """Steps of a tenth of the weights, under which the loss falls from the start."""
    return at_rate(0.01, width=24)


class Helped(Stepped):
    """The helper's optimizer, as configured."""

    def __init__(self, *arguments: Any, **configured: Any) -> None:
        super().__init__(lambda m, b: F.cross_entropy(m.net(b[0]), b[1]), net=perceptron(12, 4))
        self.arguments, self.configured = arguments, configured

    def configure_optimizers(self) -> Any:
        return la.configure_optimizers(self, *self.arguments, **self.configured)


def of_three_epochs(module: L.LightningModule) -> Built:
    """Ninety steps."""
    return module, loader(*clusters()), {"trainer": L.Trainer(max_epochs=3, logger=False, enable_checkpointing=False)}


@sick("SCHEDULE-NEVER-ARRIVES")
def warmup_of_the_helper_longer_than_the_trainers_run() -> Built:
    """Four thousand steps from a paper."""
    return of_three_epochs(Helped("adamw", lr=1e-3, schedule="cosine", warmup=4000, total_steps=5000))


@healthy
def warmup_of_the_helper_within_the_trainers_run() -> Built:
    """The schedule is made for a longer run, and gets to its peak."""
    return of_three_epochs(Helped("adamw", lr=1e-3, schedule="cosine", warmup=20, total_steps=5000))


@sick("LR-HIGH")
def signs_at_a_rate_that_adam_bears() -> Built:
    """Each step of Lion is as large as its rate, to the end."""
    return of_three_epochs(Helped("lion", lr=0.1, schedule="constant", warmup=0))


@healthy
def signs_at_a_tenth_of_adams_rate() -> Built:
    """As Chen et al. 2023 advise."""
    return of_three_epochs(Helped("lion", lr=1e-3, schedule="constant", warmup=0))
