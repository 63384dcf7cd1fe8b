"""Healthy nets of many makes, taught by examples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from tests.benchmarks.preflight.data import chains, clusters, curve, generator, loader, pictures, rows, waves
from tests.benchmarks.preflight.parts import (
    Attention,
    Bare,
    Built,
    Learner,
    Recurrent,
    Stepped,
    Words,
    adam,
    convnet,
    next_word,
    perceptron,
    sgd,
    value,
)
from tests.benchmarks.preflight.register import healthy


@healthy
def cnn_plain() -> Built:
    return Learner(convnet(), F.cross_entropy), loader(*pictures())


@healthy
def cnn_norm_sgd_onecycle() -> Built:
    def schedule(optimizer: Any) -> Any:
        return {"scheduler": torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=200), "interval": "step"}

    return Learner(convnet(norm=True), F.cross_entropy, sgd(0.1), schedule), loader(*pictures())


@healthy
def vision_transformer() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cut, self.cls = nn.Conv2d(1, 32, 3, stride=3), nn.Parameter(torch.zeros(1, 1, 32))
            self.places = nn.Parameter(torch.randn(1, 17, 32) * 0.02)
            self.blocks, self.head = (
                nn.Sequential(Attention(32, causal=False), Attention(32, causal=False)),
                nn.Linear(32, 4),
            )

        def forward(self, x: Tensor) -> Tensor:
            x = self.cut(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.places
            return self.head(self.blocks(x)[:, 0])

    return Learner(Net(), F.cross_entropy), loader(*pictures())


@healthy
def gpt_shifts_in_step() -> Built:
    def step(model: Any, batch: Any) -> Tensor:
        tokens = batch["input_ids"]
        return next_word(model.net(tokens[:, :-1]), tokens[:, 1:])

    return Stepped(step, net=Words()), rows(16, input_ids=chains())


@healthy
def masked_words() -> Built:
    tokens = chains() + 1
    hidden = torch.rand(tokens.shape, generator=generator()) < 0.2
    return Learner(Words(26, causal=False), lambda o, y: F.cross_entropy(o.transpose(1, 2), y)), loader(
        tokens.masked_fill(hidden, 25), tokens.masked_fill(~hidden, -100), size=16
    )


@healthy
def tagger() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.cell = (
                nn.Embedding(24, 16, padding_idx=0),
                nn.LSTM(16, 16, batch_first=True, bidirectional=True),
            )
            self.head = nn.Linear(32, 5)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.cell(self.table(tokens))[0])

    tokens = chains()
    tags = (tokens % 5).masked_fill(
        torch.arange(17)[None] >= torch.randint(6, 17, (len(tokens), 1), generator=generator()), -100
    )
    return Learner(Net(), lambda o, y: F.cross_entropy(o.flatten(0, 1), y.flatten())), loader(
        tokens.masked_fill(tags < 0, 0), tags
    )


@healthy
def forecast_in_order() -> Built:
    time = torch.arange(1400) * 0.13
    series = torch.sin(time) + 0.3 * torch.randn(1400, generator=generator())
    windows = series.unfold(0, 25, 1)
    net = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 1))
    return Learner(net, value), loader(windows[:, :24].clone(), windows[:, 24].clone(), shuffle=False)


@healthy
def next_frames() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRU(3, 24, batch_first=True), nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(x)[0])

    x = waves()[0].cumsum(1) / 4
    return Learner(Net(), F.mse_loss), loader(x[:, :-1].contiguous(), x[:, 1:].contiguous())


@healthy
def graph_of_nodes() -> Built:
    """One graph is the batch; its nodes see each other through the adjacency."""

    class Model(Bare):
        def __init__(self, adjacency: Tensor) -> None:
            super().__init__()
            self.register_buffer("adjacency", adjacency / adjacency.sum(1, keepdim=True))
            self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 3)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            return F.cross_entropy(self.two(self.adjacency @ F.relu(self.one(self.adjacency @ x))), y)

    g = generator()
    adjacency = (torch.rand(60, 60, generator=g) < 0.1).float() + torch.eye(60)
    return Model(adjacency), loader(
        torch.randn(60, 8, generator=g), torch.randint(0, 3, (60,), generator=g), size=60, shuffle=False
    )


@healthy
def segmentation_two_pictures() -> Built:
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 1))
    x = pictures()[0]
    return Learner(net, F.cross_entropy), loader(x, (x[:, 0] > 0).long() + (x[:, 0] > 1).long(), size=2)


@healthy
def many_labels() -> Built:
    x, y = clusters()
    several = torch.stack([y == 0, y > 1, x[:, 0] > 1], 1).float()
    return Learner(perceptron(12, 3), nn.BCEWithLogitsLoss()), loader(x, several)


@healthy
def raw_prices() -> Built:
    x, y = curve()
    return Learner(perceptron(6, 1), value), loader(x, y * 1.15 + 2.07)


@healthy
def scaled_output() -> Built:
    """The net knows the targets' mean and size."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(6, 1)

        def forward(self, x: Tensor) -> Tensor:
            return 250.0 + 80.0 * self.net(x)

    x, y = curve()
    return Learner(Net(), lambda o, t: F.mse_loss(o.squeeze(-1), t) / 6400), loader(x, y * 80 + 250)


@healthy
def adapters() -> Built:
    class Adapter(nn.Module):
        def __init__(self, layer: nn.Linear) -> None:
            super().__init__()
            self.layer = layer.requires_grad_(False)
            self.down, self.up = (
                nn.Parameter(torch.randn(4, layer.in_features) * 0.1),
                nn.Parameter(torch.zeros(layer.out_features, 4)),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) + x @ self.down.T @ self.up.T

    net = perceptron(12, 4, 64)
    for place in (0, 2, 4):
        net[place] = Adapter(net[place])
    return Learner(net, F.cross_entropy, adam(5e-3)), loader(*clusters())


@healthy
def frozen_body_in_eval() -> Built:
    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(convnet(32, norm=True), nn.Dropout(0.2)).requires_grad_(False).eval()
            self.head = nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.head.parameters(), lr=1e-3)

    return Model(), loader(*pictures())


@healthy
def autoencoder_of_pixels() -> Built:
    net = nn.Sequential(perceptron(144, 12), nn.ReLU(), perceptron(12, 144), nn.Sigmoid())
    x = torch.sigmoid(pictures()[0].flatten(1))
    return Learner(net, F.mse_loss), loader(x, x)


@healthy
def recommender() -> Built:
    def step(model: Any, batch: Any) -> Tensor:
        user, item, liked = batch
        score = (model.users(user) * model.items(item)).sum(1) / 4 + model.bias(item)[:, 0]
        return F.binary_cross_entropy_with_logits(score, liked)

    g = generator()
    user, item = torch.randint(0, 50, (960,), generator=g), torch.randint(0, 80, (960,), generator=g)
    return Stepped(step, users=nn.Embedding(50, 16), items=nn.Embedding(80, 16), bias=nn.Embedding(80, 1)), loader(
        user, item, ((user + item) % 3 == 0).float()
    )


@healthy
def table_in_dicts() -> Built:
    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.city, self.scale, self.net = nn.Embedding(9, 4), nn.BatchNorm1d(3), perceptron(7, 1)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return self.net(torch.cat([self.city(batch["city"]), self.scale(batch["numbers"])], 1)).squeeze(1)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.huber_loss(self(batch), batch["price"])

    x, y = curve()
    numbers = x[:, :3] * torch.tensor([1.0, 500.0, 1e4]) + torch.tensor([0.0, 2000.0, 5e4])
    return Model(), rows(numbers=numbers, city=torch.randint(0, 9, (960,), generator=generator()), price=y)


@healthy
def experts() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.experts, self.head = (
                nn.Linear(12, 4),
                nn.ModuleList(perceptron(12, 16) for _ in range(4)),
                nn.Linear(16, 4),
            )

        def forward(self, x: Tensor) -> Tensor:
            weight, chosen = self.gate(x).softmax(-1).max(-1)
            out = torch.zeros(len(x), 16)
            for k, expert in enumerate(self.experts):
                where = chosen == k
                if where.any():
                    out[where] = weight[where, None] * expert(x[where])
            return self.head(out)

    return Learner(Net(), F.cross_entropy), loader(*clusters())


@healthy
def lazy_layers() -> Built:
    net = nn.Sequential(
        nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.LazyLinear(4)
    )
    return Learner(net, F.cross_entropy), loader(*pictures())


@healthy
def much_dropout() -> Built:
    net = nn.Sequential(
        nn.Dropout(0.2),
        nn.Linear(12, 64),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(64, 4),
    )
    return Learner(net, F.cross_entropy), loader(*clusters())


@healthy
def stream() -> Built:
    class Source(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(zip(*clusters(), strict=True))

    return Learner(perceptron(12, 4), F.cross_entropy), DataLoader(Source(), batch_size=32)


@healthy
def recurrent_last_state() -> Built:
    return Learner(Recurrent(), F.cross_entropy), loader(*waves())
