"""A third round of cases, written after the second was looked at; scored once before anything was changed for them."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, IterableDataset

from tests.benchmarks.preflight.faulty import classes, faulty
from tests.benchmarks.preflight.healthy import Bare, healthy
from tests.benchmarks.preflight.parts import (
    Built,
    Learner,
    adam,
    chains,
    clusters,
    convnet,
    curve,
    generator,
    loader,
    perceptron,
    pictures,
    rows,
    sgd,
    waves,
)


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
    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.actor, self.critic = nn.Linear(6, 32), nn.Linear(32, 3), nn.Linear(32, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            state, action, before, gain, worth = batch
            h = torch.tanh(self.body(state))
            chosen = torch.distributions.Categorical(logits=self.actor(h))
            ratio = (chosen.log_prob(action) - before).exp()
            policy = -torch.min(ratio * gain, ratio.clamp(0.8, 1.2) * gain).mean()
            return policy + 0.5 * F.mse_loss(self.critic(h).squeeze(-1), worth) - 0.01 * chosen.entropy().mean()

    x, y = curve()
    return Model(), loader(x, torch.randint(0, 3, (960,), generator=generator()), torch.full((960,), -1.1), y, y.roll(1))


@healthy
def sentence_autoencoder() -> Built:
    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.down, self.up = (
                nn.Embedding(24, 16),
                nn.GRU(16, 24, batch_first=True),
                nn.GRU(24, 24, batch_first=True),
            )
            self.head = nn.Linear(24, 24)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            (tokens,) = batch
            whole = self.down(self.table(tokens))[1][0]
            out = self.head(self.up(whole[:, None].expand(-1, tokens.shape[1], -1))[0])
            return F.cross_entropy(out.flatten(0, 1), tokens.flatten())

    return Model(), loader(chains(), size=16)


@healthy
def skip_gram() -> Built:
    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Embedding(40, 16), nn.Embedding(40, 16)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            word, near, far = batch
            v = self.inner(word)
            good, bad = (v * self.outer(near)).sum(-1) / 4, torch.einsum("nd,nkd->nk", v, self.outer(far)) / 4
            return -(F.logsigmoid(good).mean() + F.logsigmoid(-bad).sum(1).mean())

    g = generator()
    return Model(), loader(*(torch.randint(0, 40, shape, generator=g) for shape in ((960,), (960,), (960, 5))))


@healthy
def weighed_by_uncertainty() -> Built:
    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.one, self.two = perceptron(12, 32), nn.Linear(32, 4), nn.Linear(32, 1)
            self.weights = nn.Parameter(torch.zeros(2))

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
            h = F.gelu(self.body(batch["x"]))
            parts = torch.stack(
                [F.cross_entropy(self.one(h), batch["kind"]), F.mse_loss(self.two(h)[:, 0], batch["amount"])]
            )
            return {"loss": (parts * torch.exp(-self.weights) + self.weights).sum()}

    x, y = clusters()
    return Model(), rows(x=x, kind=y, amount=x[:, 0] * x[:, 1])


@healthy
def two_towers() -> Built:
    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.heat = (
                perceptron(12, 16),
                perceptron(6, 16),
                nn.Parameter(torch.tensor(math.log(1 / 0.07))),
            )

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            a, b = F.normalize(self.one(batch[0]), dim=-1), F.normalize(self.two(batch[1]), dim=-1)
            logits = self.heat.exp() * a @ b.t()
            labels = torch.arange(len(logits))
            return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.t(), labels)) / 2

    x, _ = clusters()
    return Model(), loader(x, x[:, :6] + 0.1 * torch.randn(960, 6, generator=generator()))


@healthy
def coupling_flow() -> Built:
    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.nets = nn.ModuleList(perceptron(1, 2, 32, nn.Tanh) for _ in range(4))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, volume = batch[0], 0.0
            for net in self.nets:
                scale, shift = net(x[:, :1]).chunk(2, 1)
                scale = torch.tanh(scale)
                x = torch.cat([x[:, 1:] * scale.exp() + shift, x[:, :1]], 1)
                volume = volume + scale.sum(1)
            return (0.5 * x.pow(2).sum(1) - volume).mean()

    return Model(), loader(torch.randn(960, 2, generator=generator()) @ torch.tensor([[1.0, 0.5], [0.0, 0.4]]))


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
    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = perceptron(12, 16), nn.Linear(16, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            one, other, same = batch
            return F.binary_cross_entropy_with_logits(self.head((self.body(one) - self.body(other)).abs()).squeeze(1), same)

    x, y = clusters()
    order = torch.randperm(960, generator=generator())
    return Model(), loader(x, x[order], (y == y[order]).float())


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


@faulty("BROADCAST")
def column_in_a_dict() -> Built:
    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.criterion = perceptron(6, 1), nn.MSELoss()

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return self.criterion(self.net(batch["x"]), batch["y"])

    x, y = curve()
    return Model(), rows(x=x, y=y)


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
    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRU(3, 32, batch_first=True), nn.Linear(32, 7)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            logits = self.head(self.cell(x)[0]).transpose(0, 1)
            return F.ctc_loss(logits, y, torch.full((len(x),), 16), torch.full((len(x),), 5))

    return Model(), loader(waves()[0], torch.randint(1, 7, (640, 5), generator=generator()))


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
    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(144, 144)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return -F.mse_loss(self.net(batch[0]), batch[0]) + 0.001 * self.net[0].weight.pow(2).mean()

    return Model(), loader(pictures()[0].flatten(1))
