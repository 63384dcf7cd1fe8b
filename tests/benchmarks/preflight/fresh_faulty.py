"""A third round of faulty cases, written after the second was looked at; scored once before any change for them."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from tests.benchmarks.preflight.data import chains, clusters, curve, generator, loader, pictures, rows, waves
from tests.benchmarks.preflight.parts import Built, Learner, Stepped, adam, classes, convnet, perceptron, sgd
from tests.benchmarks.preflight.register import faulty


@faulty("BROADCAST")
def column_in_a_dict() -> Built:
    def step(model: Any, batch: dict[str, Tensor]) -> Tensor:
        return model.criterion(model.net(batch["x"]), batch["y"])

    x, y = curve()
    return Stepped(step, net=perceptron(6, 1), criterion=nn.MSELoss()), rows(x=x, y=y)


@faulty("FROZEN", "NO-GRADIENT")
def everything_frozen() -> Built:
    net = perceptron(12, 4).requires_grad_(False)
    return classes(net)


@faulty("NO-GRADIENT")
def loss_taken_out() -> Built:
    return classes(loss=lambda o, y: torch.tensor(F.cross_entropy(o, y).item(), requires_grad=True))


@faulty("SOFTMAX-DIM")
def classes_reshaped_not_moved() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(24, 16), nn.Linear(16, 6)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.table(tokens))

    tokens = chains()
    return Learner(Net(), lambda o, y: F.cross_entropy(o.view(len(o), 6, -1), y)), loader(tokens, tokens % 6, size=16)


@faulty("BATCH-MIXING")
def words_without_batch_first() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.cell, self.head = nn.Embedding(24, 16), nn.LSTM(16, 16), nn.Linear(16, 2)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.cell(self.table(tokens))[0].mean(1))

    tokens = chains()
    return Learner(Net(), F.cross_entropy), loader(tokens, (tokens[:, 0] > 12).long(), size=24)


@faulty("BATCH-MIXING")
def mean_over_the_batch() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(3, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = F.relu(self.body(x))
            return self.head(h.mean(1) + h.mean((0, 1)))

    return Learner(Net(), F.cross_entropy), loader(*waves())


@faulty("DOUBLE-SOFTMAX")
def sigmoid_before_cross_entropy() -> Built:
    return Learner(nn.Sequential(convnet(), nn.Sigmoid()), nn.CrossEntropyLoss()), loader(*pictures())


@faulty("SYMMETRIC-INIT")
def ones_in_convolutions() -> Built:
    net = convnet()
    for layer in net:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.ones_(layer.weight)
    return Learner(net, F.cross_entropy), loader(*pictures())


@faulty("OPTIMIZER-MISSES")
def only_the_first_two() -> Built:
    class Model(Learner):
        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(list(self.parameters())[:2], lr=1e-3)

    return Model(convnet(), F.cross_entropy), loader(*pictures())


@faulty("SORTED")
def stream_in_order() -> Built:
    class Source(IterableDataset[Any]):
        def __iter__(self) -> Any:
            x, y = clusters()
            order = y.argsort()
            return iter(zip(x[order], y[order], strict=True))

    return Learner(perceptron(12, 4), F.cross_entropy), DataLoader(Source(), batch_size=32)


@faulty("LR-HIGH")
def sgd_at_a_hundred() -> Built:
    return classes(optimizer=sgd(100.0))


@faulty("LR-HIGH")
def rmsprop_at_a_half() -> Built:
    return Learner(convnet(), F.cross_entropy, lambda p: torch.optim.RMSprop(p, lr=0.5)), loader(*pictures())


@faulty("LR-LOW")
def rate_of_zero() -> Built:
    return classes(optimizer=adam(0.0))


@faulty("INIT-SCALE", "GRAD-EXPLODING")
def thirty_large_layers() -> Built:
    layers = [layer for _ in range(20) for layer in (nn.Linear(24, 24), nn.ReLU())]
    for layer in layers[::2]:
        nn.init.normal_(layer.weight, std=2.0)  # type: ignore[arg-type]
    return classes(nn.Sequential(nn.Linear(12, 24), *layers, nn.Linear(24, 4)), optimizer=sgd(1e-2))


@faulty("DATA-NONFINITE")
def division_by_zero_column() -> Built:
    x, y = clusters()
    x = x / (x[:, 4:5].round())
    return Learner(perceptron(12, 4), F.cross_entropy), loader(x, y)


@faulty("NOT-CAUSAL")
def encoder_as_decoder() -> Built:
    class Model(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(24, 32), nn.Linear(32, 24)
            self.net = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            tokens = batch[0]
            logits = self.head(self.net(self.table(tokens[:, :-1])))
            return F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:])

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    return Model(), loader(chains(), size=16)


@faulty("NLL-NEEDS-LOG")
def ctc_of_logits() -> Built:
    def step(model: Any, batch: Any) -> Tensor:
        x, y = batch
        logits = model.head(model.cell(x)[0]).transpose(0, 1)
        return F.ctc_loss(logits, y, torch.full((len(x),), 16), torch.full((len(x),), 5))

    return Stepped(step, cell=nn.GRU(3, 32, batch_first=True), head=nn.Linear(32, 7)), loader(
        waves()[0], torch.randint(1, 7, (640, 5), generator=generator())
    )


@faulty("UPDATE-LOST")
def group_with_rate_zero() -> Built:
    class Model(Learner):
        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(
                [{"params": self.net[:4].parameters(), "lr": 0.0}, {"params": self.net[4].parameters()}], lr=1e-3
            )

    return Model(perceptron(12, 4), F.cross_entropy), loader(*clusters())


@faulty("WRONG-SIGN")
def elbo_maximised_wrongly() -> Built:
    def step(model: Any, batch: Any) -> Tensor:
        return -F.mse_loss(model.net(batch[0]), batch[0]) + 0.001 * model.net[0].weight.pow(2).mean()

    return Stepped(step, net=perceptron(144, 144)), loader(pictures()[0].flatten(1))
