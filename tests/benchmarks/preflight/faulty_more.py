"""More faulty models: structure."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import clusters, loader, pictures, waves
from tests.benchmarks.preflight.parts import Built, Learner, Recurrent, classes, convnet, perceptron, sgd
from tests.benchmarks.preflight.register import faulty


@faulty("OPTIMIZER-STALE")
def head_replaced_later() -> Built:
    class Model(Learner):
        def __init__(self) -> None:
            super().__init__(perceptron(12, 9), F.cross_entropy)
            self.made = torch.optim.Adam(self.parameters(), lr=1e-3)
            self.net[4] = nn.Linear(48, 4)

        def configure_optimizers(self) -> Any:
            return self.made

    return Model(), loader(*clusters())


@faulty("OPTIMIZER-MISSES")
def head_forgotten() -> Built:
    class Model(Learner):
        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.net[:3].parameters(), lr=1e-3)

    return Model(perceptron(12, 4), F.cross_entropy), loader(*clusters())


@faulty("FROZEN")
def all_frozen_but_norms() -> Built:
    net = convnet(norm=True)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name.startswith(("1.", "5.")))
    return Learner(net, F.cross_entropy), loader(*pictures())


@faulty("NOT-REGISTERED")
def layers_in_a_dict() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = {"one": nn.Linear(12, 32), "two": nn.Linear(32, 32)}
            self.head = nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            for part in self.parts.values():
                x = F.relu(part(x))
            return self.head(x)

    return classes(Net())


@faulty("NOT-REGISTERED")
def layer_made_in_forward() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(12, 32)

        def forward(self, x: Tensor) -> Tensor:
            return nn.Linear(32, 4)(F.relu(self.body(x)))

    return classes(Net())


@faulty("EVAL-MODE")
def left_in_eval() -> Built:
    net = convnet(norm=True).eval()
    return Learner(net, F.cross_entropy), loader(*pictures())


@faulty("EVAL-MODE")
def eval_after_metrics() -> Built:
    class Model(Learner):
        def on_train_epoch_start(self) -> None:
            self.eval()

    net = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Dropout(0.4), nn.Linear(64, 4))
    return Model(net, F.cross_entropy), loader(*clusters())


@faulty("SYMMETRIC-INIT")
def all_constant() -> Built:
    net = perceptron(12, 4, act=nn.Tanh)
    for parameter in net.parameters():
        nn.init.constant_(parameter, 0.05)
    return classes(net)


@faulty("SYMMETRIC-INIT")
def all_zero() -> Built:
    net = convnet()
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    return Learner(net, F.cross_entropy), loader(*pictures())


@faulty("INIT-SCALE")
def normal_of_one() -> Built:
    net = perceptron(12, 4, width=128)
    for layer in net[::2]:
        nn.init.normal_(layer.weight)
    return classes(net)


@faulty("INIT-SCALE")
def nearly_zero() -> Built:
    net = perceptron(12, 4)
    for layer in net[::2]:
        nn.init.normal_(layer.weight, std=1e-4)
    return classes(net)


@faulty("NO-GRADIENT")
def body_under_no_grad() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = perceptron(12, 32), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                h = self.body(x)
            return self.head(F.relu(h))

    return classes(Net())


@faulty("NO-GRADIENT")
def branch_never_called() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.gate, self.head = nn.Linear(12, 32), nn.Linear(12, 32), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.body(x)))

    return classes(Net())


@faulty("ZERO-GRADIENT", "NO-GRADIENT")
def rounded_inside() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(12, 32), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.round(self.body(x)))

    return classes(Net())


@faulty("DEAD-UNITS")
def biases_far_down() -> Built:
    net = convnet()
    nn.init.constant_(net[4].bias, -20.0)
    return Learner(net, F.cross_entropy), loader(*pictures())


@faulty("GRAD-VANISHING")
def sixteen_sigmoids() -> Built:
    layers: list[nn.Module] = [nn.Linear(12, 24)]
    for _ in range(15):
        layers += [nn.Sigmoid(), nn.Linear(24, 24)]
    return classes(nn.Sequential(*layers, nn.Sigmoid(), nn.Linear(24, 4)), optimizer=sgd(0.05))


@faulty("GRAD-EXPLODING", "INIT-SCALE")
def recurrent_growth() -> Built:
    net = Recurrent(nn.RNN, nonlinearity="relu")
    nn.init.orthogonal_(net.cell.weight_hh_l0, 2.5)
    return Learner(net, F.cross_entropy, sgd(0.05)), loader(*waves(length=40))


@faulty("GRAD-NOT-ZEROED")
def by_hand_never_cleared() -> Built:
    class Model(Learner):
        def __init__(self) -> None:
            super().__init__(perceptron(12, 4), F.cross_entropy)
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
            self.manual_backward(self.loss_of(self(batch[0]), batch[1]))
            self.optimizers().step()

    return Model(), loader(*clusters())


@faulty("GRAD-NOT-ZEROED")
def zero_grad_emptied() -> Built:
    class Model(Learner):
        def optimizer_zero_grad(self, *_: Any) -> None:
            return None

    return Model(perceptron(12, 4), F.cross_entropy), loader(*clusters())
