"""The thirteenth round's faults of the plan and of the loop: rates, schedules, clipping, steps forgotten."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

from tests.benchmarks.preflight.data import chains, generator, loader
from tests.benchmarks.preflight.drifters_parts import Steps, dense, digits, irises, lenet, of, one_hot, run_of, scaled
from tests.benchmarks.preflight.outsiders_parts import ByHand
from tests.benchmarks.preflight.parts import Built, Learner, Words, next_word
from tests.benchmarks.preflight.register import faulty


def planned(maker: Any, epochs: int, interval: str = "epoch", lr: float = 1e-3, **options: Any) -> Built:
    """The digits under a schedule, in a run of so many epochs."""

    def schedule(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        return {"scheduler": maker(optimizer), "interval": interval}

    net = Learner(lenet(), F.cross_entropy, of(torch.optim.Adam, lr=lr), schedule)
    return net, loader(*digits()), run_of(epochs, **options)


@faulty("LR-LOW")
def a_millionth() -> Built:
    """TheDeepChecker's ``low_lr``: SGD at 1e-6."""
    return Learner(lenet(), F.cross_entropy, of(torch.optim.SGD, lr=1e-6)), loader(*digits()), run_of(10)


@faulty("LR-LOW")
def sixty_samples_and_a_ten_thousandth() -> Built:
    """A forum's 177433: SGD at 1e-4 without momentum, four small layers."""
    return (
        Learner(dense(4, 60, 100, 30, 3), F.cross_entropy, of(torch.optim.SGD, lr=1e-4)),
        loader(*irises(), size=10),
        run_of(20),
    )


@faulty("LR-HIGH")
def rate_of_one_for_a_lenet() -> Built:
    """TheDeepChecker's ``high_lr``."""
    return Learner(lenet(), F.cross_entropy, of(torch.optim.Adam, lr=1.0)), loader(*digits())


@faulty("LR-HIGH")
def rate_of_a_tenth_for_a_transformer() -> Built:
    """Adam at 0.1, because SGD wanted 0.1."""

    def loss(module: Any, batch: Any) -> Tensor:
        return next_word(module.net(batch[0][:, :-1]), batch[0][:, 1:])

    return Steps(loss, of(torch.optim.Adam, lr=0.1), net=Words()), loader(chains())


@faulty("LR-HIGH")
def grid_that_began_at_ten() -> Built:
    """A grid that began at the wrong end."""
    return Learner(lenet(), F.cross_entropy, of(torch.optim.SGD, lr=10.0)), loader(*digits())


@faulty("LR-HIGH", "INPUT-SCALE")
def hearts_at_a_half() -> Built:
    """TheDeepChecker's IPS 13: Adam at 0.5, batches of seven, columns as they were measured."""
    g = generator()
    x = torch.randn(462, 9, generator=g) * torch.tensor([20.0, 4, 2, 8, 1, 10, 4, 24, 15]) + 30
    y = (scaled(x)[:, 0] + scaled(x)[:, 8] > 0).long()
    return Learner(dense(9, 16, 2), one_hot(F.cross_entropy, 2), of(torch.optim.Adam, lr=0.5)), loader(x, y, size=7)


@faulty("SCHEDULE-NEVER-ARRIVES")
def one_cycle_turned_by_the_epoch() -> Built:
    """PyTorch 65417: steps × epochs of OneCycle, turned once each epoch."""
    return planned(lambda o: lr_scheduler.OneCycleLR(o, 0.01, steps_per_epoch=56, epochs=20), 20)


@faulty("SCHEDULE-COLLAPSED")
def linear_decay_over_the_epochs_by_the_step() -> Built:
    """Lightning 18570: ``num_training_steps=max_epochs``, ``interval="step"``."""
    return planned(lambda o: lr_scheduler.LambdaLR(o, lambda step: max(0.0, 1 - step / 20)), 20, "step")


@faulty("SCHEDULE-COLLAPSED")
def tenth_after_each_epoch() -> Built:
    """``StepLR(step_size=1)`` with the default gamma."""
    return planned(lambda o: lr_scheduler.StepLR(o, 1), 30)


@faulty("SCHEDULE-COLLAPSED")
def exponential_by_the_batch() -> Built:
    """``ExponentialLR(gamma=0.95)``, meant for epochs."""
    return planned(lambda o: lr_scheduler.ExponentialLR(o, 0.95), 30, "step")


@faulty("SCHEDULE-NEVER-ARRIVES")
def warmup_of_ten_thousand_steps() -> Built:
    """A large model's warmup in a run of 560 steps."""
    return planned(lambda o: lr_scheduler.LambdaLR(o, lambda step: min(1.0, (step + 1) / 10_000)), 10, "step")


@faulty("SCHEDULE-NEVER-ARRIVES", "UPDATE-LOST", "LR-LOW")
def warmup_by_whole_numbers() -> Built:
    """``step // 1000`` in the lambda: the rate is nought for the whole run."""
    return planned(lambda o: lr_scheduler.LambdaLR(o, lambda step: min(1, step // 1000)), 10, "step")


class Looped(ByHand):
    """The digits in a loop by hand."""

    def __init__(self, lr: float = 1e-3) -> None:
        super().__init__()
        self.net, self.lr = lenet(), lr

    def error(self, batch: Any) -> Tensor:
        """Cross entropy."""
        return F.cross_entropy(self.net(batch[0]), batch[1])


@faulty("GRAD-NOT-ZEROED")
def never_zeroed() -> Built:
    """60335387: ``optimizer.zero_grad()`` is missing."""

    class Forgot(Looped):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.manual_backward(self.error(batch))
            self.optimizers().step()

    return Forgot(), loader(*digits())


@faulty("GRAD-NOT-ZEROED")
def zeroed_by_the_epoch() -> Built:
    """``zero_grad`` stands before the inner loop: here in ``on_train_epoch_start``."""

    class Seldom(Looped):
        def on_train_epoch_start(self) -> None:
            self.optimizers().zero_grad()

        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.manual_backward(self.error(batch))
            self.optimizers().step()

    return Seldom(), loader(*digits())


@faulty("UPDATE-LOST", "ZERO-GRADIENT", "NO-GRADIENT")
def zeroed_before_the_step() -> Built:
    """``backward``, ``zero_grad``, ``step``."""

    class Lost(Looped):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.manual_backward(self.error(batch))
            self.optimizers().zero_grad()
            self.optimizers().step()

    return Lost(), loader(*digits())


@faulty("UPDATE-LOST")
def never_stepped() -> Built:
    """``zero_grad``, ``backward``, and no ``step``."""

    class Still(Looped):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.optimizers().zero_grad()
            self.manual_backward(self.error(batch))

    return Still(), loader(*digits())


@faulty("CLIP-ALWAYS")
def clipped_to_a_ten_thousandth() -> Built:
    """``gradient_clip_val=1e-4`` with SGD."""
    net = Learner(lenet(), F.cross_entropy, of(torch.optim.SGD, lr=0.1))
    return net, loader(*digits()), run_of(20, gradient_clip_val=1e-4)


@faulty("EPS-HIGH")
def epsilon_advised_for_imagenet() -> Built:
    """``tf.train.AdamOptimizer(epsilon=1.0)``, advised for Inception on ImageNet."""
    return Learner(lenet(), F.cross_entropy, of(torch.optim.Adam, lr=1e-3, eps=1.0)), loader(*digits()), run_of(5)


@faulty("UPDATE-LOST")
def weights_loaded_before_each_batch() -> Built:
    """For a fair comparison each epoch was to begin alike; the hook is the batch's."""

    class Reset(Learner):
        def __init__(self) -> None:
            super().__init__(lenet(), F.cross_entropy, of(torch.optim.Adam, lr=1e-3))
            self.first = {name: value.clone() for name, value in self.net.state_dict().items()}

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.net.load_state_dict(self.first)

    return Reset(), loader(*digits())


@faulty("LR-LOW")
def xor_with_twenty_epochs() -> Built:
    """34311586 with a sigmoid at last: SGD at 0.001, a batch an epoch, twenty epochs."""
    x = torch.tensor([[1.0, 1], [0, 0], [1, 0], [0, 1]]).repeat(8, 1)
    y = (x.sum(1, keepdim=True) == 1).float()
    net = dense(2, 8, 3, 1, act=nn.Tanh, last=nn.Sigmoid())
    return Learner(net, F.mse_loss, of(torch.optim.SGD, lr=1e-3, momentum=0.9)), loader(x, y), run_of(20)
