"""The tenth round's faults of structure."""

from __future__ import annotations

import copy
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import clusters, curve, loader, rows
from tests.benchmarks.preflight.outsiders_parts import Lit
from tests.benchmarks.preflight.parts import Built, perceptron
from tests.benchmarks.preflight.pilgrims_parts import Player, beats, boards, cooked, fields, flat_conv, voices
from tests.benchmarks.preflight.register import faulty


@faulty("OPTIMIZER-STALE")
def optimizer_handed_in_with_a_copy() -> Built:
    """Net and optimizer come as arguments, and the net is copied so that two runs do not share it."""

    class Wrapped(L.LightningModule):
        def __init__(self, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
            super().__init__()
            self.net, self.optimizer = copy.deepcopy(net), optimizer

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return self.optimizer

    net = flat_conv()
    return Wrapped(net, torch.optim.Adam(net.parameters(), 1e-3)), loader(*beats())


@faulty("OPTIMIZER-MISSES")
def generator_read_twice() -> Built:
    """``named_parameters()`` is empty when the second group's comprehension reads it: biases are in none."""

    class Model(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 48), nn.LayerNorm(48), nn.GELU(), nn.Linear(48, 1))

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return F.mse_loss(self.net(batch[0])[:, 0], batch[1])

        def configure_optimizers(self) -> Any:
            named = self.named_parameters()
            decayed = [p for _, p in named if p.ndim > 1]
            others = [p for _, p in named if p.ndim <= 1]
            return torch.optim.AdamW([{"params": decayed}, {"params": others, "weight_decay": 0.0}], lr=1e-3)

    return Model(), loader(*curve())


@faulty("FROZEN", "NO-GRADIENT")
def teacher_shares_what_it_freezes() -> Built:
    """The teacher takes over the student's body without a copy, and is frozen: so is the student."""

    class Net(nn.Module):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body, self.head = body, nn.Linear(32, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x).relu())

    class Distilled(Lit):
        def __init__(self) -> None:
            super().__init__()
            body = nn.Sequential(nn.Conv2d(6, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.student, self.teacher = Net(body), Net(body).requires_grad_(False)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            with torch.no_grad():
                wanted = self.teacher(batch[0]).softmax(-1)
            scores = self.student(batch[0])
            return F.cross_entropy(scores, batch[1]) + 0.1 * F.cross_entropy(scores, wanted)

    return Distilled(), loader(*fields(), size=16)


@faulty("NOT-REGISTERED")
def head_within_a_lambda() -> Built:
    """A layer that only a closure knows is no part of the module."""

    class Beats(Lit):
        def __init__(self) -> None:
            super().__init__()
            first, last = nn.Linear(64, 32), nn.Linear(32, 3)
            self.body, self.head = (
                nn.Sequential(nn.Conv1d(1, 1, 5, padding=2), nn.Flatten()),
                lambda h: last(F.relu(first(h))),
            )

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.head(self.body(batch["lead"])), batch["kind"])

    x, kind = beats()
    return Beats(), rows(lead=x, kind=kind)


@faulty("SYMMETRIC-INIT")
def experts_copied_from_one() -> Built:
    """Copies of one expert under gates that begin even: all get the same gradient for ever."""

    class Mixture(Lit):
        def __init__(self) -> None:
            super().__init__()
            expert = perceptron(6, 1, 16)
            self.experts = nn.ModuleList(copy.deepcopy(expert) for _ in range(4))
            self.gate = nn.Linear(6, 4)
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            gates = self.gate(batch[0]).softmax(1)
            return F.mse_loss((gates * torch.cat([expert(batch[0]) for expert in self.experts], 1)).sum(1), batch[1])

    return Mixture(), loader(*curve())


@faulty("INIT-SCALE", "INITIAL-LOSS", "GRAD-EXPLODING")
def convolutions_drawn_with_one_half() -> Built:
    """``apply(init)`` with a fixed deviation whatever the width: scores come out far too large."""

    def init(layer: nn.Module) -> None:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(layer.weight, 0.0, 0.5)

    class Zero(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.player = Player(width=48).apply(init)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            scores, value = self.player(batch["stones"])
            return F.cross_entropy(scores, batch["tried"]) + F.mse_loss(value, batch["won"])

    return Zero(), rows(**boards())


@faulty("INITIAL-LOSS", "INIT-SCALE")
def products_of_any_length_over_seven_hundredths() -> Built:
    """InfoNCE with a temperature of 0.07 that belongs to vectors of length 1; these are not normalised."""

    class Pairs(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(12, 128), nn.Linear(12, 128)
            for tower in (self.left, self.right):
                nn.init.xavier_normal_(tower.weight, gain=2.0)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            x = batch[0]
            one, other = x + 0.1 * torch.randn_like(x), x + 0.1 * torch.randn_like(x)
            return F.cross_entropy(self.left(one) @ self.right(other).T / 0.07, torch.arange(len(x)))

    return Pairs(), loader(clusters()[0])


@faulty("NO-GRADIENT")
def quantised_without_a_bridge() -> Built:
    """The nearest entries go on to the decoder; neither a straight-through gradient nor a commitment reaches the encoder."""

    class Quantised(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder, self.book = perceptron(64, 8), perceptron(8, 64), nn.Embedding(32, 8)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            x = batch[0].flatten(1)
            z = self.encoder(x)
            entry = self.book(torch.cdist(z, self.book.weight).argmin(1))
            return F.mse_loss(self.decoder(entry), x) + F.mse_loss(entry, z.detach())

    return Quantised(), loader(beats()[0])


@faulty("NO-GRADIENT")
def looked_up_in_the_data() -> Built:
    """``embedding.weight.data[index]`` knows nothing of gradients."""

    class Dishes(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(50, 24), nn.Linear(24, 4)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            rows_of = self.table.weight.data[batch["ingredients"]]
            dish = torch.zeros(len(batch["begins"]), len(batch["ingredients"]))
            number = (torch.arange(len(batch["ingredients"]))[:, None] >= batch["begins"]).sum(1) - 1
            dish[number, torch.arange(len(number))] = 1.0
            return F.cross_entropy(self.head(dish @ rows_of), batch["kitchen"])

    return Dishes(), cooked()


@faulty("NO-GRADIENT", "ZERO-GRADIENT")
def spikes_without_a_surrogate() -> Built:
    """Neurons that fire by comparison: what lies before the spikes is not taught."""

    class Spiking(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.out = nn.Linear(64, 48), nn.Linear(48, 3)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            current, charge, fired = self.into(batch[0].flatten(1)), torch.zeros(len(batch[0]), 48), []
            for _ in range(6):
                charge = 0.8 * charge + current
                spikes = (charge > 0.5).float()
                charge = charge * (1 - spikes)
                fired.append(self.out(spikes))
            return F.cross_entropy(torch.stack(fired).mean(0), batch[1])

    return Spiking(), loader(*beats())


@faulty("DEAD-UNITS", "ZERO-GRADIENT", "IGNORES-INPUT")
def norms_that_begin_at_nothing() -> Built:
    """Scales of 0 belong to the last norm of a residual branch; this net has no other path."""

    class Crops(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(6, 24, 3), nn.BatchNorm2d(24), nn.Linear(24, 5)
            nn.init.zeros_(self.norm.weight)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.head(self.norm(self.conv(batch[0])).relu().mean((2, 3))), batch[1])

    return Crops(), loader(*fields(), size=16)


@faulty("GRAD-VANISHING")
def twelve_squashing_convolutions() -> Built:
    """Sigmoids between twelve convolutions, no norm, no other path."""

    class Beats(Lit):
        def __init__(self) -> None:
            super().__init__()
            layers = [nn.Sequential(nn.Conv1d(8, 8, 3, padding=1), nn.Sigmoid()) for _ in range(12)]
            self.net = nn.Sequential(nn.Conv1d(1, 8, 3, padding=1), *layers, nn.Flatten(), nn.Linear(512, 3))

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

    return Beats(), loader(*beats())


@faulty("GRAD-NOT-ZEROED")
def cleared_at_every_eighth_batch() -> Built:
    """ "Accumulation" by a hook alone: the optimizer steps on every batch, on all gradients of up to eight."""

    class Separator(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv1d(1, 16, 9, padding=4), nn.ReLU(), nn.Conv1d(16, 2, 9, padding=4))

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return F.l1_loss(self.net(batch[0][:, None]), batch[1])

        def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
            if batch_idx % 8 == 0:
                optimizer.zero_grad()

    return Separator(), loader(*voices())
