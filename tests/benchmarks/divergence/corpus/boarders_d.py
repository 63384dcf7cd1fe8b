"""The last families of the boarder's: what is compared, factored, and told by equations."""

from __future__ import annotations

import functools
import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.divergence.corpus.boarders import classes, photograph
from tests.benchmarks.divergence.corpus.boarders_c import patches
from tests.benchmarks.divergence.corpus.family import Batch, Task, family, fixed, rows_of
from tests.benchmarks.divergence.corpus.strangers import over_all
from tests.benchmarks.divergence.corpus.supervised import images
from tests.benchmarks.divergence.models import mlp


def crops(generator: Generator, size: int) -> Batch:
    """Two views of the same pieces of a photograph: cut elsewhere, turned over, brighter or darker."""
    pieces = photograph(16)
    chosen = pieces[torch.randint(0, len(pieces), (size,), generator=generator)] * 4 - 2
    views = []
    for _ in range(2):
        row, column = torch.randint(0, 5, (2,), generator=generator).tolist()
        view = chosen[:, :, row : row + 12, column : column + 12]
        view = view.flip(-1) if torch.rand(1, generator=generator) < 0.5 else view
        views.append(view + 0.3 * torch.randn(size, 3, 1, 1, generator=generator))
    return tuple(views)


def seeing(outputs: int) -> nn.Sequential:
    """Two convolutions and a projection."""
    body = [
        nn.Conv2d(3, 12, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(12, 24, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, 32),
    ]
    return nn.Sequential(*body, nn.ReLU(), nn.Linear(32, outputs))


@family("adamw", 3e-3, 150, continuous=True)
def boarder_views_of_a_temple() -> Task:
    """NT-Xent of two views of 32 pieces, at a temperature of a fifth (Chen et al. 2020)."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        views = F.normalize(net(torch.cat(batch)), dim=1)
        alike = views @ views.T / 0.2 - 1e4 * torch.eye(64, dtype=views.dtype)
        return F.cross_entropy(alike, torch.arange(64).roll(32))

    return Task(seeing(16), lambda generator: crops(generator, 32), loss)


@family("adam", 1e-3, 200, continuous=True)
def boarder_variance_and_covariance() -> Task:
    """VICReg of two views (Bardes et al. 2022): 25 times alike, 25 times spread, and uncorrelated."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        views = [net(view) for view in batch]
        spread = sum(F.relu(1 - (view.var(0) + 1e-4).sqrt()).mean() for view in views)
        shared = sum((view.T.cov().fill_diagonal_(0) ** 2).sum() / 16 for view in views)
        return 25 * F.mse_loss(*views) + 25 * spread + shared

    return Task(seeing(16), lambda generator: crops(generator, 32), loss)


@family("momentum", 0.05, 200, supervised=True, continuous=True)
def boarder_near_its_own_kind() -> Task:
    """The supervised contrastive loss of digits (Khosla et al. 2020, eq. 2), by momentum."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        at = F.normalize(net(batch[0]), dim=1)
        itself = torch.eye(len(at), dtype=torch.bool)
        likely = (at @ at.T / 0.3).masked_fill(itself, -1e4).log_softmax(1)
        same = (batch[1][:, None] == batch[1]) & ~itself
        return -((likely * same).sum(1) / same.sum(1).clamp(min=1)).mean()

    return Task(nn.Sequential(nn.Flatten(), *mlp([64, 48, 16])), rows_of(48, *images()), loss)


class Factors(nn.Module):
    """A matrix as a product of two thin ones that begin near zero, where the gradient vanishes."""

    def __init__(self, rows: int, columns: int, rank: int = 6) -> None:
        super().__init__()
        self.row, self.column = nn.Embedding(rows, rank), nn.Embedding(columns, rank)
        nn.init.normal_(self.row.weight, std=0.01)
        nn.init.normal_(self.column.weight, std=0.01)

    def forward(self, row: Tensor, column: Tensor) -> Tensor:
        """[batch] twice to [batch]."""
        out: Tensor = (self.row(row) * self.column(column)).sum(-1)
        return out


@family("adam", 1e-2, 250, supervised=True)
def boarder_saddle_of_factors() -> Task:
    """200 digits as the product of two matrices that begin close to the saddle at zero."""
    grey = images()[0][:200].flatten(1)
    row, column = torch.meshgrid(torch.arange(200), torch.arange(64), indexing="ij")
    rows = row.flatten(), column.flatten(), grey.flatten()
    return Task(Factors(200, 64), rows_of(512, *rows), lambda net, b: F.mse_loss(net(b[0], b[1]), b[2]))


class Overcomplete(nn.Module):
    """More features than inputs, few of them on, and unit directions to write them with (Bricken et al. 2023)."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.enter, self.out = nn.Linear(64, width), nn.Linear(width, 64, bias=False)
        self.middle = nn.Parameter(torch.zeros(64))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What comes back, and the features."""
        features = self.enter(x - self.middle).relu()
        return F.linear(features, F.normalize(self.out.weight, dim=0)) + self.middle, features


@family("schedule-free", 5e-3, 200, continuous=True)
def boarder_few_features_at_once() -> Task:
    """A sparse autoencoder of digits, summed over pixels, with a price for each feature, by schedule-free AdamW."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        back, features = net(batch[0])
        return (back - batch[0]).square().sum(1).mean() + 0.3 * features.sum(1).mean()

    return Task(Overcomplete(), rows_of(64, images()[0].flatten(1)), loss)


@family("adam", 3e-3, 250, by_loss=False)
def boarder_energy_of_a_membrane() -> Task:
    """A loaded membrane's energy, which falls below zero (deep Ritz, E and Yu 2018); measured beside the truth."""

    def height(net: nn.Module, at: Tensor) -> Tensor:
        return net(at)[:, 0] * (at * (1 - at)).prod(1)

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        at = batch[0].requires_grad_()
        high = height(net, at)
        slope = torch.autograd.grad(high.sum(), at, create_graph=True)[0]
        load = 2 * math.pi**2 * (math.pi * at).sin().prod(1)
        return (0.5 * slope.square().sum(1) - load * high).mean()

    def measure(net: nn.Module) -> float:
        at = torch.rand(400, 2, generator=fixed()).to(next(net.parameters()).dtype)
        return float((height(net, at) - (math.pi * at).sin().prod(1)).square().mean().sqrt())

    return Task(mlp([2, 32, 32, 1], nn.Tanh), lambda generator: (torch.rand(128, 2, generator=generator),), loss, measure)


@functools.cache
def spirals() -> tuple[Tensor, Tensor]:
    """Points that turn and fall inwards by a cubic law, now and at ten later times."""
    start = torch.randn(400, 2, generator=fixed())
    turn, at, later = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]]), start, []
    for step in range(1, 101):
        at = at + 0.01 * (at**3).clamp(-3, 3) @ turn
        later += [at] if step % 10 == 0 else []
    return start, torch.stack(later, 1)


@family("rmsprop", 3e-3, 200, supervised=True, continuous=True)
def boarder_spiral_by_its_slope() -> Task:
    """A neural differential equation by the midpoint rule, through ten steps, under an absolute error."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        at, told = batch[0], []
        for _ in range(10):
            middle = at + 0.05 * net(at**3)
            at = at + 0.1 * net(middle**3)
            told.append(at)
        return F.l1_loss(torch.stack(told, 1), batch[1])

    return Task(mlp([2, 24, 2], nn.Tanh), rows_of(32, *spirals()), loss, over_all(loss, *spirals()))


class Remembering(nn.Module):
    """A convolution over a picture and over what is remembered, with gates (Shi et al. 2015)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.gates, self.out, self.width = nn.Conv2d(1 + width, 4 * width, 3, padding=1), nn.Conv2d(width, 1, 1), width

    def forward(self, frames: Tensor) -> Tensor:
        """[batch, time, rows, columns] to logits of the frame after each."""
        state = cell = frames.new_zeros(len(frames), self.width, *frames.shape[2:])
        told = []
        for frame in frames.unbind(1):
            enter, forget, give, new = self.gates(torch.cat([frame[:, None], state], 1)).chunk(4, 1)
            cell = (forget + 1).sigmoid() * cell + enter.sigmoid() * new.tanh()
            state = give.sigmoid() * cell.tanh()
            told.append(self.out(state)[:, 0])
        return torch.stack(told, 1)


@family("adam", 1e-2, 150)
def boarder_ball_in_a_box() -> Task:
    """The next frame of a ball that bounces, by a convolutional LSTM and a cross entropy of pixels."""
    g, at = fixed(), torch.arange(8)

    def frames(start: Tensor, speed: Tensor) -> Tensor:
        path = (start + speed * torch.arange(7)) % 14
        return torch.where(path > 7, 14 - path, path)

    corner, speed = torch.randint(0, 14, (2, 400, 1), generator=g), torch.randint(1, 3, (2, 400, 1), generator=g)
    row, column = (frames(a, b)[:, :, None] == at for a, b in zip(corner, speed, strict=True))
    movie = (row[..., None] & column[:, :, None]).float()
    movie = F.max_pool2d(movie, 3, 1, 1)
    loss = lambda net, b: F.binary_cross_entropy_with_logits(net(b[0][:, :-1]), b[0][:, 1:])  # noqa: E731
    return Task(Remembering(), rows_of(16, movie), loss)


@family("prodigy", 1.0, 200, continuous=True)
def boarder_hidden_pixels() -> Task:
    """Two thirds of a piece's pixels are hidden, and told from the rest (He et al. 2022), by Prodigy."""

    def draw(generator: Generator) -> Batch:
        x = patches()[torch.randint(0, len(patches()), (64,), generator=generator)]
        shown = (torch.rand(x.shape, generator=generator) < 0.34).float()
        return torch.cat([x * shown, shown], 1), x

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        hidden = 1 - batch[0][:, 64:]
        return ((net(batch[0]) - batch[1]).square() * hidden).sum() / hidden.sum()

    return Task(mlp([128, 64, 64], nn.GELU), draw, loss)


class Patches(nn.Module):
    """A vision transformer with a class token, as the paper has it (Dosovitskiy et al. 2021)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.cut = nn.Conv2d(1, width, 2, stride=2)
        self.token, self.place = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.randn(1, 17, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 1, 8, 8] to [batch, 10]."""
        tokens = torch.cat([self.token.expand(len(x), 1, -1), self.cut(x).flatten(2).transpose(1, 2)], 1)
        out: Tensor = self.head(self.norm(self.body(tokens + self.place)[:, 0]))
        return out


@family("muon", 5e-3, 150, supervised=True, continuous=True)
def boarder_patches_by_muon() -> Task:
    """A small vision transformer, its matrices by Muon."""
    return Task(Patches(), rows_of(32, *images()), classes)
