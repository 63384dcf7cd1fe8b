"""A ninth round of healthy cases, odd on purpose: what looks like a fault and is none."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.functional.image import structural_similarity_index_measure

from tests.benchmarks.preflight.data import clusters, curve, generator, loader, pictures, rows
from tests.benchmarks.preflight.outsiders_parts import ByHand, Lit
from tests.benchmarks.preflight.parts import Built, convnet, perceptron
from tests.benchmarks.preflight.register import healthy
from tests.benchmarks.preflight.travellers_parts import (
    Points,
    arms,
    batches,
    clouds,
    depths,
    listeners,
    names,
    padded,
    pixelwise,
    proteins,
    subjects,
)


@healthy
def teacher_is_the_mean_of_students() -> Built:
    """Tarvainen & Valpola 2017: a slow copy, written after each batch, and a loss of consistency beside cross entropy."""

    class MeanTeacher(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.student = Points()
            self.teacher = copy.deepcopy(self.student).requires_grad_(False)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            points, kind = batch
            with torch.no_grad():
                wanted = self.teacher(points + 0.02 * torch.randn_like(points)).softmax(-1)
            scores = self.student(points + 0.02 * torch.randn_like(points))
            return F.cross_entropy(scores, kind) + 0.5 * F.mse_loss(scores.softmax(-1), wanted)

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                slow.data.lerp_(fast.data, 0.05)

    return MeanTeacher(), loader(*clouds())


@healthy
def one_class_around_a_centre() -> Built:
    """Deep SVDD (Ruff et al. 2018): no labels, no biases, a fixed centre that the outputs are drawn to."""

    class Svdd(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(12, 32, bias=False), nn.LeakyReLU(), nn.Linear(32, 8, bias=False))
            self.register_buffer("centre", torch.full((8,), 0.5))

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return (self.net(batch[0]) - self.centre).square().sum(1).mean()

    return Svdd(), loader(clusters()[0])


@healthy
def drops_when_it_predicts() -> Built:
    """Monte-Carlo dropout (Gal & Ghahramani 2016): ``predict_step`` alone switches dropout on."""

    class Bayesian(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 48), nn.ReLU(), nn.Dropout(0.1), nn.Linear(48, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.mse_loss(self(batch["x"]), batch["y"])

        def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            self.net[2].train()
            return torch.stack([self(batch["x"]) for _ in range(10)]).std(0)

    x, y = curve()
    return Bayesian(), rows(x=x, y=y[:, None])


@healthy
def both_sides_are_logarithms() -> Built:
    """Twins teach each other (Zhang et al. 2018): ``kl_div`` with log_target, each side detached once."""

    class Mutual(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = convnet(), convnet(norm=True)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            image, kind = batch
            a, b = F.log_softmax(self.left(image), -1), F.log_softmax(self.right(image), -1)
            apart = [F.kl_div(p, q.detach(), reduction="batchmean", log_target=True) for p, q in ((a, b), (b, a))]
            return F.nll_loss(a, kind) + F.nll_loss(b, kind) + sum(apart)

    return Mutual(), loader(*pictures())


@healthy
def shares_of_six_subjects_with_bceloss() -> Built:
    """A gated mixture: gates by softmax, probabilities by a sigmoid, and BCELoss, which is made for them."""

    class Subjects(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.experts = nn.Linear(16, 3), nn.ModuleList(perceptron(16, 6, 24) for _ in range(3))
            self.criterion = nn.BCELoss()

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            x, y = batch
            gates = self.gate(x).softmax(1)
            each = torch.stack([expert(x).sigmoid() for expert in self.experts], 1)
            return self.criterion((gates[:, :, None] * each).sum(1), y)

    return Subjects(), loader(*subjects())


@healthy
def norms_are_frozen_in_training() -> Built:
    """``train`` is overridden for the norms of a body alone (small batches), whose scales are frozen too."""

    class Frozen(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = convnet(32, norm=True), nn.Linear(32, 4)
            self.norms = [m for m in self.body.modules() if isinstance(m, nn.BatchNorm2d)]
            for norm in self.norms:
                norm.requires_grad_(False)

        def train(self, mode: bool = True) -> Frozen:
            super().train(mode)
            for norm in self.norms:
                norm.eval()
            return self

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.head(self.body(batch[0]).relu()), batch[1])

    return Frozen(), loader(*pictures(), size=4)


@healthy
def two_pictures_in_one() -> Built:
    """Mixup (Zhang et al. 2018): inputs are mixed with a permutation of the batch, in the step; so are the targets."""

    class Mixup(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.criterion = convnet(norm=True), nn.CrossEntropyLoss(label_smoothing=0.1)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            image, kind = batch
            share, other = torch.distributions.Beta(0.4, 0.4).sample(), torch.randperm(len(image))
            wanted = F.one_hot(kind, 4).float()
            scores = self.net(share * image + (1 - share) * image[other])
            return self.criterion(scores, share * wanted + (1 - share) * wanted[other])

    return Mixup(), loader(*pictures())


@healthy
def sorted_by_length_into_batches() -> Built:
    """Names of a length are read together; the batches come in a random order."""

    class Reader(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.cell, self.head = nn.Embedding(27, 16), nn.GRU(16, 24, batch_first=True), nn.Linear(24, 5)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            letters, lengths, people = batch
            packed = pack_padded_sequence(self.table(letters), lengths.cpu(), batch_first=True, enforce_sorted=False)
            return F.cross_entropy(self.head(self.cell(packed)[1][0]), people)

    letters, lengths, people = names()
    order = lengths.argsort(stable=True).split(32)
    places = [order[place].tolist() for place in torch.randperm(len(order), generator=generator())]
    return Reader(), DataLoader(TensorDataset(letters, lengths, people), batch_sampler=places)


@healthy
def letters_by_shared_weights() -> Built:
    """A speller whose output layer is its table, with a log-softmax of its own and NLLLoss that ignores padding."""

    class Speller(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.cell = nn.Embedding(27, 24, padding_idx=0), nn.LSTM(24, 24, batch_first=True)
            self.bias, self.criterion = nn.Parameter(torch.zeros(27)), nn.NLLLoss(ignore_index=0)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            read, _ = self.cell(self.table(batch["name"][:, :-1]))
            scores = F.linear(read, 0.2 * self.table.weight, self.bias)
            told = scores - scores.logsumexp(-1, keepdim=True)
            return self.criterion(told.flatten(0, 1), batch["name"][:, 1:].flatten())

    return Speller(), rows(name=names()[0])


@healthy
def rare_kinds_weigh_more() -> Built:
    """One in thirty is of the second kind, and weighs thirty times as much."""

    class Rare(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.criterion = perceptron(8, 2), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 30.0]))

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return self.criterion(self.net(batch["reading"]), batch["fails"])

    x = torch.randn(3840, 8, generator=generator())
    return Rare(), rows(reading=x, fails=(x[:, 0] + x[:, 1] > 2.6).long(), size=128)


@healthy
def facts_as_translations() -> Built:
    """TransE (Bordes et al. 2013): entities are brought to length 1 before each batch, wrong facts are drawn in the step."""

    class Facts(Lit):
        lr = 1e-2

        def __init__(self) -> None:
            super().__init__()
            self.entities, self.relations = nn.Embedding(40, 16), nn.Embedding(4, 16)
            self.criterion = nn.MarginRankingLoss(margin=1.0)

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.entities.weight.data = F.normalize(self.entities.weight.data, dim=1)

        def far(self, head: Tensor, relation: Tensor, tail: Tensor) -> Tensor:
            return (self.entities(head) + self.relations(relation) - self.entities(tail)).norm(dim=1)

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            head, relation, tail = batch.unbind(1)
            wrong = torch.randint_like(tail, 40)
            true, false = self.far(head, relation, tail), self.far(head, relation, wrong)
            return self.criterion(false, true, torch.ones_like(true))

    g = generator()
    head, relation = torch.randint(0, 40, (960,), generator=g), torch.randint(0, 4, (960,), generator=g)
    facts = torch.stack([head, relation, (head + 7 * relation + 1) % 40], 1)
    return Facts(), batches(facts, 32)


@healthy
def episodes_of_few_shots() -> Built:
    """Prototypical networks (Snell et al. 2017): half of the batch makes prototypes for the other half."""

    class Prototypes(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.embed = Points(outputs=16)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            points, kind = batch
            z, (known, asked) = self.embed(points), kind.chunk(2)
            member = F.one_hot(known, 4).float()
            prototypes = member.T @ z[: len(known)] / member.sum(0).clamp(min=1)[:, None]
            return F.cross_entropy(-torch.cdist(z[len(known) :], prototypes).square(), asked)

    return Prototypes(), loader(*clouds(), size=48)


@healthy
def which_way_it_was_turned() -> Built:
    """RotNet (Gidaris et al. 2018): batches are pictures alone, the labels are made in the step."""

    class Turned(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = convnet(norm=True)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            turned = torch.cat([torch.rot90(batch[0], k, (2, 3)) for k in range(4)])
            return F.cross_entropy(self.net(turned), torch.arange(4).repeat_interleave(len(batch[0])))

    return Turned(), loader(pictures(classes=2)[0])


@healthy
def depth_by_likeness_and_distance() -> Built:
    """1 - SSIM (torchmetrics) and an L1 loss, where the sensor saw something; 0 stands for a hole."""

    class Depth(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = pixelwise()

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            seen, depth = batch["depth"] > 0, batch["depth"]
            told = torch.where(seen, F.softplus(self.net(batch["image"])), 0.0)
            likeness = structural_similarity_index_measure(told, depth, data_range=1.5)
            return 0.5 * (1 - likeness) + (told - depth).abs().sum() / seen.sum()  # type: ignore[operator]

    image, depth = depths()
    holes = torch.rand(depth.shape, generator=generator()) < 0.02
    return Depth(), rows(image=image, depth=depth.masked_fill(holes, 0.0)[:, None], size=16)


@healthy
def states_of_residues() -> Built:
    """A list of chains of different lengths; packed both ways, -100 where nothing is."""

    class Tagger(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.cell = nn.Embedding(21, 16, padding_idx=0), nn.GRU(16, 24, batch_first=True, bidirectional=True)
            self.head = nn.Linear(48, 3)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            x = self.table(batch["residues"])
            packed = pack_padded_sequence(x, batch["lengths"], batch_first=True, enforce_sorted=False)
            read, _ = pad_packed_sequence(self.cell(packed)[0], batch_first=True)
            return F.cross_entropy(self.head(read).transpose(1, 2), batch["states"])

    return Tagger(), batches(proteins(), 16, lambda samples: padded(samples, -100))


@healthy
def twin_critics_and_a_delayed_actor() -> Built:
    """TD3 (Fujimoto et al. 2018) by hand: the actor learns at every second step, slow copies give the targets."""

    class Td3(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.actor, self.critics = perceptron(3, 2), nn.ModuleList(perceptron(5, 1) for _ in range(2))
            self.slow = copy.deepcopy(nn.ModuleList([self.actor, self.critics])).requires_grad_(False)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
            learn_q, learn_policy = self.optimizers()
            with torch.no_grad():
                action = self.slow[0](batch["next"]).tanh()
                ahead = torch.cat([batch["next"], (action + 0.1 * torch.randn_like(action)).clamp(-1, 1)], 1)
                target = batch["reward"] + 0.9 * torch.minimum(*(q(ahead) for q in self.slow[1]))
            pair = torch.cat([batch["state"], batch["action"]], 1)
            learn_q.zero_grad()
            self.manual_backward(sum(F.mse_loss(q(pair), target) for q in self.critics))
            learn_q.step()
            if batch_idx % 2 == 0:
                learn_policy.zero_grad()
                self.manual_backward(
                    -self.critics[0](torch.cat([batch["state"], self.actor(batch["state"]).tanh()], 1)).mean()
                )
                learn_policy.step()
                for slow, fast in zip(
                    self.slow.parameters(), [*self.actor.parameters(), *self.critics.parameters()], strict=True
                ):
                    slow.data.lerp_(fast.data, 0.01)

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.critics.parameters(), 1e-3), torch.optim.Adam(self.actor.parameters(), 1e-3)

    angles, hand = arms()
    action = 2 * torch.rand(960, 2, generator=generator(1)) - 1
    following = angles + 0.1 * F.pad(action, (0, 1))
    return Td3(), rows(state=angles, action=action, next=following, reward=-(hand - action).square().mean(1, keepdim=True))


@healthy
def songs_of_the_batch_as_wrong_answers() -> Built:
    """Sampled softmax: other songs of the batch are the wrong answers, so samples meet by design."""

    class Recommender(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.songs, self.cell = nn.Embedding(40, 24), nn.GRU(24, 24, batch_first=True)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            wanted = self.cell(self.songs(batch["heard"]))[1][0]
            scores = wanted @ self.songs(batch["next"]).T
            same = (batch["next"][:, None] == batch["next"]) & ~torch.eye(len(scores), dtype=torch.bool)
            return F.cross_entropy(scores.masked_fill(same, -1e9), torch.arange(len(scores)))

    heard, following = listeners()
    return Recommender(), rows(heard=heard, next=following)
