"""Healthy models of many makes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from tests.benchmarks.preflight.parts import (
    Attention,
    Built,
    Learner,
    Recurrent,
    Words,
    adam,
    chains,
    clusters,
    convnet,
    curve,
    generator,
    loader,
    next_word,
    perceptron,
    pictures,
    rows,
    sgd,
    value,
    waves,
)

HEALTHY: dict[str, Callable[[], Built]] = {}


def healthy(build: Callable[[], Built]) -> Callable[[], Built]:
    """Enter it by its name."""
    HEALTHY[build.__name__] = build
    return build


class Bare(L.LightningModule):
    """Without forward: the step calls its parts."""

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


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
    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.net = Words()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            tokens = batch["input_ids"]
            return next_word(self.net(tokens[:, :-1]), tokens[:, 1:])

    return Model(), rows(16, input_ids=chains())


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
def vae_with_sums() -> Built:
    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = perceptron(144, 16), perceptron(8, 144)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x = batch[0]
            mean, log_var = self.encoder(x).chunk(2, 1)
            z = mean + torch.randn_like(mean) * (0.5 * log_var).exp()
            fit = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
            return fit - 0.5 * (1 + log_var - mean**2 - log_var.exp()).sum()

    return Model(), loader((pictures()[0].flatten(1) > 0).float())


@healthy
def gan_by_hand() -> Built:
    class Model(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.g, self.d = perceptron(8, 2), perceptron(2, 1, act=nn.SiLU)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            (x,) = batch
            opt_g, opt_d = self.optimizers()
            fake, ones = self.g(torch.randn(len(x), 8)), torch.ones(len(x), 1)
            self.toggle_optimizer(opt_d)
            loss = F.binary_cross_entropy_with_logits(self.d(x), ones) + F.binary_cross_entropy_with_logits(
                self.d(fake.detach()), 0 * ones
            )
            opt_d.zero_grad()
            self.manual_backward(loss)
            opt_d.step()
            self.untoggle_optimizer(opt_d)
            loss = F.binary_cross_entropy_with_logits(self.d(fake), ones)
            self.log("g", loss)
            opt_g.zero_grad()
            self.manual_backward(loss)
            opt_g.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.Adam(part.parameters(), 2e-4, betas=(0.5, 0.999)) for part in (self.g, self.d)]

    return Model(), loader(torch.randn(640, 2, generator=generator()) * 0.5 + 1)


@healthy
def critic_with_penalty() -> Built:
    class Model(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.g, self.d = perceptron(8, 2), perceptron(2, 1, act=nn.SiLU)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            opt_g, opt_d = self.optimizers()
            x, fake = batch[0], self.g(torch.randn(len(batch[0]), 8))
            between = (0.5 * x + 0.5 * fake.detach()).requires_grad_()
            slope = torch.autograd.grad(self.d(between).sum(), between, create_graph=True)[0]
            self.manual_backward(
                self.d(fake.detach()).mean() - self.d(x).mean() + 10 * (slope.norm(dim=1) - 1).pow(2).mean()
            )
            opt_d.step()
            opt_d.zero_grad()
            self.manual_backward(-self.d(fake).mean())
            opt_g.step()
            opt_g.zero_grad()
            opt_d.zero_grad()

        def configure_optimizers(self) -> Any:
            return [torch.optim.Adam(part.parameters(), 1e-4, betas=(0.0, 0.9)) for part in (self.g, self.d)]

    return Model(), loader(torch.randn(640, 2, generator=generator()))


@healthy
def diffusion() -> Built:
    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(144 + 16, 144, 96, nn.SiLU)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            angle = t[:, None].float() * torch.exp(-torch.arange(8) * 0.9)
            return self.net(torch.cat([x, angle.sin(), angle.cos()], 1))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x = batch[0]
            t, noise = torch.randint(0, 1000, (len(x),)), torch.randn_like(x)
            keep = torch.cos(t / 1000 * math.pi / 2)[:, None]
            return F.mse_loss(self(keep * x + (1 - keep**2).sqrt() * noise, t), noise)

    return Model(), loader(pictures()[0].flatten(1))


@healthy
def contrastive_with_norm() -> Built:
    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(12, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 16))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x = batch[0]
            one, two = (F.normalize(self.net(x + 0.2 * torch.randn_like(x)), dim=1) for _ in range(2))
            similar = one @ two.T / 0.2
            return (F.cross_entropy(similar, torch.arange(len(x))) + F.cross_entropy(similar.T, torch.arange(len(x)))) / 2

    return Model(), loader(*clusters(), size=64)


@healthy
def byol() -> Built:
    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.guess = perceptron(12, 16), nn.Linear(16, 16)
            self.slow = copy.deepcopy(self.net)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x = batch[0]
            with torch.no_grad():
                goal = self.slow(x + 0.1 * torch.randn_like(x))
            return 1 - F.cosine_similarity(self.guess(self.net(x + 0.1 * torch.randn_like(x))), goal).mean()

        def on_train_batch_end(self, *_: Any) -> None:
            for p, q in zip(self.slow.parameters(), self.net.parameters(), strict=True):
                p.data.lerp_(q.data, 0.01)

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW([*self.net.parameters(), *self.guess.parameters()], lr=1e-3)

    return Model(), loader(*clusters())


@healthy
def ctc() -> Built:
    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRU(3, 32, batch_first=True, bidirectional=True), nn.Linear(64, 7)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            logs = self.head(self.cell(x)[0]).log_softmax(-1).transpose(0, 1)
            sizes = [torch.full((len(x),), k) for k in (x.shape[1], y.shape[1])]
            return F.ctc_loss(logs, y, *sizes)

    return Model(), loader(waves()[0], torch.randint(1, 7, (640, 5), generator=generator()))


@healthy
def detection() -> Built:
    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.box, self.kind = convnet(32), nn.Linear(32, 4), nn.Linear(32, 3)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            images, targets = batch
            h = F.relu(self.body(torch.stack(images)))
            boxes, kinds = torch.stack([t["boxes"][0] for t in targets]), torch.stack([t["labels"][0] for t in targets])
            return F.smooth_l1_loss(self.box(h), boxes) + F.cross_entropy(self.kind(h), kinds)

    x, g = pictures()[0], generator()
    items = [
        (x[i], {"boxes": torch.rand(1, 4, generator=g), "labels": torch.randint(0, 3, (1,), generator=g)})
        for i in range(320)
    ]
    return Model(), DataLoader(items, batch_size=16, shuffle=True, collate_fn=lambda pairs: tuple(zip(*pairs, strict=True)))  # type: ignore[arg-type, var-annotated]


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
def survival() -> Built:
    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(6, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, time, event = batch
            risk = self.net(x).squeeze(-1)[time.argsort(descending=True)]
            seen = event[time.argsort(descending=True)]
            return -((risk - risk.logcumsumexp(0)) * seen).sum() / seen.sum().clamp_min(1)

    x, y = curve()
    return Model(), loader(x, y.exp(), (torch.rand(960, generator=generator()) < 0.7).float())


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
    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.items, self.bias = nn.Embedding(50, 16), nn.Embedding(80, 16), nn.Embedding(80, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            user, item, liked = batch
            score = (self.users(user) * self.items(item)).sum(1) / 4 + self.bias(item)[:, 0]
            return F.binary_cross_entropy_with_logits(score, liked)

    g = generator()
    user, item = torch.randint(0, 50, (960,), generator=g), torch.randint(0, 80, (960,), generator=g)
    return Model(), loader(user, item, ((user + item) % 3 == 0).float())


@healthy
def policy_gradient() -> Built:
    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.policy = perceptron(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.policy(x)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            state, action, gain = batch
            chosen = torch.distributions.Categorical(logits=self(state))
            return -(chosen.log_prob(action) * gain).mean() - 0.01 * chosen.entropy().mean()

    x, y = curve()
    return Model(), loader(x, torch.randint(0, 3, (960,), generator=generator()), y)


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
def physics_informed() -> Built:
    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.u = perceptron(1, 1, 32, nn.Tanh)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x = torch.rand(64, 1).requires_grad_()
            u = self.u(x)
            slope = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
            bend = torch.autograd.grad(slope.sum(), x, create_graph=True)[0]
            edge = self.u(torch.tensor([[0.0], [1.0]])).pow(2).sum()
            return (bend + math.pi**2 * torch.sin(math.pi * x)).pow(2).mean() + 10 * edge

    return Model(), loader(torch.zeros(64, 1), size=1)


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
def triplets() -> Built:
    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(12, 8)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            anchor, near, far = (F.normalize(self.net(x), dim=1) for x in batch)
            return F.triplet_margin_loss(anchor, near, far, margin=0.3)

    x, _ = clusters()
    return Model(), loader(x, x + 0.1 * torch.randn(x.shape, generator=generator()), x.roll(1, 0))


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
