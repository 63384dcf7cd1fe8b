"""The fifteenth round's healthy models of series and of what is looked at one after another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.benchmarks.preflight.data import loader
from tests.benchmarks.preflight.parts import Built
from tests.benchmarks.preflight.register import healthy
from tests.benchmarks.preflight.strays_parts import Task, baskets, causal, loads, mlp


@dataclass
class Output:
    """As the models of transformers return it."""

    loss: Tensor | None
    logits: Tensor


@healthy
def stacks_that_subtract_what_they_explain() -> Built:
    """N-BEATS: each block gives a backcast that is taken off its input, and a forecast that is added."""

    class Beats(Task):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(mlp(36, 64, 64, 48) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            ahead = torch.zeros(len(x), 12)
            for block in self.blocks:
                back, forecast = block(x).split([36, 12], 1)
                x, ahead = x - back, ahead + forecast
            return ahead

        def loss(self, batch: Any) -> Tensor:
            return F.l1_loss(self(batch[0]), batch[1])

    return Beats(), loader(*loads())


@healthy
def linear_forecast_of_each_window() -> Built:
    """DLinear: a moving average and the rest, a layer at 1/36 for each, the window's own mean and scale."""

    class Linear(Task):
        lr = 5e-3

        def __init__(self) -> None:
            super().__init__()
            self.trend, self.rest = nn.Linear(36, 12), nn.Linear(36, 12)
            for layer in (self.trend, self.rest):
                nn.init.constant_(layer.weight, 1 / 36)

        def forward(self, x: Tensor) -> Tensor:
            mean, std = x.mean(1, keepdim=True), x.std(1, keepdim=True)
            x = (x - mean) / std
            trend = F.avg_pool1d(F.pad(x[:, None], (12, 12), "replicate"), 25, 1)[:, 0]
            return (self.trend(trend) + self.rest(x - trend)) * std + mean

        def loss(self, batch: Any) -> Tensor:
            return F.mse_loss(self(batch[0]), batch[1])

    return Linear(), loader(*loads())


@healthy
def quantiles_of_a_load() -> Built:
    """Three quantiles for each hour, the pinball loss."""

    class Quantiles(Task):
        levels: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(1, 32, batch_first=True), nn.Linear(32, 36)
            self.register_buffer("levels", torch.tensor([0.1, 0.5, 0.9]))

        def loss(self, batch: Any) -> Tensor:
            x, y = batch
            error = y[..., None] - self.head(self.rnn(x[..., None])[1][0]).view(-1, 12, 3)
            return torch.maximum(self.levels * error, (self.levels - 1) * error).mean()

    return Quantiles(), loader(*loads())


@healthy
def causal_waves_in_classes() -> Built:
    """WaveNet: mu-law classes of a wave, dilated convolutions padded on the left, gates, one class ahead."""
    x = torch.cat(loads(), 1).clamp(-2, 2) / 2
    law = (x.sign() * torch.log1p(31 * x.abs()) / math.log(32) + 1) / 2 * 31

    class Wavenet(Task):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(32, 24)
            self.gates = nn.ModuleList(nn.Conv1d(24, 48, 2, dilation=2**i) for i in range(4))
            self.skips, self.out = nn.ModuleList(nn.Conv1d(24, 24, 1) for _ in range(4)), nn.Conv1d(24, 32, 1)

        def forward(self, codes: Tensor) -> Tensor:
            h, total = self.embed(codes).transpose(1, 2), torch.zeros(1)
            for i, (gate, skip) in enumerate(zip(self.gates, self.skips, strict=True)):
                f, g = gate(F.pad(h, (2**i, 0))).chunk(2, 1)
                z = torch.tanh(f) * torch.sigmoid(g)
                total, h = total + skip(z), h + z
            return self.out(F.relu(total))

        def loss(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch[0][:, :-1]), batch[0][:, 1:])

    return Wavenet(), loader(law.round().long())


@healthy
def state_kept_from_batch_to_batch() -> Built:
    """Truncated backpropagation: batches follow each other in time, the state is detached and carried on."""
    series = torch.cat(loads(), 1)[:, 0]
    x = series.view(8, 100).unfold(1, 21, 10).transpose(0, 1).flatten(0, 1)

    class Carried(Task):
        lr = 5e-3

        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(1, 24, batch_first=True), nn.Linear(24, 1)
            self.state: Any = None

        def on_train_epoch_start(self) -> None:
            self.state = None

        def loss(self, batch: Any) -> Tensor:
            x = batch[0]
            h, state = self.rnn(x[:, :-1, None], self.state)
            self.state = tuple(s.detach() for s in state)
            return F.mse_loss(self.head(h).squeeze(-1), x[:, 1:])

    return Carried(), DataLoader(TensorDataset(x), 8)


@healthy
def next_thing_of_a_session() -> Built:
    """SASRec: a causal transformer, the right next thing against one drawn at random, both by a sigmoid."""

    class Sas(Task):
        def __init__(self) -> None:
            super().__init__()
            self.things, self.places = nn.Embedding(40, 32), nn.Embedding(10, 32)
            self.block = nn.TransformerEncoderLayer(32, 2, 64, 0.1, batch_first=True)

        def loss(self, batch: Any) -> Tensor:
            seen, right = batch[0][:, :-1], batch[0][:, 1:]
            h = self.block(self.things(seen) + self.places(torch.arange(9)), causal(9))
            wrong = torch.randint_like(right, 40)
            up, down = (h * self.things(right)).sum(-1), (h * self.things(wrong)).sum(-1)
            return -(F.logsigmoid(up) + F.logsigmoid(-down)).mean()

    return Sas(), loader(baskets())


@healthy
def words_near_each_other() -> Built:
    """word2vec with negative samples: small random words, contexts at zero, sparse Adam."""
    walk = baskets()
    pairs = torch.cat([torch.stack([walk[:, i], walk[:, i + d]], 1) for i in range(1, 9) for d in (-1, 1)])

    class SkipGram(Task):
        def __init__(self) -> None:
            super().__init__()
            self.word, self.context = nn.Embedding(40, 16, sparse=True), nn.Embedding(40, 16, sparse=True)
            nn.init.uniform_(self.word.weight, -0.5 / 16, 0.5 / 16)
            nn.init.zeros_(self.context.weight)

        def loss(self, batch: Any) -> Tensor:
            word, context = batch[0].unbind(1)
            v = self.word(word)
            near = (v * self.context(context)).sum(1)
            far = torch.einsum("bd,bkd->bk", v, self.context(torch.randint(0, 40, (len(v), 5))))
            return -(F.logsigmoid(near) + F.logsigmoid(-far).sum(1)).mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SparseAdam(list(self.parameters()), lr=1e-2)

    return SkipGram(), loader(pairs, size=128)
