"""More faulty models: behaviour and plan."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import chains, clusters, curve, loader, waves
from tests.benchmarks.preflight.parts import (
    Built,
    Learner,
    Recurrent,
    Words,
    adam,
    classes,
    next_word,
    perceptron,
    sgd,
    value,
)
from tests.benchmarks.preflight.register import faulty


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
