"""A tenth round of healthy cases, odd on purpose: losses and losses' shapes."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import clusters, curve, generator, loader, rows
from tests.benchmarks.preflight.outsiders_parts import ByHand, Lit
from tests.benchmarks.preflight.parts import Attention, Built, perceptron
from tests.benchmarks.preflight.pilgrims_parts import Player, beats, boards, cooked, fields, flat_conv, hands, swings, voices
from tests.benchmarks.preflight.register import healthy


@healthy
def policy_of_a_search_and_who_won() -> Built:
    """AlphaZero (Silver et al. 2017): cross entropy with shares as targets, tanh for a value that is 1 or -1."""

    class Zero(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.player = Player()

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            scores, value = self.player(batch["stones"])
            return -(batch["tried"] * scores.log_softmax(1)).sum(1).mean() + F.mse_loss(value, batch["won"])

    return Zero(), rows(**boards())


@healthy
def voices_in_either_order() -> Built:
    """Permutation-invariant training (Yu et al. 2017) on the negative ratio of signal to distortion, in decibels."""

    class Separator(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv1d(1, 16, 9, padding=4), nn.ReLU(), nn.Conv1d(16, 2, 9, padding=4))

        def ratio(self, told: Tensor, true: Tensor) -> Tensor:
            noise = (told - true).square().sum(-1)
            return 10 * torch.log10(true.square().sum(-1) / (noise + 1e-5) + 1e-5)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            told, both = self.net(batch[0][:, None]), batch[1]
            orders = [self.ratio(told[:, list(order)], both).mean(1) for order in permutations(range(2))]
            return -torch.stack(orders).amax(0).mean()

    return Separator(), loader(*voices())


@healthy
def dishes_in_one_row() -> Built:
    """EmbeddingBag with offsets: no tensor of the batch but the labels has the batch's length first."""

    class Dishes(Lit):
        lr = 1e-2

        def __init__(self) -> None:
            super().__init__()
            self.bag, self.head = nn.EmbeddingBag(50, 24, mode="sum"), nn.Linear(24, 4)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.head(self.bag(batch["ingredients"], batch["begins"])), batch["kitchen"])

    return Dishes(), cooked()


@healthy
def spikes_with_a_surrogate() -> Built:
    """Comparison forwards, the slope of a fast sigmoid backwards (Zenke & Ganguli 2018)."""

    class Fire(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, charge: Tensor) -> Tensor:
            ctx.save_for_backward(charge)
            return (charge > 0).float()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            (charge,) = ctx.saved_tensors
            return grad / (1 + 5 * charge.abs()).square()

    class Spiking(Lit):
        lr = 3e-3

        def __init__(self) -> None:
            super().__init__()
            self.into, self.out = nn.Linear(64, 48), nn.Linear(48, 3)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            current, charge, fired = self.into(batch[0].flatten(1)), torch.zeros(len(batch[0]), 48), []
            for _ in range(6):
                charge = 0.8 * charge + current
                spikes = Fire.apply(charge - 0.5)
                charge = charge * (1 - spikes.detach())
                fired.append(self.out(spikes))
            return F.cross_entropy(torch.stack(fired).mean(0), batch[1])

    return Spiking(), loader(*beats())


@healthy
def masked_cards_of_a_bert() -> Built:
    """Transformers' masked language model: five of six labels are -100 on purpose, and the step draws which."""
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    class Masked(Lit):
        lr = 2e-3

        def __init__(self) -> None:
            super().__init__()
            self.model = DistilBertForMaskedLM(DistilBertConfig(vocab_size=23, dim=32, n_layers=1, n_heads=2, hidden_dim=64))

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            hide = torch.rand(batch["input_ids"].shape) < 1 / 6
            hide[:, 2] = True
            hidden = batch["input_ids"].masked_fill(hide, 22)
            return self.model(input_ids=hidden, labels=batch["input_ids"].masked_fill(~hide, -100)).loss

    return Masked(), rows(input_ids=hands()[1])


@healthy
def triples_matched_to_slots() -> Built:
    """DETR (Carion et al. 2020) in small: three slots, and of all six orders the cheapest (no gradient) is taught."""

    class Slots(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(9, 6, 64)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            told, orders = self.net(batch["seen"]).view(-1, 3, 2), list(permutations(range(3)))
            costs = torch.stack([(told - batch["places"][:, list(order)]).abs().sum((1, 2)) for order in orders], 1)
            chosen = costs.detach().argmin(1)
            return costs.gather(1, chosen[:, None]).mean()

    places = torch.randn(640, 3, 2, generator=generator())
    seen = torch.cat([places.sum(1), places.square().sum(1), places.prod(1), places.amax(1), places.std((1, 2))[:, None]], 1)
    return Slots(), rows(seen=(seen - seen.mean(0)) / seen.std(0), places=places)


@healthy
def variance_over_the_batch() -> Built:
    """VICReg (Bardes et al. 2022): variances and covariances over the batch are the loss itself."""

    class Vicreg(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(12, 16)

        def spread(self, z: Tensor) -> Tensor:
            z = z - z.mean(0)
            covariance = z.T @ z / (len(z) - 1)
            apart = covariance.square().sum() - covariance.diagonal().square().sum()
            return F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean() + apart / 16 / 25

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            one, other = (self.net(batch[0] + 0.2 * torch.randn_like(batch[0])) for _ in range(2))
            return F.mse_loss(one, other) + self.spread(one) + self.spread(other)

    return Vicreg(), loader(clusters()[0], size=64)


@healthy
def gaussian_process_of_each_batch() -> Built:
    """The marginal likelihood of a batch, by its Cholesky factor: samples depend on each other, as they should."""

    class Process(Lit):
        lr = 1e-2

        def __init__(self) -> None:
            super().__init__()
            self.log_width, self.log_noise = nn.Parameter(torch.zeros(6)), nn.Parameter(torch.tensor(-1.0))

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            x, y = batch[0] / self.log_width.exp(), batch[1]
            kernel = torch.exp(-0.5 * (x[:, None] - x).square().sum(-1)) + (self.log_noise.exp() + 1e-4) * torch.eye(len(x))
            return -torch.distributions.MultivariateNormal(torch.zeros(len(x)), kernel).log_prob(y) / len(x)

    return Process(), loader(*curve())


@healthy
def counts_by_their_logarithm() -> Built:
    """Squares of logarithms (MSLE): targets from nothing to thousands, and log1p of them in the step."""

    class Sales(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(6, 1)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.mse_loss(self.net(batch["shop"])[:, 0], batch["sold"].log1p())

    x, y = curve()
    return Sales(), rows(shop=x, sold=(2.0 * y + 3.0).exp().round())


@healthy
def adversary_beside_an_l1_loss() -> Built:
    """pix2pix (Isola et al. 2017) by hand: two optimizers, and labels of ones and zeros made in the step."""

    class Translator(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.g = nn.Sequential(
                nn.Conv2d(6, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1)
            )
            self.d = nn.Sequential(nn.Conv2d(7, 16, 3), nn.LeakyReLU(0.2), nn.Conv2d(16, 1, 3))

        def told(self, x: Tensor, picture: Tensor, real: float) -> Tensor:
            score = self.d(torch.cat([x, picture], 1))
            return F.binary_cross_entropy_with_logits(score, torch.full_like(score, real))

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
            opt_g, opt_d = self.optimizers()
            x, wanted = batch["bands"], batch["green"]
            fake = self.g(x)
            opt_d.zero_grad()
            self.manual_backward(0.5 * (self.told(x, wanted, 1.0) + self.told(x, fake.detach(), 0.0)))
            opt_d.step()
            opt_g.zero_grad()
            self.manual_backward(self.told(x, fake, 1.0) + 10 * F.l1_loss(fake, wanted))
            opt_g.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.Adam(net.parameters(), 5e-4, betas=(0.5, 0.999)) for net in (self.g, self.d)]

    x, _ = fields()
    return Translator(), rows(bands=x, green=torch.tanh(x[:, :1] - 0.5 * x[:, 1:2]), size=16)


@healthy
def batches_without_an_early_beat_are_left_out() -> Built:
    """``training_step`` returns None where there is nothing to learn; Lightning goes on with the next batch."""

    class Early(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = flat_conv(1)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor | None:
            lead, kind = batch
            early = (kind == 1).float()
            if early.sum() < 4:
                return None
            return F.binary_cross_entropy_with_logits(self.net(lead)[:, 0], early)

    return Early(), loader(*beats(), size=16)


@healthy
def sorts_with_attention_over_what_was_dealt() -> Built:
    """Pointer network (Vinyals et al. 2015): the scores of attention are the answer, the cards before are given."""

    class Pointer(Lit):
        lr = 3e-3

        def __init__(self) -> None:
            super().__init__()
            self.table, self.encoder, self.decoder = (
                nn.Embedding(21, 24),
                nn.GRU(24, 24, batch_first=True),
                nn.GRUCell(24, 24),
            )
            self.key, self.query, self.start = nn.Linear(24, 24), nn.Linear(24, 24), nn.Parameter(torch.zeros(24))

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            dealt, ordered = batch
            read, last = self.encoder(self.table(dealt))
            state, given, losses = last[0], self.start.expand(len(dealt), -1), []
            for place in range(6):
                state = self.decoder(given, state)
                scores = (self.key(read) * self.query(state)[:, None]).sum(-1) / 24**0.5
                losses.append(F.cross_entropy(scores, (dealt == ordered[:, place, None]).long().argmax(1)))
                given = self.table(ordered[:, place])
            return torch.stack(losses).mean()

    return Pointer(), loader(*hands())


@healthy
def steps_of_runge_and_kutta() -> Built:
    """A learnt derivative, integrated by hand; the first state alone is given, and the whole path is the target."""

    class Pendulum(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.slope = perceptron(2, 2, 32, nn.Tanh)

        def step(self, state: Tensor, dt: float = 0.1) -> Tensor:
            first = self.slope(state)
            return state + dt * self.slope(state + 0.5 * dt * first)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            state, path = batch[0][:, 0], []
            for _ in range(batch[0].shape[1] - 1):
                state = self.step(state)
                path.append(state)
            return F.mse_loss(torch.stack(path, 1), batch[0][:, 1:])

    return Pendulum(), loader(swings())


@healthy
def tags_of_cards_from_both_sides() -> Built:
    """Is a card larger than both neighbours? Attention may look ahead: nothing is to be foretold."""

    class Tagger(Lit):
        lr = 3e-3

        def __init__(self) -> None:
            super().__init__()
            self.table, self.places = nn.Embedding(21, 32), nn.Parameter(0.1 * torch.randn(6, 32))
            self.block, self.head = Attention(32, causal=False), nn.Linear(32, 1)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            score = self.head(self.block(self.table(batch["cards"]) + self.places)).squeeze(-1)
            return F.binary_cross_entropy_with_logits(score, batch["peak"])

    cards, _ = hands()
    sides = F.pad(cards, (1, 1))
    return Tagger(), rows(cards=cards, peak=((cards > sides[:, :-2]) & (cards > sides[:, 2:])).float())
