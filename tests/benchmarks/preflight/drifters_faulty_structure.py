"""The thirteenth round's faults of structure: initialisation, freezing, and what the optimizer holds."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import loader, pictures
from tests.benchmarks.preflight.drifters_parts import (
    Steps,
    dense,
    digits,
    irises,
    lenet,
    of,
    tumours,
)
from tests.benchmarks.preflight.outsiders_parts import Lit
from tests.benchmarks.preflight.parts import Built, Learner
from tests.benchmarks.preflight.register import faulty


def set_weights(net: nn.Module, fill: Any) -> nn.Module:
    """Each weight of two or more axes as ``fill`` makes it."""
    for weight in net.parameters():
        if weight.dim() > 1:
            fill(weight)
    return net


@faulty("GRAD-VANISHING")
def ten_layers_of_sigmoids() -> Built:
    """AutoTrainer: digits through ten layers, each with a sigmoid."""
    return Learner(dense(64, *[32] * 10, 10, act=nn.Sigmoid), F.cross_entropy, of(torch.optim.SGD, lr=0.01)), loader(
        *digits()
    )


@faulty("SYMMETRIC-INIT")
def all_weights_at_one_number() -> Built:
    """TheDeepChecker: ``constant_initializer(0.1)`` in every layer."""
    net = set_weights(dense(64, 64, 64, 10), lambda weight: nn.init.constant_(weight, 0.1))
    return Learner(net, F.cross_entropy, of(torch.optim.Adam, lr=1e-3)), loader(*digits())


@faulty("SYMMETRIC-INIT", "ZERO-GRADIENT")
def all_weights_at_zero() -> Built:
    """DeepFD: ``kernel_initializer="zeros"``."""
    net = set_weights(lenet(), nn.init.zeros_)
    return Learner(net, F.cross_entropy, of(torch.optim.SGD, lr=0.01)), loader(*digits())


@faulty("INIT-SCALE")
def random_normal_of_one() -> Built:
    """TensorFlow's ``random_normal`` in four layers of 500 units: the first loss is in the thousands."""
    net = set_weights(dense(64, 200, 200, 200, 10), nn.init.normal_)
    return Learner(net, F.cross_entropy, of(torch.optim.Adam, lr=3e-3)), loader(*digits())


@faulty("LR-HIGH", "INIT-SCALE")
def nielsens_rate_without_his_sigmoids() -> Built:
    """48385830: two linear layers drawn with a deviation of one, no activation, SGD at 3, mean square."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.Linear(30, 10))
    for weight in net.parameters():
        nn.init.normal_(weight)
    return Learner(net, one_hot_square, of(torch.optim.SGD, lr=3.0)), loader(*digits(), size=10)


def one_hot_square(told: Tensor, y: Tensor) -> Tensor:
    """Mean square against ``to_categorical``."""
    return F.mse_loss(told, F.one_hot(y, 10).float())


@faulty("DEAD-UNITS")
def biases_far_below_nought() -> Built:
    """``nn.init.constant_(bias, -10)`` before ReLUs."""
    net = dense(64, 64, 64, 10)
    for layer in net[1:-1]:
        if isinstance(layer, nn.Linear):
            nn.init.constant_(layer.bias, -10.0)
    return Learner(net, F.cross_entropy, of(torch.optim.Adam, lr=1e-3)), loader(*digits())


@faulty("FROZEN")
def all_but_the_norms_frozen() -> Built:
    """A forum's 84911: every weight without "bn" in its name, and then the new classifier too."""
    net = nn.Sequential()
    for name, layer in (("conv", nn.Conv2d(1, 16, 3)), ("bn", nn.BatchNorm2d(16)), ("act", nn.ReLU())):
        net.add_module(name, layer)
    net.add_module("pool", nn.AdaptiveAvgPool2d(2))
    net.add_module("flat", nn.Flatten())
    net.add_module("fc", nn.Linear(64, 10))
    for name, weight in net.named_parameters():
        weight.requires_grad = "bn" in name
    return Learner(net, F.cross_entropy, of(torch.optim.SGD, lr=0.01)), loader(*digits())


@faulty("FROZEN")
def new_head_frozen_with_the_rest() -> Built:
    """The head is set first, and the loop over all parameters comes after it; one bias is left."""
    net = lenet()
    net[8] = nn.Linear(64, 10)
    for weight in net.parameters():
        weight.requires_grad = False
    net[0].bias.requires_grad = True
    trained = of(torch.optim.Adam, lr=1e-3)
    return Learner(net, F.cross_entropy, lambda all_of: trained([p for p in all_of if p.requires_grad])), loader(*digits())


@faulty("OPTIMIZER-STALE")
def last_layer_got_its_classes_later() -> Built:
    """nni 4521: the optimizer was made in ``__init__``, and then the last layer got its number of classes."""

    class Late(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = lenet(1000)
            self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-3)
            self.net[8] = nn.Linear(64, 10)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return self.optimizer

    return Late(), loader(*digits())


@faulty("OPTIMIZER-STALE")
def optimizer_of_the_module_before_it_was_copied() -> Built:
    """The optimizer is a template's, the module trains ``copy.deepcopy`` of the template's net."""
    template = lenet()

    class Copied(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = copy.deepcopy(template)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(template.parameters(), lr=1e-3)

    return Copied(), loader(*digits())


@faulty("OPTIMIZER-MISSES")
def only_the_decoder_is_optimised() -> Built:
    """An autoencoder's ``configure_optimizers`` names one of its halves."""

    class Auto(Steps):
        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.decoder.parameters(), lr=1e-3)

    def loss(module: Any, batch: Any) -> Tensor:
        return F.mse_loss(module.decoder(module.encoder(batch[0])), batch[0].flatten(1))

    return Auto(loss, encoder=dense(64, 32, 8), decoder=dense(8, 32, 64)), loader(digits()[0])


@faulty("NOT-REGISTERED")
def layers_in_a_python_list() -> Built:
    """``self.layers = [nn.Linear(…) for …]``."""

    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.Linear(30, 30) for _ in range(3)]
            self.last = nn.Linear(30, 2)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x).relu()
            return self.last(x)

    x, y = tumours()
    return Learner(Listed(), F.cross_entropy, of(torch.optim.Adam, lr=1e-3)), loader(x, y.long())


@faulty("NOT-REGISTERED")
def weights_as_tensors_that_require_gradients() -> Built:
    """``self.w1 = torch.randn(…, requires_grad=True)`` beside a layer."""

    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w1 = (0.1 * torch.randn(64, 48)).requires_grad_()
            self.last = nn.Linear(48, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.last((x.flatten(1) @ self.w1).relu())

    return Learner(Raw(), F.cross_entropy, of(torch.optim.Adam, lr=1e-3)), loader(*digits())


@faulty("NOT-REGISTERED", "NONDETERMINISTIC")
def last_layer_is_made_in_forward() -> Built:
    """``nn.Linear(64, 10)(x)``: another one in each step."""

    class Anew(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(64, 64)

        def forward(self, x: Tensor) -> Tensor:
            return nn.Linear(64, 10)(self.first(x.flatten(1)).relu())

    return Learner(Anew(), F.cross_entropy, of(torch.optim.Adam, lr=1e-3)), loader(*digits())


@faulty("INIT-SCALE", "GRAD-EXPLODING")
def twelve_layers_drawn_too_wide() -> Built:
    """AutoTrainer's explosion: ``normal_(std=0.5)`` in layers of 64 units."""
    net = set_weights(dense(64, *[64] * 12, 10), lambda weight: nn.init.normal_(weight, std=0.5))
    return Learner(net, F.cross_entropy, of(torch.optim.SGD, lr=0.01)), loader(*digits())


@faulty("INIT-SCALE", "GRAD-VANISHING")
def ten_layers_drawn_too_narrow() -> Built:
    """``normal_(std=0.01)`` in every layer, as in old tutorials."""
    net = set_weights(dense(64, *[64] * 10, 10), lambda weight: nn.init.normal_(weight, std=0.01))
    return Learner(net, F.cross_entropy, of(torch.optim.Adam, lr=1e-3)), loader(*digits())


@faulty("SYMMETRIC-INIT")
def same_numbers_in_every_unit() -> Built:
    """``weight.data = torch.ones(…) / n`` in an LSTM's head and its two linear layers."""
    net = dense(4, 16, 16, 3, act=nn.Tanh)
    for weight in net.parameters():
        weight.data = torch.ones_like(weight) / weight.shape[-1]
    return Learner(net, F.cross_entropy, of(torch.optim.Adam, lr=1e-2)), loader(*irises(), size=16)


@faulty("ZERO-GRADIENT", "DEAD-UNITS")
def relu_of_what_is_never_positive() -> Built:
    """``-torch.abs(h)`` and then a ReLU: a slip for ``LeakyReLU(-1)``."""

    class Negative(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(144, 48), nn.Linear(48, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.two((-self.one(x.flatten(1)).abs()).relu())

    return Learner(Negative(), F.cross_entropy, of(torch.optim.Adam, lr=1e-3)), loader(*pictures())
