"""More families of the lodger who had not read the rules: what is made, forecast, rendered and matched."""

from __future__ import annotations

import math
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.divergence.corpus.family import Batch, Task, family, fixed, rows_of
from tests.benchmarks.divergence.corpus.guests import HALF
from tests.benchmarks.divergence.corpus.lodgers import moved
from tests.benchmarks.divergence.corpus.supervised import images
from tests.benchmarks.divergence.corpus.visitors import SINGLE_ONLY
from tests.benchmarks.divergence.data import digits
from tests.benchmarks.divergence.models import mlp


@family("adam-0", 3e-3, 200, continuous=True, by_loss=False, not_in=SINGLE_ONLY)
def lodger_penalised_critic() -> Task:
    """WGAN-GP on digits: a critic whose slope is to be one between real and made; its loss is a distance of either sign."""

    def critic(net: Any, batch: Batch) -> Tensor:
        real, made, share = batch[0], net["maker"](batch[1]).detach(), torch.rand(len(batch[0]), 1)
        between = (share * real + (1 - share) * made).requires_grad_(True)
        slope = torch.autograd.grad(net["critic"](between).sum(), between, create_graph=True)[0].norm(dim=1)
        out: Tensor = (net["critic"](made) - net["critic"](real)).mean() + 10 * ((slope - 1) ** 2).mean()
        return out

    def maker(net: Any, batch: Batch) -> Tensor:
        out: Tensor = -net["critic"](net["maker"](batch[1])).mean()
        return out

    def energy_distance(net: Any) -> float:
        made, real = net["maker"](torch.randn(300, 12)), x[:300]
        both = 2 * torch.cdist(made, real).mean() - torch.cdist(made, made).mean() - torch.cdist(real, real).mean()
        return float(both)

    def draw(generator: Generator) -> Batch:
        return x[torch.randint(0, len(x), (48,), generator=generator)], torch.randn(48, 12, generator=generator)

    x, _ = digits()
    net = nn.ModuleDict({"critic": mlp([64, 64, 64, 1], lambda: nn.LeakyReLU(0.2)), "maker": mlp([12, 64, 64, 64])})
    return Task(net, draw, {"critic": critic, "maker": maker}, energy_distance)


class Painter(nn.Module):
    """A small U-Net with a skip, whose pictures are between minus one and one."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.LeakyReLU(0.2))
        self.deep = nn.Sequential(
            nn.Conv2d(12, 24, 4, 2, 1), nn.BatchNorm2d(24), nn.ReLU(),
            nn.ConvTranspose2d(24, 12, 4, 2, 1), nn.BatchNorm2d(12),
        )  # fmt: skip
        self.out = nn.Conv2d(24, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 1, 8, 8] to the same."""
        h = self.down(x)
        out: Tensor = self.out(torch.cat([h, self.deep(h).relu()], 1)).tanh()
        return out


@family("adam-gan", 6e-3, 120, continuous=True, by_loss=False)
def lodger_outlines_filled() -> Task:
    """Pix2pix: digits from their outlines, a critic of patches, and absolute errors a hundred times as heavy."""

    def judged(net: Any, outline: Tensor, picture: Tensor, truth: float) -> Tensor:
        scores = net["critic"](torch.cat([outline, picture], 1))
        return F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, truth))

    def critic(net: Any, batch: Batch) -> Tensor:
        outline, picture = batch
        return (judged(net, outline, picture, 1.0) + judged(net, outline, net["painter"](outline).detach(), 0.0)) / 2

    def painter(net: Any, batch: Batch) -> Tensor:
        made = net["painter"](batch[0])
        return judged(net, batch[0], made, 1.0) + 100 * F.l1_loss(made, batch[1])

    def apart(net: Any) -> float:
        kind = next(net.parameters()).dtype
        return float((net["painter"](outlines[:300].to(kind)) - pictures[:300].to(kind)).abs().mean())

    x, _ = images()
    pictures = 2 * (x - x.min()) / (x.max() - x.min()) - 1
    ink = (pictures > -0.2).float()
    outlines = ink - (F.avg_pool2d(ink, 3, 1, 1) > 0.99).float()
    net = nn.ModuleDict({
        "critic": nn.Sequential(nn.Conv2d(2, 16, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(16, 1, 3, padding=1)),
        "painter": Painter(),
    })  # fmt: skip
    return Task(net, rows_of(8, outlines, pictures), {"critic": critic, "painter": painter}, apart)


class Basis(nn.Module):
    """Four blocks, each of which takes away what it has explained of the past (N-BEATS, Oreshkin et al. 2020)."""

    def __init__(self, past: int, ahead: int) -> None:
        super().__init__()
        self.past, self.blocks = past, nn.ModuleList(mlp([past, 48, 48, past + ahead]) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, past] to [batch, ahead]."""
        told = torch.zeros((), dtype=x.dtype)
        for block in self.blocks:
            explained = block(x)
            x, told = x - explained[:, : self.past], told + explained[:, self.past :]
        return told


@family("adam", 3e-3, 200, supervised=True, continuous=True)
def lodger_basis_expansion() -> Task:
    """N-BEATS on sales with seasons, in shares of a window's mean: symmetric percentage errors, from 200 downwards."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        told = net(batch[0])
        size = (told.abs() + batch[1].abs()).detach().clamp(min=1e-2)
        return 200 * ((told - batch[1]).abs() / size).mean()

    g = fixed()
    week = torch.arange(36) + torch.randint(0, 12, (2000, 1), generator=g)
    level, slope = 100 * torch.randn(2000, 1, generator=g).exp(), 0.02 * torch.randn(2000, 1, generator=g)
    season = 1 + 0.4 * (week * math.pi / 6).sin() * torch.rand(2000, 1, generator=g)
    sales = level * season * (1 + slope * torch.arange(36)).clamp(min=0.2) * (1 + 0.05 * torch.randn(2000, 36, generator=g))
    shares = sales / sales[:, :30].mean(1, keepdim=True)
    return Task(Basis(30, 6), rows_of(48, shares[:, :30], shares[:, 30:]), loss)


class Demand(nn.Module):
    """A GRU over values and hours; three numbers of a distribution at each place."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.GRU(3, 24, batch_first=True), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, 3] to [batch, length, 3]."""
        out: Tensor = self.out(self.cell(x)[0])
        return out


@family("adam", 1e-2, 150, supervised=True, continuous=True, not_in=HALF)
def lodger_tails_of_demand() -> Task:
    """DeepAR: each next value of demand by Student's distribution, whose place, width and tails are learnt."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        place, width, tail = net(batch[0]).unbind(2)
        shape = torch.distributions.StudentT(2 + F.softplus(tail), place, 1e-3 + F.softplus(width))
        return -shape.log_prob(batch[1]).mean()

    g = fixed()
    hour = torch.arange(17) + torch.randint(0, 24, (1500, 1), generator=g)
    clock = torch.stack([(hour * math.pi / 12).sin(), (hour * math.pi / 12).cos()], 2)
    heavy = torch.randn(1500, 17, generator=g) / torch.rand(1500, 17, generator=g).sqrt()
    value = clock[..., 0] + 0.5 * torch.randn(1500, 1, generator=g) + 0.1 * heavy
    return Task(Demand(), rows_of(24, torch.cat([value[:, :-1, None], clock[:, 1:]], 2), value[:, 1:]), loss)


def squares(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures of 16×16 with up to three squares of two shades, their kinds (2 for none), and boxes in shares."""
    g = fixed()
    place, size = torch.randint(0, 11, (count, 3, 2), generator=g), torch.randint(3, 6, (count, 3, 1), generator=g)
    kinds = torch.randint(0, 3, (count, 3), generator=g)
    steps = torch.arange(16)
    inside = (steps >= place[..., None]) & (steps < (place + size)[..., None])
    shapes = (inside[:, :, 0, :, None] & inside[:, :, 1, None]) * torch.tensor([1.0, -1.0, 0.0])[kinds][..., None, None]
    pictures = shapes.sum(1, keepdim=True).clamp(-1, 1) + 0.1 * torch.randn(count, 1, 16, 16, generator=g)
    return pictures, kinds, torch.cat([place + size / 2, size.expand(-1, -1, 2)], 2) / 16


class Detector(nn.Module):
    """DETR in small: a picture's places are attended to by four learnt questions."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, width, 3, 2, 1), nn.ReLU())
        self.places, self.asked = (nn.Parameter(torch.randn(count, width)) for count in (16, 4))
        self.decode = nn.TransformerDecoderLayer(width, 2, 48, 0.0, batch_first=True)
        self.kind, self.box = nn.Linear(width, 3), mlp([width, width, 4])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures to [batch, 4, 3] logits and [batch, 4, 4] boxes."""
        seen = self.body(x).flatten(2).transpose(1, 2) + self.places
        h = self.decode(self.asked.expand(len(x), -1, -1), seen)
        return self.kind(h), self.box(h).sigmoid()


@torch.no_grad()
def matched(logits: Tensor, boxes: Tensor, kinds: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which answer belongs to which square, by the smallest sum of what is wrong: rows, answers, squares."""
    costs = 5 * torch.cdist(boxes.float(), right.float(), 1) - logits.float().softmax(2)[:, :, :2][
        torch.arange(len(kinds))[:, None], :, kinds.clamp(max=1)
    ].transpose(1, 2)
    triples = []
    for row, cost in enumerate(costs.nan_to_num(1e6)):
        real = (kinds[row] < 2).nonzero()[:, 0]
        answers, columns = linear_sum_assignment(cost[:, real])
        triples += [(row, int(a), int(real[c])) for a, c in zip(answers, columns, strict=True)]
    found = torch.tensor(triples).view(-1, 3)
    return found[:, 0], found[:, 1], found[:, 2]


@family("adamw", 5e-3, 130, continuous=True)
def lodger_boxes_as_a_set() -> Task:
    """DETR: four answers to up to three squares, matched anew in each step (Hungarian), most answers being none."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        (logits, boxes), (_, kinds, right) = net(batch[0]), batch
        rows, answers, which = matched(logits, boxes, kinds, right)
        wanted = torch.full(logits.shape[:2], 2)
        wanted[rows, answers] = kinds[rows, which]
        weight = torch.tensor([1.0, 1.0, 0.2], dtype=logits.dtype)
        apart = (boxes[rows, answers] - right[rows, which]).abs().sum() / max(1, len(rows))
        return F.cross_entropy(logits.transpose(1, 2), wanted, weight) + 5 * apart

    return Task(Detector(), rows_of(8, *squares(1500)), loss)


class Queue(nn.Module):
    """An encoder, its slow follower, and a queue of what the follower has said (MoCo, He et al. 2020)."""

    def __init__(self, size: int = 256) -> None:
        super().__init__()
        self.ask, self.answer = (nn.Sequential(nn.Flatten(), *mlp([64, 64, 24])) for _ in range(2))
        self.answer.load_state_dict(self.ask.state_dict())
        self.answer.requires_grad_(False)
        self.register_buffer("others", F.normalize(torch.randn(size, 24), dim=1))

    @torch.no_grad()
    def follow(self, x: Tensor) -> Tensor:
        """Move the follower by a hundredth, and ask it."""
        for slow, fast in zip(self.answer.parameters(), self.ask.parameters(), strict=True):
            slow.lerp_(fast, 0.01)
        return F.normalize(self.answer(x), dim=1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Two versions of pictures to scores, of which the first column is right."""
        asked, right = F.normalize(self.ask(x), dim=1), self.follow(y).to(x.dtype)
        scores = torch.cat([(asked * right).sum(1, keepdim=True), asked @ self.others.clone().T], 1)
        self.others = torch.cat([right, self.others[: -len(right)]])
        return scores / 0.2


@family("momentum", 0.03, 200, continuous=True)
def lodger_queue_of_negatives() -> Task:
    """MoCo on digits that are moved about: one right answer against 256 that a slow follower gave before."""

    def draw(generator: Generator) -> Batch:
        some = x[torch.randint(0, len(x), (32,), generator=generator)]
        one, two = (moved(some, generator) + 0.3 * torch.randn(some.shape, generator=generator) for _ in range(2))
        return one, two

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(net(*batch), torch.zeros(len(batch[0]), dtype=torch.long))

    x, _ = images()
    return Task(Queue(), draw, loss)


class Codes(nn.Module):
    """Eight letters of an alphabet of eight, drawn so that there is a slope (Gumbel softmax), ever sharper."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.write = mlp([64, 64, 64]), mlp([64, 64, 64])
        self.register_buffer("age", torch.zeros(()))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, 64] to logits of pixels, and what the letters cost."""
        shares = self.read(x).view(-1, 8, 8).log_softmax(2)
        letters = F.gumbel_softmax(shares, max(0.5, math.exp(-0.005 * float(self.age))))
        self.age += 1
        return self.write(letters.flatten(1)), (shares.exp() * (shares + math.log(8))).sum((1, 2))


@family("adam", 3e-3, 200)
def lodger_gumbel_letters() -> Task:
    """An autoencoder through eight drawn letters (Jang et al. 2017): nats of black and white digits, above twenty."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        told, cost = net(batch[0])
        return (F.binary_cross_entropy_with_logits(told, batch[0], reduction="none").sum(1) + cost).mean()

    return Task(Codes(), rows_of(64, (digits()[0] > 0).float()), loss)


class Fog(nn.Module):
    """How thick and how bright it is at a point of a plane, from waves of its place."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp([22, 48, 48, 2])
        self.register_buffer("pace", math.pi * 2.0 ** torch.arange(5))

    def forward(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """[…, 2] to two of […]."""
        waves = (at[..., None] * self.pace).flatten(-2)
        thick, bright = self.body(torch.cat([at, waves.sin(), waves.cos()], -1)).unbind(-1)
        return F.softplus(thick), bright.sigmoid()


def seen(thick: Tensor, bright: Tensor) -> Tensor:
    """What comes out of [rays, 24] samples of fog, a twelfth apart (NeRF, Mildenhall et al. 2020, equation 3)."""
    blocked = 1 - torch.exp(-thick / 12)
    reached = torch.cumprod(F.pad(1 - blocked + 1e-6, (1, 0), value=1.0), 1)[:, :-1]
    return (reached * blocked * bright).sum(1)


@family("adam", 2e-2, 150, supervised=True, continuous=True)
def lodger_rays_through_fog() -> Task:
    """NeRF on a plane: how bright rays are that went through three discs, by a field that is sampled 24 times each."""

    def along(rays: Tensor) -> Tensor:
        steps = torch.linspace(0, 2, 24, dtype=rays.dtype)
        return rays[:, None, :2] + steps[:, None] * rays[:, None, 2:]

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        return F.mse_loss(seen(*net(along(batch[0]))), batch[1])

    g = fixed()
    angle, aim = (6.3 * torch.rand(4000, generator=g), 0.5 * torch.randn(4000, generator=g))
    start, way = torch.stack([angle.cos(), angle.sin()], 1), torch.stack([-(angle + aim).cos(), -(angle + aim).sin()], 1)
    rays = torch.cat([start, way], 1)
    centres, shades = torch.tensor([[0.3, 0.2], [-0.4, 0.1], [0.0, -0.4]]), torch.tensor([0.9, 0.5, 0.2])
    within = ((along(rays)[..., None, :] - centres).square().sum(-1) < 0.05).float()
    return Task(Fog(), rows_of(64, rays, seen(20 * within.sum(-1), within @ shades)), loss)
