"""Families that were written blind, as the other visitors: tables, shops, graphs of facts, control and densities."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.divergence.corpus.family import Batch, Task, family, fixed, rows_of
from tests.benchmarks.divergence.corpus.strangers import logistic, over_all
from tests.benchmarks.divergence.corpus.strangers_b import Cursor, distance_of
from tests.benchmarks.divergence.corpus.supervised import squares
from tests.benchmarks.divergence.corpus.visitors import SINGLE_ONLY
from tests.benchmarks.divergence.data import digits
from tests.benchmarks.divergence.models import mlp


@family("sgd", 0.2, 250, supervised=True)
def translated_entities() -> Task:
    """TransE: places on a map and the ways between them; the part of a margin that is missing, summed over 256 facts."""

    class Facts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.entities, self.relations = nn.Embedding(144, 24), nn.Embedding(4, 24)
            for table in (self.entities, self.relations):
                nn.init.uniform_(table.weight, -6 / math.sqrt(24), 6 / math.sqrt(24))

        def forward(self, head: Tensor, relation: Tensor, tail: Tensor) -> Tensor:
            one, other = F.normalize(self.entities(head), dim=1), F.normalize(self.entities(tail), dim=1)
            return (one + self.relations(relation) - other).norm(dim=1)  # type: ignore[no-any-return]

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        head, relation, tail = batch
        return F.relu(1 + net(*batch) - net(head, relation, torch.randint(0, 144, tail.shape))).sum()

    place = torch.cartesian_prod(torch.arange(12), torch.arange(12))
    ways = torch.tensor([[0, 1], [1, 0], [2, 3], [5, 1]])
    head, relation = torch.cartesian_prod(torch.arange(144), torch.arange(4)).T
    row, column = ((place[head] + ways[relation]) % 12).T
    return Task(Facts(), rows_of(256, head, relation, 12 * row + column), loss)


@family("adagrad", 0.1, 200)
def next_click_in_session() -> Task:
    """GRU4Rec: the next of a hundred items in a shop, which people walk through along three habits."""

    class Session(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.cell, self.head = nn.Embedding(100, 32), nn.GRU(32, 48, batch_first=True), nn.Linear(48, 100)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.dropout(self.cell(self.table(x))[0], 0.2, self.training))  # type: ignore[no-any-return]

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(net(batch[0][:, :-1]).flatten(0, 1), batch[0][:, 1:].flatten())

    g = fixed()
    habits = torch.randint(0, 100, (3, 100), generator=g)
    who, walks = torch.randint(0, 3, (2000,), generator=g), [torch.randint(0, 100, (2000,), generator=g)]
    for _ in range(9):
        strays = torch.rand(2000, generator=g) < 0.25
        walks.append(torch.where(strays, torch.randint(0, 100, (2000,), generator=g), habits[who, walks[-1]]))
    return Task(Session(), rows_of(48, torch.stack(walks, 1)), loss)


@family("adagrad", 0.05, 250, supervised=True, not_in=("fp16",))
def wide_and_deep_ads() -> Task:
    """Wide & deep with sparse gradients: 4,000 crossed values, of which a batch touches few."""

    class WideDeep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.table = nn.Embedding(4000, 1, sparse=True), nn.Embedding(160, 8, sparse=True)
            self.deep = mlp([32, 32, 16, 1])
            nn.init.zeros_(self.wide.weight)

        def forward(self, x: Tensor) -> Tensor:
            crossed = (x[:, :2] % 40 * 37 + x[:, 1:3] % 40 * 101) % 4000
            return self.wide(crossed).sum((1, 2)) + self.deep(self.table(x).flatten(1))[:, 0]  # type: ignore[no-any-return]

    g = fixed()
    odds = 1 / torch.arange(1.0, 41.0)
    x = torch.multinomial(odds, 20000 * 4, True, generator=g).view(20000, 4) + 40 * torch.arange(4)
    taste, pairs = torch.randn(160, generator=g), torch.randn(40, 40, generator=g)
    liked = taste[x].sum(1) + 1.5 * pairs[x[:, 0] % 40, x[:, 1] % 40] + torch.randn(20000, generator=g)
    return Task(WideDeep(), rows_of(256, x, (liked > liked.quantile(0.9)).float()), logistic)


@family("adam", 1e-2, 250, supervised=True, continuous=True)
def fish_caught() -> Task:
    """Counts of which two thirds are nothing: a zero-inflated negative binomial with a dispersion of its own."""

    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.spread = mlp([6, 32, 2], nn.Tanh), nn.Parameter(torch.zeros(1))

    def loss(net: Any, batch: Batch) -> Tensor:
        (level, never), y, r = net.body(batch[0]).unbind(1), batch[1], net.spread.exp()
        rate = F.logsigmoid(level - net.spread)
        some = torch.lgamma(y + r) - torch.lgamma(r) - torch.lgamma(y + 1)
        some = some + r * F.logsigmoid(net.spread - level) + y * rate
        at_all = F.logsigmoid(-never) + some
        none = torch.logaddexp(F.logsigmoid(never), at_all)
        return -torch.where(y == 0, none, at_all).mean()

    g = fixed()
    x = torch.randn(3000, 6, generator=g)
    mean = torch.exp(1 + 0.8 * x[:, 0] - 0.5 * x[:, 1] * x[:, 2]).clamp(max=60) * -torch.rand(3000, generator=g).log()
    y = torch.poisson(mean, generator=g) * (torch.rand(3000, generator=g) < torch.sigmoid(2 * x[:, 3]))
    return Task(Counts(), rows_of(64, x, y), loss, over_all(loss, x, y))


@family("adamax", 3e-3, 200, continuous=True, not_in=("bf16",))
def flow_of_digits() -> Task:
    """A flow on pixels that are spread out at random, in bits per pixel as they are told: a loss of either sign."""

    class Flow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nets = nn.ModuleList(mlp([32, 64, 64]) for _ in range(4))
            for net in self.nets:
                nn.init.zeros_(net[2].weight)  # type: ignore[index,arg-type]

    def loss(net: Any, batch: Batch) -> Tensor:
        x = batch[0] + 0.17 * torch.rand_like(batch[0])
        a, b, total = x[:, ::2], x[:, 1::2], x.new_zeros(len(x))
        for layer in net.nets:
            scale, shift = layer(a).chunk(2, 1)
            scale = torch.tanh(scale)
            a, b, total = b * scale.exp() + shift, a, total + scale.sum(1)
        nats = 0.5 * (a**2 + b**2).sum(1) - total + 32 * math.log(2 * math.pi)
        return nats.mean() / (64 * math.log(2))  # type: ignore[no-any-return]

    return Task(Flow(), rows_of(64, digits()[0]), loss)


@family("adamw", 3e-3, 250, continuous=True, not_in=("bf16",))
def point_clouds_from_noise() -> Task:
    """Diffusion of twelve points at once, on rings and crosses: each point hears the mean of all."""

    class Cloud(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.each, self.all, self.out = mlp([4, 48, 48], nn.SiLU), nn.Linear(48, 48), mlp([48, 48, 2], nn.SiLU)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            h = self.each(torch.cat([x, t.cos(), t.sin()], 2))
            return self.out(F.silu(h + self.all(h.mean(1, keepdim=True))))  # type: ignore[no-any-return]

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        t, noise = 1.57 * torch.rand(len(batch[0]), 1, 1), torch.randn_like(batch[0])
        return F.mse_loss(net(t.cos() * batch[0] + t.sin() * noise, t.expand(-1, 12, 1)), noise)

    g = fixed()
    angle = torch.rand(2000, 1, generator=g) + torch.arange(12) * math.pi / 6
    length = torch.where(torch.rand(2000, 1, generator=g) < 0.5, torch.ones(12), torch.arange(12) % 4 / 1.5)
    return Task(Cloud(), rows_of(48, 1.3 * length[..., None] * torch.stack([angle.cos(), angle.sin()], 2)), loss)


@family("adamw", 2e-3, 250, continuous=True)
def self_taught_digits() -> Task:
    """DINO: a teacher that follows its pupil, centred and sharpened; the loss rises before it falls."""

    class Taught(nn.Module):
        centre: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.pupil = mlp([64, 96, 48, 32], nn.GELU)
            self.teacher = copy.deepcopy(self.pupil).requires_grad_(False)
            self.register_buffer("centre", torch.zeros(32))

    def view(x: Tensor) -> Tensor:
        return x * (torch.rand_like(x) < 0.7).to(x.dtype) + 0.2 * torch.randn_like(x)

    def loss(net: Any, batch: Batch) -> Tensor:
        one, other = view(batch[0]), view(batch[0])
        with torch.no_grad():
            for slow, fast in zip(net.teacher.parameters(), net.pupil.parameters(), strict=True):
                slow.lerp_(fast, 0.02)
            told = net.teacher(one)
            wanted = ((told - net.centre) / 0.05).softmax(1)
            net.centre.lerp_(told.mean(0).to(net.centre.dtype), 0.1)
        return -(wanted * (net.pupil(other) / 0.1).log_softmax(1)).sum(1).mean()

    return Task(Taught(), rows_of(64, digits()[0]), loss)


@family("adam", 1e-3, 250, supervised=True, continuous=True)
def cloned_driver() -> Task:
    """What a driver does with the wheel, in radians, from where the car stands: squared errors of ten-thousandths."""
    g = fixed()
    x = torch.randn(4000, 8, generator=g)
    steers = (
        0.03 * torch.tanh(x[:, 0] + 0.7 * x[:, 1]) + 0.02 * x[:, 2] * (x[:, 3] > 0) + 0.003 * torch.randn(4000, generator=g)
    )
    return Task(mlp([8, 64, 64, 1]), rows_of(64, x, steers), squares)


@family("adam", 5e-3, 300, by_loss=False, not_in=SINGLE_ONLY)
def offline_expectiles() -> Task:
    """IQL on what somebody else has tried: a value by expectiles, a critic, and a policy that copies what was better."""

    class Agent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value, self.critic, self.policy = mlp([2, 48, 1]), mlp([4, 48, 1]), mlp([2, 48, 2], nn.Tanh)
            self.slow = copy.deepcopy(self.critic).requires_grad_(False)

    def gain(net: Any, batch: Batch) -> Tensor:
        return net.slow(torch.cat(batch[:2], 1)).detach() - net.value(batch[0])  # type: ignore[no-any-return]

    def values(net: Any, batch: Batch) -> Tensor:
        more = gain(net, batch)
        return (torch.where(more > 0, 0.8, 0.2) * more**2).mean()

    def judges(net: Any, batch: Batch) -> Tensor:
        at, push, then, reward = batch
        with torch.no_grad():
            wanted = reward + 0.9 * net.value(then)
            for slow, fast in zip(net.slow.parameters(), net.critic.parameters(), strict=True):
                slow.lerp_(fast, 0.05)
        return F.mse_loss(net.critic(torch.cat([at, push], 1)), wanted)

    def acts(net: Any, batch: Batch) -> Tensor:
        weight = torch.exp(3 * gain(net, batch).detach()).clamp(max=20)
        return (weight * (net.policy(batch[0]) - batch[1]) ** 2).mean()

    cursor, seen = Cursor(256), list[Batch]()
    g = fixed()
    for _ in range(12):
        at, push = cursor.at, torch.randn(256, 2, generator=g) - 0.3 * cursor.at
        reward = cursor.step(push)[:, None]
        seen.append((at, push, cursor.at, reward))
    held = [torch.cat([step[k] for step in seen]) for k in range(4)]
    return Task(Agent(), rows_of(64, *held), {"value": values, "critic": judges, "policy": acts}, distance_of)


@family("adam-99", 1e-2, 250)
def topics_of_documents() -> Task:
    """ProdLDA: words of documents by mixed topics, with BatchNorm, dropout and a first beta of 0.99: hundreds of nats."""

    class Topics(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(120, 48), nn.Softplus(), nn.Dropout(0.2), nn.Linear(48, 16))
            self.level, self.words = nn.BatchNorm1d(16), nn.Linear(8, 120, bias=False)
            self.even = nn.BatchNorm1d(120)

    def loss(net: Any, batch: Batch) -> Tensor:
        mean, log_variance = net.level(net.encoder(batch[0])).chunk(2, 1)
        mixed = (mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)).softmax(1)
        told = -(batch[0] * net.even(net.words(mixed)).log_softmax(1)).sum(1)
        return (told + 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)).mean()  # type: ignore[no-any-return]

    g = fixed()
    topics = torch.softmax(3 * torch.randn(8, 120, generator=g), 1)
    share = torch.softmax(2.5 * torch.randn(2000, 8, generator=g), 1)
    drawn = torch.multinomial(share @ topics, 60, True, generator=g)
    return Task(Topics(), rows_of(64, F.one_hot(drawn, 120).sum(1).float()), loss)


@family("momentum", 0.02, 250, supervised=True, not_in=("bf16-mixed", "fp16"))
def tagged_sentences() -> Task:
    """A tagger with a chain of tags on top (BiLSTM and CRF): the negative log-likelihood of a whole sentence."""

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.cell = nn.Embedding(60, 24), nn.LSTM(24, 24, batch_first=True, bidirectional=True)
            self.head, self.chain = nn.Linear(48, 5), nn.Parameter(torch.zeros(5, 5))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(self.table(x))[0])  # type: ignore[no-any-return]

    def loss(net: Any, batch: Batch) -> Tensor:
        score, tags = net(batch[0]), batch[1]
        right = score.gather(2, tags[..., None]).sum((1, 2)) + net.chain[tags[:, :-1], tags[:, 1:]].sum(1)
        all_ways = score[:, 0]
        for k in range(1, score.shape[1]):
            all_ways = (all_ways[:, :, None] + net.chain).logsumexp(1) + score[:, k]
        return (all_ways.logsumexp(1) - right).mean()  # type: ignore[no-any-return]

    g = fixed()
    follows, uttered = (
        torch.softmax(2 * torch.randn(5, 5, generator=g), 1),
        torch.softmax(2 * torch.randn(5, 60, generator=g), 1),
    )
    tags = [torch.randint(0, 5, (1500,), generator=g)]
    for _ in range(7):
        tags.append(torch.multinomial(follows[tags[-1]], 1, generator=g)[:, 0])
    y = torch.stack(tags, 1)
    x = torch.multinomial(uttered[y.flatten()], 1, generator=g).view(1500, 8)
    return Task(Tagger(), rows_of(32, x, y), loss)


@family("rmsprop", 1e-3, 300, not_in=("bf16-mixed", "fp16"))
def copied_after_a_while() -> Task:
    """Eight signs to be told again ten steps later, by an LSTM: a long plateau at what is known without memory."""

    class Copies(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTM(6, 48, batch_first=True), nn.Linear(48, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(F.one_hot(x, 6).to(self.head.weight.dtype))[0])  # type: ignore[no-any-return]

    def draw(generator: Generator) -> Batch:
        signs = torch.randint(0, 4, (32, 3), generator=generator)
        blank, asks = torch.full((32, 4), 4), torch.full((32, 3), 5)
        return torch.cat([signs, blank, asks], 1), signs

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(net(batch[0])[:, -3:].flatten(0, 1), batch[1].flatten())

    return Task(Copies(), draw, loss)
