"""More faulty models: structure, behaviour and plan."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.faulty import FAULTY, classes, faulty
from tests.benchmarks.preflight.parts import (
    Built,
    Learner,
    Recurrent,
    Words,
    adam,
    chains,
    clusters,
    convnet,
    curve,
    loader,
    next_word,
    perceptron,
    pictures,
    sgd,
    value,
    waves,
)

__all__ = ["FAULTY"]


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


@faulty("BATCH-MIXING")
def batch_first_missing() -> Built:
    return Learner(Recurrent(nn.LSTM, batch_first=False), F.cross_entropy), loader(*waves())


@faulty("BATCH-MIXING")
def view_for_transpose() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRU(3, 24), nn.Linear(24, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(x.view(x.shape[1], x.shape[0], x.shape[2]))[0][-1])

    return Learner(Net(), F.cross_entropy), loader(*waves())


@faulty("BATCH-MIXING")
def attention_over_samples() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.mix, self.head = nn.Linear(3, 16), nn.MultiheadAttention(16, 2), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            return self.head(h + self.mix(h, h, h)[0]).mean(1)

    return Learner(Net(), F.cross_entropy), loader(*waves())


@faulty("NOT-CAUSAL")
def convolution_sees_ahead() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.mix, self.head = nn.Embedding(24, 32), nn.Conv1d(32, 32, 3, padding=1), nn.Linear(32, 24)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(F.relu(self.mix(self.table(tokens).transpose(1, 2))).transpose(1, 2))

    tokens = chains()
    return Learner(Net(), next_word), loader(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), size=16)


@faulty("NOT-CAUSAL")
def both_directions() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRU(3, 24, batch_first=True, bidirectional=True), nn.Linear(48, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(x)[0])

    x = waves()[0].cumsum(1) / 4
    return Learner(Net(), F.mse_loss), loader(x[:, :-1].contiguous(), x[:, 1:].contiguous())


@faulty("NOT-CAUSAL")
def shifted_in_step_without_mask() -> Built:
    class Model(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Words(causal=False)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            (tokens,) = batch
            logits = self.net(tokens)[:, :-1]
            return F.cross_entropy(logits.reshape(-1, 24), tokens[:, 1:].reshape(-1))

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    return Model(), loader(chains(), size=16)


@faulty("IGNORES-INPUT")
def wrong_variable() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(torch.zeros_like(x))

    return classes(Net())


@faulty("IGNORES-INPUT")
def norm_over_one_feature() -> Built:
    net = nn.Sequential(perceptron(6, 1), nn.LayerNorm(1))
    return Learner(net, value), loader(*curve())


@faulty("NONDETERMINISTIC")
def dropout_always_on() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(12, 64), nn.Linear(64, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.dropout(F.relu(self.body(x)), 0.3))

    return classes(Net())


@faulty("UPDATE-LOST")
def weights_written_over() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(12, 32), nn.Linear(32, 4)
            self.start = self.body.weight.detach().clone()

        def forward(self, x: Tensor) -> Tensor:
            self.body.weight.data.copy_(self.start)
            return self.head(F.relu(self.body(x)))

    return classes(Net())


@faulty("UPDATE-LOST", "LR-LOW")
def by_hand_never_stepped() -> Built:
    class Model(Learner):
        def __init__(self) -> None:
            super().__init__(perceptron(12, 4), F.cross_entropy)
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
            self.optimizers().zero_grad()
            self.manual_backward(self.loss_of(self(batch[0]), batch[1]))

    return Model(), loader(*clusters())


@faulty("SCHEDULE-COLLAPSED")
def decays_every_step() -> Built:
    def schedule(optimizer: Any) -> Any:
        return {"scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9), "interval": "step"}

    return classes(schedule=schedule)


@faulty("SCHEDULE-COLLAPSED")
def cosine_of_ten_steps() -> Built:
    def schedule(optimizer: Any) -> Any:
        return {"scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10), "interval": "step"}

    return (*classes(schedule=schedule), {"trainer": L.Trainer(max_epochs=10, logger=False)})


@faulty("SCHEDULE-NEVER-ARRIVES")
def onecycle_by_epoch() -> Built:
    def schedule(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=300)

    return (*classes(schedule=schedule), {"trainer": L.Trainer(max_epochs=10, logger=False)})


@faulty("SCHEDULE-NEVER-ARRIVES")
def warmup_in_epochs() -> Built:
    def schedule(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 500))

    return (*classes(schedule=schedule), {"trainer": L.Trainer(max_epochs=10, logger=False)})


@faulty("LR-HIGH")
def adam_at_one() -> Built:
    return classes(optimizer=adam(1.0))


@faulty("LR-HIGH")
def sgd_at_ten() -> Built:
    x, y = curve()
    return Learner(perceptron(6, 1), value, sgd(3.0)), loader(x, y)


@faulty("LR-HIGH", "NO-WARMUP")
def transformer_at_a_tenth() -> Built:
    tokens = chains()
    return Learner(Words(), next_word, adam(0.1)), loader(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), size=16)


@faulty("LR-LOW")
def adam_at_a_millionth() -> Built:
    return classes(optimizer=adam(3e-7))


@faulty("LR-LOW")
def sgd_barely_moves() -> Built:
    return classes(optimizer=sgd(1e-7))


@faulty("EPS-HIGH")
def eps_of_one() -> Built:
    return classes(optimizer=adam(1e-3, eps=1.0))


@faulty("CLIP-ALWAYS")
def clipped_to_nothing() -> Built:
    return (*classes(optimizer=sgd(0.1)), {"trainer": L.Trainer(max_epochs=10, logger=False, gradient_clip_val=1e-4)})
