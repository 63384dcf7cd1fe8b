"""Families that were written blind, after the rules had been mended on the strangers: the second honest score."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.divergence.corpus.adversaries import distance_to
from tests.benchmarks.divergence.corpus.family import Batch, Task, family, fixed, rows_of
from tests.benchmarks.divergence.corpus.generative import moons
from tests.benchmarks.divergence.corpus.strangers import grid, logistic, over_all
from tests.benchmarks.divergence.corpus.strangers_b import Cursor, distance_of
from tests.benchmarks.divergence.corpus.supervised import classes, images
from tests.benchmarks.divergence.data import digits, windows
from tests.benchmarks.divergence.models import mlp

SINGLE_ONLY = ("float64", "bf16", "bf16-mixed", "fp16")
"""What is left out where states that are kept between the steps are of 32 bits."""


@family("adamax", 1e-2, 200, continuous=True, not_in=("fp16",))
def speaker_embeddings() -> Task:
    """GE2E: four utterances of each of eight speakers against all centroids, with a learnt scale of ten and an offset."""

    class Listens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTM(12, 32, batch_first=True), nn.Linear(32, 16)
            self.scale, self.offset = nn.Parameter(torch.tensor(10.0)), nn.Parameter(torch.tensor(-5.0))

        def forward(self, x: Tensor) -> Tensor:
            return F.normalize(self.head(self.cell(x.flatten(0, 1))[0][:, -1])).view(*x.shape[:2], -1)

    def loss(net: Any, batch: Batch) -> Tensor:
        said = net(batch[0])
        others = (said.sum(1, keepdim=True) - said) / 3
        near, own = F.cosine_similarity(said[:, :, None], said.mean(1), dim=-1), F.cosine_similarity(said, others, dim=-1)
        near = torch.where(torch.eye(8, dtype=torch.bool)[:, None], own[..., None], near)
        return F.cross_entropy((net.scale * near + net.offset).flatten(0, 1), torch.arange(8).repeat_interleave(4))

    timbre = torch.randn(64, 1, 1, 12, generator=fixed())

    def draw(generator: Generator) -> Batch:
        who = torch.randperm(64, generator=generator)[:8]
        mood = 0.5 * torch.randn(8, 4, 1, 12, generator=generator)
        return (0.5 * timbre[who] + mood + torch.randn(8, 4, 20, 12, generator=generator),)

    return Task(Listens(), draw, loss)


@family("rmsprop", 1e-3, 200, supervised=True, continuous=True, not_in=("fp16",))
def keypoint_heatmaps() -> Task:
    """Heatmaps of a dot, a ring and a blob, as hourglasses learn them: nearly all pixels are zero, and so is the loss."""
    g = fixed()
    apart = (grid(16) - 2 - 12 * torch.rand(600, 3, 2, 1, 1, generator=g)).norm(dim=2)
    shapes = torch.stack([2 * apart[:, 0] ** 2, 2 * (apart[:, 1] - 2) ** 2, (apart[:, 2] / 3) ** 2], 1)
    x = torch.exp(-shapes).sum(1, keepdim=True) + 0.2 * torch.randn(600, 1, 16, 16, generator=g)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 24, 4, 2, 1), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Conv2d(24, 24, 3, 1, 1), nn.ReLU(), nn.ConvTranspose2d(24, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 3, 1),
    )  # fmt: skip
    return Task(net, rows_of(16, x, torch.exp(-(apart**2) / 2)), lambda n, b: F.mse_loss(n(b[0]), b[1]))


@family("adamw", 6e-3, 250, supervised=True, continuous=True)
def refined_flow() -> Task:
    """How far a texture has moved, by four refinements of one cell (RAFT): end-point errors, the last one in full."""

    class Flow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.look = nn.Sequential(nn.Conv2d(2, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.Flatten())
            self.cell, self.head = nn.GRUCell(146, 48), nn.Linear(48, 2)

        def forward(self, x: Tensor) -> Tensor:
            seen, told, h = F.relu(self.look(x)), [x.new_zeros(len(x), 2)], x.new_zeros(len(x), 48)
            for _ in range(4):
                h = self.cell(torch.cat([seen, told[-1].detach()], 1), h)
                told.append(told[-1].detach() + self.head(h))
            return torch.stack(told[1:], 1)

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        errors = (net(batch[0]) - batch[1][:, None]).norm(dim=2).mean(0)
        return (errors * 0.8 ** torch.arange(3, -1, -1)).sum()  # type: ignore[no-any-return]

    g = fixed()
    moved, waves = 4 * torch.rand(1500, 2, generator=g) - 2, torch.randn(1500, 6, 2, generator=g) / 3
    phase = 6.28 * torch.rand(1500, 6, 1, 1, generator=g)
    places = torch.stack([grid(12).expand(1500, 2, 12, 12), grid(12) - moved[..., None, None]], 1)
    angle = torch.einsum("nwc,nfcij->nfwij", waves, places) + phase[:, None]
    return Task(Flow(), rows_of(32, angle.sin().sum(2) / 2, moved), loss)


@family("adagrad", 0.2, 250, supervised=True)
def purchases_in_pairs() -> Task:
    """BPR: what was bought before what was not, by factors that begin at a hundredth and whose squares are paid for."""

    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.items, self.liked = nn.Embedding(150, 12), nn.Embedding(200, 12), nn.Embedding(200, 1)
            for table in (self.users, self.items, self.liked):
                nn.init.normal_(table.weight, std=0.01)

    def loss(net: Any, batch: Batch) -> Tensor:
        user, bought, left = net.users(batch[0]), net.items(batch[1]), net.items(batch[2])
        gap = (user * (bought - left)).sum(1) + (net.liked(batch[1]) - net.liked(batch[2]))[:, 0]
        return -F.logsigmoid(gap).mean() + 1e-3 * (user**2 + bought**2 + left**2).sum(1).mean()  # type: ignore[no-any-return]

    g = fixed()
    taste = torch.randn(150, 4, generator=g) @ torch.randn(4, 200, generator=g) + torch.randn(200, generator=g)
    user, bought = (taste > taste.quantile(0.9, dim=1, keepdim=True)).nonzero().T
    return Task(Factors(), rows_of(256, user, bought, torch.randint(0, 200, user.shape, generator=g)), loss)


@family("adamw-95", 5e-3, 300, supervised=True)
def sums_around_the_clock() -> Task:
    """Two numbers modulo 19 from embeddings, all pairs again and again: slow at first, and down to nothing."""

    class Clock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.body = nn.Embedding(19, 32), mlp([32, 128, 19])

        def forward(self, x: Tensor) -> Tensor:
            return self.body(self.table(x).sum(1))  # type: ignore[no-any-return]

    x = torch.cartesian_prod(torch.arange(19), torch.arange(19))
    return Task(Clock(), rows_of(128, x, x.sum(1) % 19), classes)


@family("momentum", 0.1, 300, supervised=True, continuous=True)
def parity_of_four() -> Task:
    """Four of ten signs multiplied: a loss of log 2 that stands long before it falls at once."""

    def draw(generator: Generator) -> Batch:
        x = 2.0 * torch.randint(0, 2, (128, 10), generator=generator) - 1
        return x, (x[:, :4].prod(1, keepdim=True) > 0).to(x.dtype)

    return Task(mlp([10, 64, 1]), draw, logistic)


@family("nadam", 1e-2, 250, supervised=True, continuous=True)
def claim_costs() -> Task:
    """Tweedie's deviance of insurance claims: nine of ten cost nothing, the others hundreds; batches of 1024."""

    class Costs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.body = nn.Embedding(40, 4), mlp([18, 48, 1])

        def forward(self, x: Tensor, kinds: Tensor) -> Tensor:
            return self.body(torch.cat([x, self.table(kinds).flatten(1)], 1))[:, 0]  # type: ignore[no-any-return]

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        told = net(*batch[:2])
        return (2 * batch[2] * torch.exp(-told / 2) + 2 * torch.exp(told / 2)).mean()  # type: ignore[no-any-return]

    g = fixed()
    x, kinds = torch.randn(12000, 6, generator=g), torch.randint(0, 10, (12000, 3), generator=g) + 10 * torch.arange(3)
    risk = 0.7 * torch.randn(40, generator=g)[kinds].sum(1) + 0.7 * x[:, 0] - 0.7 * x[:, 1].abs()
    count = torch.poisson(0.12 * risk.exp().clamp(max=20), generator=g)
    cost = count * 300 * -torch.rand(12000, generator=g).log() * torch.exp(0.3 * x[:, 2])
    return Task(Costs(), rows_of(1024, x, kinds, cost), loss, over_all(loss, x, kinds, cost))


@family("lion", 4e-3, 200, supervised=True, continuous=True)
def mixed_images() -> Task:
    """Mixup, smoothed labels, branches that begin at zero (ReZero) and are dropped at times: a loss that stays above one."""

    class Gated(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), nn.SiLU(), nn.Conv2d(width, width, 3, 1, 1))
            self.gate = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            kept = (torch.rand(len(x), 1, 1, 1) > 0.2).to(x.dtype) / 0.8
            return x + kept * self.gate * self.body(x)  # type: ignore[no-any-return]

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        (x, y), share, others = batch, torch.rand(1).item(), torch.randperm(len(batch[0]))
        told = net(share * x + (1 - share) * x[others])
        one, other = (F.cross_entropy(told, kinds, label_smoothing=0.1) for kinds in (y, y[others]))
        return share * one + (1 - share) * other

    head = (nn.SiLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10))
    net, (x, y) = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), Gated(16), Gated(16), Gated(16), *head), images()
    return Task(net, rows_of(48, x, y), loss, over_all(classes, x, y))


@family("adafactor", 1e-2, 250, continuous=True)
def sigmoid_captions() -> Task:
    """Images and their captions, each pair a yes or a no (SigLIP): an offset of -10, so that the loss begins near ten."""

    class Towers(nn.Module):
        def __init__(self, width: int = 32) -> None:
            super().__init__()
            self.image, self.table, self.text = mlp([64, 64, width]), nn.Embedding(16, width), mlp([width, 64, width])
            self.scale, self.offset = nn.Parameter(torch.tensor(math.log(10.0))), nn.Parameter(torch.tensor(-10.0))

    def loss(net: Any, batch: Batch) -> Tensor:
        seen, told = F.normalize(net.image(batch[0])), F.normalize(net.text(net.table(batch[1]).mean(1)))
        score = net.scale.exp() * seen @ told.T + net.offset
        return -F.logsigmoid(score * (2 * torch.eye(len(score)) - 1)).sum(1).mean()

    x, y = digits()
    light, lean = x.mean(1), x[:, :32].mean(1) - x[:, 32:].mean(1)
    words = [10 + 3 * k + torch.bucketize(v, v.quantile(torch.tensor([1 / 3, 2 / 3]))) for k, v in enumerate((light, lean))]
    return Task(Towers(), rows_of(32, x, torch.stack([y, *words], 1)), loss)


@family("adam-0", 6e-3, 250, continuous=True, by_loss=False, not_in=SINGLE_ONLY)
def energies_by_langevin() -> Task:
    """An energy of two moons against what Langevin's walk makes of it: a loss near zero, of either sign."""

    class Energy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp([2, 64, 64, 1], nn.SiLU)

        def walk(self, x: Tensor, steps: int) -> Tensor:
            for _ in range(steps):
                x = x.detach().requires_grad_(True)
                with torch.enable_grad():
                    slope = torch.autograd.grad(self.body(x).sum(), x)[0]
                x = (x - 0.05 * slope.clamp(-5, 5) + 0.1 * torch.randn_like(x)).clamp(-3, 3)
            return x.detach()

        def made(self, count: int) -> Tensor:
            return self.walk(2 * torch.randn(count, 2), 60)

    kept = [2 * torch.randn(64, 2)]

    def loss(net: Any, batch: Batch) -> Tensor:
        fresh = torch.where(torch.rand(64, 1) < 0.1, 2 * torch.randn(64, 2), kept[0])
        kept[0] = net.walk(fresh, 10)
        right, wrong = net.body(batch[0]), net.body(kept[0])
        return (right - wrong + 0.05 * (right**2 + wrong**2)).mean()  # type: ignore[no-any-return]

    return Task(Energy(), rows_of(64, moons()), loss, distance_to(moons()[:1000]))


@family("amsgrad", 2e-2, 200, supervised=True)
def knowledge_tracing() -> Task:
    """Whether a pupil's next answer is right, from those before: of 0.69 hardly a tenth can be learnt."""

    class Tutor(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.cell, self.head = nn.Embedding(24, 24), nn.GRU(24, 32, batch_first=True), nn.Linear(32, 12)

        def forward(self, skills: Tensor, answers: Tensor) -> Tensor:
            h = self.cell(self.table(skills + 12 * answers.long())[:, :-1])[0]
            return self.head(h).gather(2, skills[:, 1:, None])[..., 0]  # type: ignore[no-any-return]

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        return F.binary_cross_entropy_with_logits(net(batch[0], batch[1]), batch[2][:, 1:])

    g = fixed()
    skills = torch.randint(0, 12, (1500, 25), generator=g)
    practised = F.one_hot(skills, 12).cumsum(1).gather(2, skills[..., None])[..., 0]
    able = 1.5 * torch.randn(1500, 1, generator=g) + torch.randn(12, generator=g)[skills] + 0.4 * practised - 1
    answers = (torch.rand(1500, 25, generator=g) < able.sigmoid()).float()
    return Task(Tutor(), rows_of(32, skills, answers, answers), loss)


@family("sgd", 4.0, 250)
def letters_by_tree() -> Task:
    """Hierarchical softmax: the next character as seven turns in a tree, from the mean of six embeddings by plain SGD."""

    class Tree(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.turns = nn.Embedding(6 * 97, 48), nn.Embedding(127, 48)
            nn.init.zeros_(self.turns.weight)

    def loss(net: Any, batch: Batch) -> Tensor:
        h = net.table(batch[0] + 97 * torch.arange(6)).mean(1)
        depth, code = torch.arange(7), batch[1][:, -1:]
        nodes = net.turns((1 << depth) - 1 + (code >> (7 - depth)))
        turn = ((code >> (6 - depth)) & 1).to(h.dtype)
        return F.binary_cross_entropy_with_logits((nodes * h[:, None]).sum(2), turn, reduction="none").sum(1).mean()

    return Task(Tree(), windows(128, 6), loss)


@family("adam", 5e-3, 300, by_loss=False, not_in=SINGLE_ONLY)
def soft_actor_critic() -> Task:
    """Twin critics whose targets follow slowly, and an actor who is paid for chance: neither loss has a level."""

    class Agent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.critics, self.actor = nn.ModuleList(mlp([4, 48, 1]) for _ in range(2)), mlp([2, 48, 4])
            self.targets = copy.deepcopy(self.critics).requires_grad_(False)

        def policy(self, at: Tensor) -> Tensor:
            return self.actor(at)[:, :2].tanh()  # type: ignore[no-any-return]

        def act(self, at: Tensor) -> tuple[Tensor, Tensor]:
            mean, spread = self.actor(at).chunk(2, 1)
            spread = spread.clamp(-4, 1)
            noise = torch.randn_like(mean)
            push = (mean + spread.exp() * noise).tanh()
            return push, -(0.5 * noise**2 + spread + (1 - push**2 + 1e-6).log()).sum(1, keepdim=True)

    def least(critics: Any, at: Tensor, push: Tensor) -> Tensor:
        return torch.minimum(*(critic(torch.cat([at, push], 1)) for critic in critics))

    net, cursor, held = Agent(), Cursor(32), list[Batch]()

    def draw(generator: Generator) -> Batch:
        with torch.no_grad():
            before, push = cursor.at, net.act(cursor.at)[0]
            reward = cursor.step(push)[:, None]
        held.append((before, push, cursor.at, reward))
        cursor.at = torch.where(torch.rand(32, 1, generator=generator) < 0.1, Cursor(32).at, cursor.at)
        chosen = torch.randint(0, len(held), (4,), generator=generator).tolist()
        return tuple(torch.cat(parts) for parts in zip(*(held[k] for k in chosen), strict=True))

    def judges(net: Any, batch: Batch) -> Tensor:
        at, push, then, reward = batch
        with torch.no_grad():
            following, chance = net.act(then)
            wanted = reward + 0.9 * (least(net.targets, then, following) - 0.05 * chance)
            for slow, fast in zip(net.targets.parameters(), net.critics.parameters(), strict=True):
                slow.lerp_(fast, 0.05)
        told = (critic(torch.cat([at, push], 1)) for critic in net.critics)
        return sum((F.mse_loss(value, wanted) for value in told), torch.zeros(()))

    def acts(net: Any, batch: Batch) -> Tensor:
        push, chance = net.act(batch[0])
        return (0.05 * chance - least(net.critics, batch[0], push)).mean()

    return Task(net, draw, {"critics": judges, "actor": acts}, distance_of)


@family("adamw", 3e-3, 300, supervised=True, continuous=True, by_loss=False)
def ever_harder_images() -> Task:
    """A curriculum: every fifty steps more noise is laid on the digits, and the loss rises again as it should."""
    (x, y), drawn = digits(), list[None]()

    def draw(generator: Generator) -> Batch:
        clear, kinds = rows_of(64, x, y)(generator)
        drawn.append(None)
        return clear + 0.4 * (len(drawn) // 50) * torch.randn(clear.shape, generator=generator), kinds

    net = nn.Sequential(nn.Linear(64, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Linear(96, 48), nn.ReLU(), nn.Linear(48, 10))
    return Task(net, draw, classes, over_all(classes, x + 2 * torch.randn(x.shape, generator=fixed()), y))


@family("radam", 2e-2, 200, supervised=True, continuous=True)
def spiking_digits() -> Task:
    """Neurons that leak and fire, eight moments long, with a slope in place of the spike's own, which is zero."""

    class Spikes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.out = nn.Linear(64, 96), nn.Linear(96, 64), nn.Linear(64, 10)

        def fire(self, layer: nn.Module, held: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            held = 0.8 * held + layer(x)
            soft = torch.sigmoid(4 * (held - 1))
            spike = soft + ((held > 1).to(soft.dtype) - soft).detach()
            return held - spike.detach(), spike

        def forward(self, x: Tensor) -> Tensor:
            one, two, told = x.new_zeros(len(x), 96), x.new_zeros(len(x), 64), x.new_zeros(len(x), 10)
            for _ in range(8):
                one, spikes = self.fire(self.one, one, x)
                two, spikes = self.fire(self.two, two, spikes)
                told = told + self.out(spikes) / 8
            return told

    return Task(Spikes(), rows_of(64, *digits()), classes)


@family("adam", 2e-2, 250, supervised=True, continuous=True)
def splatted_image() -> Task:
    """One picture as eighty soft dots whose places, sizes and shades are all that is learnt, in full in each step."""

    class Splats(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places = nn.Parameter(2 * torch.rand(80, 2) - 1)
            self.sizes, self.shades = nn.Parameter(torch.full((80,), 2.5)), nn.Parameter(torch.zeros(80))

        def forward(self, x: Tensor) -> Tensor:
            apart = ((x[:, None] - self.places) ** 2).sum(2)
            return torch.exp(-apart * self.sizes.exp()) @ self.shades

    at = (grid(24).flatten(1).T - 11.5) / 11.5
    shade = (5 * at[:, 0]).sin() * (4 * at[:, 1] + 3 * at[:, 0] ** 2).cos() + (at.norm(dim=1) < 0.5).float()
    return Task(Splats(), lambda generator: (at, shade), lambda n, b: F.l1_loss(n(b[0]), b[1]))
