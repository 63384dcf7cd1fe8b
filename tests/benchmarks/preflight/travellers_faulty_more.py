"""The ninth round's faults of structure and behaviour."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from tests.benchmarks.preflight.data import chains, generator, loader, rows
from tests.benchmarks.preflight.outsiders_parts import ByHand, Lit, moves
from tests.benchmarks.preflight.parts import Attention, Built, perceptron
from tests.benchmarks.preflight.register import faulty
from tests.benchmarks.preflight.travellers_parts import Points, arms, clouds, depths, listeners, loads, names, subjects


@faulty("OPTIMIZER-STALE", "OPTIMIZER-MISSES")
def weight_norm_after_the_optimizer() -> Built:
    """``weight_norm`` gives a layer new parameters; the optimizer was made before."""

    class Arm(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(3, 2)
            self.optimizer = torch.optim.Adam(self.net.parameters(), 1e-3)
            for place in (0, 2):
                weight_norm(self.net[place])

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return F.mse_loss(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return self.optimizer

    return Arm(), loader(*arms())


@faulty("OPTIMIZER-MISSES")
def second_optimizer_of_the_first_net() -> Built:
    """Copied and half changed: both optimizers hold the actor."""

    class Agent(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.actor, self.critic = perceptron(4, 3), perceptron(4, 1)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
            actor, critic = self.optimizers()
            value = self.critic(batch["obs"]).squeeze(-1)
            critic.zero_grad()
            self.manual_backward(F.mse_loss(value, batch["reward"]))
            critic.step()
            told = F.log_softmax(self.actor(batch["obs"]), -1).gather(1, batch["action"][:, None])[:, 0]
            actor.zero_grad()
            self.manual_backward(-(told * (batch["reward"] - value.detach())).mean())
            actor.step()

        def configure_optimizers(self) -> Any:
            actor = torch.optim.Adam(self.actor.parameters(), lr=3e-4)
            critic = torch.optim.Adam(self.actor.parameters(), lr=1e-3)
            return [actor, critic]

    m = moves()
    return Agent(), rows(obs=m["obs"], action=m["action"], reward=m["reward"])


@faulty("NOT-REGISTERED")
def table_cast_after_it_was_a_parameter() -> Built:
    """``nn.Parameter(…).float()`` is a tensor that comes of a parameter, and no parameter."""

    class Speller(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(27, 24), nn.Linear(24, 5)
            self.places = nn.Parameter(0.5 * torch.randn(10, 24, dtype=torch.float64)).float()

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.head(torch.tanh(self.table(batch["name"]) + self.places).mean(1)), batch["people"])

    letters, _, people = names()
    return Speller(), rows(name=letters, people=people)


@faulty("EVAL-MODE")
def melodies_drawn_within_the_step() -> Built:
    """Every hundred steps something is drawn to be looked at, in eval mode; nobody goes back."""

    class Composer(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.songs, self.drop = nn.Embedding(40, 24), nn.Dropout(0.3)
            self.cell, self.out = nn.GRU(24, 32, batch_first=True), nn.Linear(32, 40)

        def forward(self, heard: Tensor) -> Tensor:
            return self.out(self.drop(self.cell(self.drop(self.songs(heard)))[0]))

        @torch.no_grad()
        def compose(self, start: Tensor) -> Tensor:
            self.eval()
            for _ in range(4):
                start = torch.cat([start, self(start)[:, -1:].argmax(-1)], 1)
            return start

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            if batch_idx % 100 == 0:
                self.melody = self.compose(batch[0][:1, :2])
            return F.cross_entropy(self(batch[0][:, :-1]).transpose(1, 2), batch[0][:, 1:])

    return Composer(), loader(listeners()[0])


@faulty("SYMMETRIC-INIT")
def layers_of_ones_over_their_number() -> Built:
    """A layer of one's own, whose weights are "1 / inputs, to keep the scale"."""

    class Dense(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.w, self.b = nn.Parameter(torch.ones(inputs, outputs) / inputs), nn.Parameter(torch.zeros(outputs))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.w + self.b

    class Clouds(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.phi, self.rho = nn.Sequential(Dense(3, 32), nn.ReLU(), Dense(32, 32)), Dense(32, 4)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.rho(self.phi(batch[0]).relu().mean(1)), batch[1])

    return Clouds(), loader(*clouds())


@faulty("INIT-SCALE", "GRAD-EXPLODING", "INITIAL-LOSS")
def weights_drawn_from_nothing_to_one() -> Built:
    """``torch.rand``: all positive, and each layer makes its sums sixteen times larger."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            widths = [32, 32, 32, 32, 8]
            self.weights = nn.ParameterList(torch.rand(a, b) for a, b in pairwise(widths))

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            h, future = batch
            for w in self.weights[:-1]:
                h = F.relu(h @ w)
            return F.mse_loss(h @ self.weights[-1], future)

    return Model(), loader(*loads())


@faulty("NO-GRADIENT")
def two_losses_in_a_new_tensor() -> Built:
    """``torch.tensor([...], requires_grad=True)`` ends the error message, and the training."""

    class Both(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.kind, self.size = Points(outputs=16), nn.Linear(16, 4), nn.Linear(16, 1)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            points, kind = batch
            h = self.body(points).relu()
            losses = [F.cross_entropy(self.kind(h), kind), F.mse_loss(self.size(h)[:, 0], points.norm(dim=-1).mean(1))]
            return torch.tensor(losses, requires_grad=True).mean()

    return Both(), loader(*clouds())


@faulty("NO-GRADIENT")
def checkpointed_behind_a_frozen_table() -> Built:
    """open-unlearning #178: with use_reentrant a block whose input needs no gradient gets none."""

    class Speller(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(24, 32).requires_grad_(False)
            self.blocks, self.head = nn.ModuleList(Attention(32) for _ in range(2)), nn.Linear(32, 24)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            h = self.table(batch[0][:, :-1])
            for block in self.blocks:
                h = checkpoint(block, h, use_reentrant=True)
            return F.cross_entropy(self.head(h).flatten(0, 1), batch[0][:, 1:].flatten())

    return Speller(), loader(chains(), size=16)


@faulty("GRAD-NOT-ZEROED")
def zero_grad_without_parentheses() -> Built:
    """``optimizer.zero_grad`` names the method and does not call it."""

    class Subjects(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(16, 6)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad  # noqa: B018
            self.manual_backward(F.binary_cross_entropy_with_logits(self.net(batch[0]), batch[1]))
            optimizer.step()

    return Subjects(), loader(*subjects())


@faulty("DEAD-UNITS", "ZERO-GRADIENT")
def two_activations_that_leave_nothing() -> Built:
    """``logsigmoid`` is below 0 everywhere, and ReLU comes after it."""

    class Arm(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 48), nn.LogSigmoid(), nn.ReLU(), nn.Linear(48, 2))

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return F.mse_loss(self.net(batch[0]), batch[1])

    return Arm(), loader(*arms())


@faulty("BATCH-MIXING")
def last_states_of_both_directions_viewed() -> Built:
    """``h_n.view(N, -1)`` of (2, N, H): two samples' states lie side by side where two directions' should."""

    class Peoples(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(27, 16), nn.Linear(48, 5)
            self.cell = nn.LSTM(16, 24, batch_first=True, bidirectional=True)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            _, (last, _) = self.cell(self.table(batch["name"]))
            return F.cross_entropy(self.head(last.view(len(batch["name"]), -1)), batch["people"])

    letters, _, people = names()
    return Peoples(), rows(name=letters, people=people)


@faulty("NOT-CAUSAL")
def mask_multiplied_where_it_is_added() -> Built:
    """transformers #31673: a lower triangle times a mask of zeros; what is added to the scores is 0 everywhere."""

    class Composer(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.songs, self.q, self.k, self.v = nn.Embedding(40, 32), *(nn.Linear(32, 32) for _ in range(3))
            self.out = nn.Linear(32, 40)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            x = self.songs(batch[0])
            mask = torch.zeros(8, 8) * torch.tril(torch.ones(8, 8))
            scores = self.q(x) @ self.k(x).transpose(1, 2) / 32**0.5 + mask
            h = x + scores.softmax(-1) @ self.v(x)
            return F.cross_entropy(self.out(h[:, :-1]).transpose(1, 2), batch[0][:, 1:])

    return Composer(), loader(listeners()[0])


@faulty("IGNORES-INPUT")
def frequencies_never_filled() -> Built:
    """Fourier features whose frequencies are a buffer of zeros that a checkpoint was to fill."""

    class Field(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("frequencies", torch.zeros(2, 16))
            self.net = perceptron(32, 1)

        def forward(self, places: Tensor) -> Tensor:
            turned = 6.283 * places @ self.frequencies
            return self.net(torch.cat([turned.sin(), turned.cos()], -1))

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.mse_loss(self(batch["places"]), batch["grey"])

    places = 2 * torch.rand(1600, 2, generator=generator()) - 1
    return Field(), rows(places=places, grey=torch.sin(4 * places[:, :1]) * torch.cos(3 * places[:, 1:]))


@faulty("NONDETERMINISTIC")
def attention_dropout_whatever_the_mode() -> Built:
    """``scaled_dot_product_attention`` is a function: it drops by ``dropout_p`` in eval mode as well."""

    class Clouds(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.qkv, self.head = nn.Linear(3, 32), nn.Linear(32, 96), nn.Linear(32, 4)

        def forward(self, points: Tensor) -> Tensor:
            q, k, v = self.qkv(self.into(points).relu()).chunk(3, -1)
            return self.head(F.scaled_dot_product_attention(q, k, v, dropout_p=0.2).amax(1))

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

    return Clouds(), loader(*clouds())


@faulty("UPDATE-LOST")
def step_overridden_for_warmup() -> Built:
    """``optimizer_step`` is overridden to set the rate; the closure runs, and the optimizer never steps."""

    class Depth(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1))

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return F.l1_loss(self.net(batch[0])[:, 0], batch[1])

        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            optimizer_closure()
            for group in optimizer.param_groups:
                group["lr"] = min(1.0, (self.trainer.global_step + 1) / 20) * self.lr

    return Depth(), loader(*depths(), size=16)
