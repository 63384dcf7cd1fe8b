"""A third round of healthy cases, written after the second was looked at; scored once before any change for them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.benchmarks.preflight.data import chains, clusters, curve, generator, loader, pictures, rows
from tests.benchmarks.preflight.parts import Built, Learner, Stepped, classes, perceptron, sgd
from tests.benchmarks.preflight.register import healthy


@healthy
def dice_and_bce() -> Built:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        p = torch.sigmoid(output)
        dice = 1 - (2 * (p * target).sum((1, 2, 3)) + 1) / (p.sum((1, 2, 3)) + target.sum((1, 2, 3)) + 1)
        return F.binary_cross_entropy_with_logits(output, target) + dice.mean()

    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))
    x = pictures()[0]
    return Learner(net, loss), loader(x, (x > 0.5).float(), size=4)


@healthy
def proximal_policy() -> Built:
    def step(model: Any, batch: Any) -> Tensor:
        state, action, before, gain, worth = batch
        h = torch.tanh(model.body(state))
        chosen = torch.distributions.Categorical(logits=model.actor(h))
        ratio = (chosen.log_prob(action) - before).exp()
        policy = -torch.min(ratio * gain, ratio.clamp(0.8, 1.2) * gain).mean()
        return policy + 0.5 * F.mse_loss(model.critic(h).squeeze(-1), worth) - 0.01 * chosen.entropy().mean()

    x, y = curve()
    return Stepped(step, body=nn.Linear(6, 32), actor=nn.Linear(32, 3), critic=nn.Linear(32, 1)), loader(
        x, torch.randint(0, 3, (960,), generator=generator()), torch.full((960,), -1.1), y, y.roll(1)
    )


@healthy
def sentence_autoencoder() -> Built:
    def step(model: Any, batch: Any) -> Tensor:
        (tokens,) = batch
        whole = model.down(model.table(tokens))[1][0]
        out = model.head(model.up(whole[:, None].expand(-1, tokens.shape[1], -1))[0])
        return F.cross_entropy(out.flatten(0, 1), tokens.flatten())

    return Stepped(
        step,
        table=nn.Embedding(24, 16),
        down=nn.GRU(16, 24, batch_first=True),
        up=nn.GRU(24, 24, batch_first=True),
        head=nn.Linear(24, 24),
    ), loader(chains(), size=16)


@healthy
def skip_gram() -> Built:
    def step(model: Any, batch: Any) -> Tensor:
        word, near, far = batch
        v = model.inner(word)
        good, bad = (v * model.outer(near)).sum(-1) / 4, torch.einsum("nd,nkd->nk", v, model.outer(far)) / 4
        return -(F.logsigmoid(good).mean() + F.logsigmoid(-bad).sum(1).mean())

    g = generator()
    return Stepped(step, inner=nn.Embedding(40, 16), outer=nn.Embedding(40, 16)), loader(
        *(torch.randint(0, 40, shape, generator=g) for shape in ((960,), (960,), (960, 5)))
    )


@healthy
def weighed_by_uncertainty() -> Built:
    def step(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        h = F.gelu(model.body(batch["x"]))
        parts = torch.stack([F.cross_entropy(model.one(h), batch["kind"]), F.mse_loss(model.two(h)[:, 0], batch["amount"])])
        return {"loss": (parts * torch.exp(-model.weights) + model.weights).sum()}

    x, y = clusters()
    return Stepped(
        step, body=perceptron(12, 32), one=nn.Linear(32, 4), two=nn.Linear(32, 1), weights=nn.Parameter(torch.zeros(2))
    ), rows(x=x, kind=y, amount=x[:, 0] * x[:, 1])


@healthy
def two_towers() -> Built:
    def step(model: Any, batch: Any) -> Tensor:
        a, b = F.normalize(model.one(batch[0]), dim=-1), F.normalize(model.two(batch[1]), dim=-1)
        logits = model.heat.exp() * a @ b.t()
        labels = torch.arange(len(logits))
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.t(), labels)) / 2

    x, _ = clusters()
    return Stepped(
        step, one=perceptron(12, 16), two=perceptron(6, 16), heat=nn.Parameter(torch.tensor(math.log(1 / 0.07)))
    ), loader(x, x[:, :6] + 0.1 * torch.randn(960, 6, generator=generator()))


@healthy
def coupling_flow() -> Built:
    def step(model: Any, batch: Any) -> Tensor:
        x, volume = batch[0], 0.0
        for net in model.nets:
            scale, shift = net(x[:, :1]).chunk(2, 1)
            scale = torch.tanh(scale)
            x = torch.cat([x[:, 1:] * scale.exp() + shift, x[:, :1]], 1)
            volume = volume + scale.sum(1)
        return (0.5 * x.pow(2).sum(1) - volume).mean()

    return Stepped(step, nets=nn.ModuleList(perceptron(1, 2, 32, nn.Tanh) for _ in range(4))), loader(
        torch.randn(960, 2, generator=generator()) @ torch.tensor([[1.0, 0.5], [0.0, 0.4]])
    )


@healthy
def mixture_density() -> Built:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        weight, mean, spread = output.chunk(3, 1)
        each = -0.5 * ((target[:, None] - mean) / spread.exp()) ** 2 - spread
        return -torch.logsumexp(F.log_softmax(weight, 1) + each, 1).mean()

    return Learner(perceptron(6, 9), loss), loader(*curve())


@healthy
def checkpointed() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = perceptron(12, 32), perceptron(32, 32), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(checkpoint(self.two, F.relu(self.one(x)), use_reentrant=False))

    return classes(Net())


@healthy
def logistic_regression_sgd() -> Built:
    x, y = clusters()
    return Learner(nn.Linear(12, 4), F.cross_entropy, sgd(0.5, 0.0)), loader(x, y)


@healthy
def padded_reviews() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(26, 16, padding_idx=0), nn.Linear(16, 2)

        def forward(self, tokens: Tensor) -> Tensor:
            there = (tokens > 0).unsqueeze(-1).float()
            return self.head((self.table(tokens) * there).sum(1) / there.sum(1))

    tokens = chains() + 1
    label = (tokens[:, 0] > 12).long()
    tokens[torch.arange(17)[None] >= torch.randint(3, 9, (480, 1), generator=generator())] = 0
    return Learner(Net(), F.cross_entropy), loader(tokens, label, size=16)


@healthy
def quiet_audio() -> Built:
    net = nn.Sequential(
        nn.Conv1d(1, 8, 9, stride=4),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Conv1d(8, 16, 5, stride=4),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(16, 2),
    )
    g = generator()
    y = torch.randint(0, 2, (480,), generator=g)
    x = 0.03 * torch.sin(torch.arange(256)[None] * (0.1 + 0.2 * y[:, None])) + 0.01 * torch.randn(480, 256, generator=g)
    return Learner(net, F.cross_entropy), loader(x[:, None], y)


@healthy
def siamese_pairs() -> Built:
    def step(model: Any, batch: Any) -> Tensor:
        one, other, same = batch
        return F.binary_cross_entropy_with_logits(model.head((model.body(one) - model.body(other)).abs()).squeeze(1), same)

    x, y = clusters()
    order = torch.randperm(960, generator=generator())
    return Stepped(step, body=perceptron(12, 16), head=nn.Linear(16, 1)), loader(x, x[order], (y == y[order]).float())


@healthy
def sharper_pictures() -> Built:
    net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 3, padding=1), nn.PixelShuffle(2))
    x = torch.sigmoid(pictures()[0])
    return Learner(net, F.l1_loss), loader(F.avg_pool2d(x, 2), x)


@healthy
def future_window() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(1, 16), nn.Linear(16, 4)
            self.net = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, 0.1, batch_first=True), 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.net(self.first(x[..., None])).mean(1))

    series = (torch.sin(torch.arange(1200) * 0.2) + 0.2 * torch.randn(1200, generator=generator())).unfold(0, 20, 1)
    return Learner(Net(), F.mse_loss), loader(series[:, :16].clone(), series[:, 16:].clone())
