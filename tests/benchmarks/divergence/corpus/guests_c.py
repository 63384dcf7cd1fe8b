"""The last families of the guest who had not read the rules: sounds, stories and alignments."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.divergence.corpus.family import Batch, Task, family, fixed, rows_of
from tests.benchmarks.divergence.corpus.guests import HALF
from tests.benchmarks.divergence.models import mlp


@family("adam", 1e-2, 150, supervised=True, continuous=True)
def guest_two_at_once() -> Task:
    """Two sounds from their sum by a masked filter bank, whichever is which: decibels, from plus twenty far below zero."""

    class Separate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hear, self.sound = nn.Conv1d(1, 32, 16, 8, bias=False), nn.ConvTranspose1d(32, 1, 16, 8, bias=False)
            self.mask = nn.Sequential(
                nn.GroupNorm(1, 32), nn.Conv1d(32, 32, 3, 1, 1), nn.PReLU(), nn.GroupNorm(1, 32),
                nn.Conv1d(32, 32, 3, 1, 2, 2), nn.PReLU(), nn.Conv1d(32, 64, 1), nn.Sigmoid(),
            )  # fmt: skip

        def forward(self, x: Tensor) -> Tensor:
            heard = F.relu(self.hear(x[:, None]))
            masked = self.mask(heard).unflatten(1, (2, 32)) * heard[:, None]
            return self.sound(masked.flatten(0, 1)).view(len(x), 2, -1)  # type: ignore[no-any-return]

    def decibels(told: Tensor, true: Tensor) -> Tensor:
        part = (told * true).sum(2, keepdim=True) / (true.square().sum(2, keepdim=True) + 1e-6) * true
        return -10 * ((part.square().sum(2) + 1e-6) / ((told - part).square().sum(2) + 1e-6)).log10()

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        told = net(batch[0])
        ways = [decibels(told, batch[1]).mean(1), decibels(told, batch[1].flip(1)).mean(1)]
        return torch.stack(ways).amin(0).mean()

    g, time = fixed(), torch.arange(160)
    pitch = torch.tensor([0.25, 1.1])[:, None] * (0.7 + 0.6 * torch.rand(800, 2, 1, generator=g))
    both = (pitch * time + 6.28 * torch.rand(800, 2, 1, generator=g)).sin()
    both = both * (1 + 0.5 * (0.1 * time * torch.rand(800, 2, 1, generator=g)).sin())
    return Task(Separate(), rows_of(12, both.sum(1), both), loss)


class Memory(nn.Module):
    """Sentences are kept by two tables and asked twice (Sukhbaatar et al. 2015); later ones are told apart by when."""

    def __init__(self, words: int, width: int = 24) -> None:
        super().__init__()
        self.keys, self.values, self.question = (nn.Embedding(words, width) for _ in range(3))
        self.when, self.mix, self.out = (
            nn.Parameter(0.1 * torch.randn(2, 6, width)),
            nn.Linear(width, width),
            nn.Linear(width, 6),
        )

    def forward(self, story: Tensor, asked: Tensor) -> Tensor:
        """[batch, 6, 2] words and [batch] names to logits of places."""
        keys, values = self.keys(story).sum(2) + self.when[0], self.values(story).sum(2) + self.when[1]
        state = self.question(asked)
        for _ in range(2):
            weights = (keys @ state[..., None])[..., 0].softmax(1)
            state = self.mix(state) + (weights[..., None] * values).sum(1)
        return self.out(state)  # type: ignore[no-any-return]


@family("adam", 2e-2, 250, supervised=True)
def guest_where_is_john() -> Task:
    """Six sentences of who went where, and the question where one of them is now: a memory that is asked twice."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(net(*batch[:2]), batch[2])

    g = fixed()
    who, place = torch.randint(0, 4, (4000, 6), generator=g), torch.randint(0, 6, (4000, 6), generator=g)
    asked = who.gather(1, torch.randint(0, 6, (4000, 1), generator=g))
    last = ((who == asked) * torch.arange(1, 7)).argmax(1, keepdim=True)
    story = torch.stack([who, place + 4], 2)
    return Task(Memory(10), rows_of(32, story, asked[:, 0], place.gather(1, last)[:, 0]), loss)


class Transducer(nn.Module):
    """What is heard and what was written meet in one layer (Graves 2012); sign 0 says nothing and goes on."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.hear, self.signs = nn.GRU(6, width, batch_first=True), nn.Embedding(6, width)
        self.write, self.out = nn.GRU(width, width, batch_first=True), nn.Linear(width, 6)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """[batch, time, 6] and [batch, signs] to log-probabilities [batch, time, signs + 1, 6]."""
        written = self.write(self.signs(F.pad(told, (1, 0))))[0]
        return self.out((self.hear(x)[0][:, :, None] + written[:, None]).tanh()).log_softmax(3)  # type: ignore[no-any-return]


@family("adam", 2.5e-2, 150, supervised=True, continuous=True)
def guest_written_as_heard() -> Task:
    """A transducer: all ways to write four signs while twelve frames go by, summed; the loss begins near fifteen."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        out = net(*batch).float()
        silent = out[..., 0]
        spoken = out[:, :, :4].gather(3, batch[1][:, None, :, None].expand(-1, 12, -1, 1))[..., 0]
        ways = F.pad(spoken[:, 0], (1, 0)).cumsum(1)
        for t in range(1, 12):
            row = [ways[:, 0] + silent[:, t - 1, 0]]
            for u in range(1, 5):
                row.append(torch.logaddexp(ways[:, u] + silent[:, t - 1, u], row[-1] + spoken[:, t, u - 1]))
            ways = torch.stack(row, 1)
        return -(ways[:, 4] + silent[:, 11, 4]).mean()

    g = fixed()
    told = 1 + torch.randint(0, 5, (2000, 4), generator=g)
    frames = F.one_hot(told, 6).float().repeat_interleave(3, 1)
    return Task(Transducer(), rows_of(16, 1.5 * frames + 0.5 * torch.randn(frames.shape, generator=g), told), loss)


@family("sgd", 1.0, 250, supervised=True, continuous=True)
def guest_which_pair_is_true() -> Task:
    """Neural ratio estimation: do these numbers and that orbit belong together; half of them do, log 2 at first."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        orbit, numbers = batch
        true, false = net(torch.cat([orbit, numbers], 1)), net(torch.cat([orbit, numbers.roll(1, 0)], 1))
        return (F.softplus(-true) + F.softplus(false)).mean() / 2

    g, time = fixed(), torch.linspace(0, 3, 10)
    numbers = torch.rand(4000, 2, generator=g)
    orbit = ((1 + 2 * numbers[:, :1]) * time).sin() * torch.exp(-numbers[:, 1:] * time)
    orbit = orbit + 0.1 * torch.randn(orbit.shape, generator=g)
    return Task(mlp([12, 48, 48, 1], nn.SiLU), rows_of(64, 1.5 * orbit, 3.5 * (numbers - 0.5)), loss)


class Autoregressive(nn.Module):
    """One masked layer of a flow: each column is shifted and stretched by those before it (Papamakarios et al. 2017)."""

    before: Tensor
    later: Tensor

    def __init__(self, columns: int, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(columns, width), nn.Linear(width, 2 * columns)
        rank = torch.arange(width) % (columns - 1)
        self.register_buffer("before", (torch.arange(columns) <= rank[:, None]).float())
        self.register_buffer("later", (rank < torch.arange(columns)[:, None]).float().repeat(2, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, columns] to the noise that it came from, and the logarithm of the volume."""
        h = F.linear(x, self.first.weight * self.before, self.first.bias).tanh()
        shift, size = F.linear(h, self.second.weight * self.later, self.second.bias).chunk(2, 1)
        return (x - shift) * torch.exp(-size), -size.sum(1)


@family("adamax", 3e-2, 200, continuous=True, not_in=HALF)
def guest_banana_densities() -> Task:
    """A masked autoregressive flow of three layers on six bent columns: nats that fall below what a Gaussian reaches."""

    class Flow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(Autoregressive(6, 36) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            volume = torch.zeros(len(x), dtype=x.dtype)
            for layer in self.layers:
                x, more = layer(x.flip(1))
                volume = volume + more
            return volume - 0.5 * x.square().sum(1) - 3 * math.log(2 * math.pi)

    def loss(net: Any, batch: Batch) -> Tensor:
        return -net(batch[0]).mean()  # type: ignore[no-any-return]

    z = torch.randn(3000, 6, generator=fixed())
    bent = z[:, :3] ** 2 - 1 + 0.2 * z[:, 3:]
    return Task(Flow(), rows_of(64, torch.cat([z[:, :3], bent], 1)), loss)
