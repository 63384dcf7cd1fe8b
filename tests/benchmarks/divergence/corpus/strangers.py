"""Families that were written blind, after the rules: vision, language, audio, graphs and series with habits of their own."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from tests.benchmarks.divergence.corpus.family import Batch, Loss, Task, family, fixed, rows_of
from tests.benchmarks.divergence.corpus.generative import characters
from tests.benchmarks.divergence.corpus.supervised import classes, images, seasonal
from tests.benchmarks.divergence.data import windows
from tests.benchmarks.divergence.models import mlp


def grid(size: int) -> Tensor:
    """The rows and columns of a square image's pixels."""
    return torch.stack(torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij"))


def causal(length: int) -> Tensor:
    """What a token may not look at."""
    return torch.ones(length, length, dtype=torch.bool).triu(1)


def logistic(net: nn.Module, batch: Batch) -> Tensor:
    """Binary cross entropy of each output."""
    return F.binary_cross_entropy_with_logits(net(batch[0]), batch[-1])


def over_all(loss: Loss, *columns: Tensor) -> Callable[[nn.Module], float]:
    """The loss of all rows, where that of a batch is mostly luck."""

    def measure(net: nn.Module) -> float:
        kind = next(net.parameters()).dtype
        return float(loss(net, tuple(c.to(kind) if c.is_floating_point() else c for c in columns)))

    return measure


@family("adamw", 3e-3, 200, supervised=True, continuous=True)
def unet_denoising() -> Task:
    """Rings without their noise: a U-Net with skips and GroupNorm, four images at a time, errors summed over an image."""

    def stage(inputs: int, width: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(inputs, width, 3, padding=1), nn.GroupNorm(4, width), nn.SiLU())

    class Unet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.middle, self.up = stage(1, 16), stage(16, 32), stage(48, 16)
            self.head = nn.Conv2d(16, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            fine = self.down(x)
            coarse = F.interpolate(self.middle(F.max_pool2d(fine, 2)), scale_factor=2.0)
            return self.head(self.up(torch.cat([fine, coarse], 1)))  # type: ignore[no-any-return]

    g = fixed()
    apart = (grid(16) - 16 * torch.rand(400, 2, 1, 1, generator=g)).norm(dim=1)
    clean = torch.exp(-((apart - 2 - 4 * torch.rand(400, 1, 1, generator=g)) ** 2))[:, None]
    noisy = clean + 0.5 * torch.randn(clean.shape, generator=g)
    return Task(Unet(), rows_of(4, noisy, clean), lambda n, b: ((n(b[0]) - b[1]) ** 2).sum((1, 2, 3)).mean())


@family("adamw", 1e-2, 200, supervised=True, continuous=True)
def depthwise_layer_scale() -> Task:
    """ConvNeXt's blocks: depthwise convolutions whose branches begin at a millionth, and smoothed labels."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.mix, self.norm = nn.Conv2d(width, width, 3, padding=1, groups=width), nn.GroupNorm(1, width)
            self.body = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.GELU(), nn.Conv2d(2 * width, width, 1))
            self.scale = nn.Parameter(1e-6 * torch.ones(width, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.scale * self.body(self.norm(self.mix(x)))  # type: ignore[no-any-return]

    head = (nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.LayerNorm(96), nn.Linear(96, 10))
    net = nn.Sequential(nn.Conv2d(1, 24, 2, stride=2), Block(24), Block(24), *head)
    return Task(net, rows_of(64, *images()), lambda n, b: F.cross_entropy(n(b[0]), b[1], label_smoothing=0.1))


@family("adamw-95", 2.5e-3, 150)
def gpt_with_dropout() -> Task:
    """GPT-2's habits: tied weights of 0.02, dropout everywhere, few and longer windows of text."""

    class Gpt(nn.Module):
        def __init__(self, width: int = 48) -> None:
            super().__init__()
            self.table, self.places = nn.Embedding(97, width), nn.Embedding(64, width)
            layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.1, "gelu", batch_first=True, norm_first=True)
            self.body = nn.TransformerEncoder(layer, 2, nn.LayerNorm(width), enable_nested_tensor=False)
            for weight in (self.table.weight, self.places.weight):
                nn.init.normal_(weight, std=0.02)

        def forward(self, x: Tensor) -> Tensor:
            h = F.dropout(self.table(x) + self.places.weight, 0.1, self.training)
            return self.body(h, mask=causal(x.shape[1])) @ self.table.weight.T  # type: ignore[no-any-return]

    return Task(Gpt(), windows(4, 64), characters)


@family("adam-98", 2e-3, 200, supervised=True)
def padded_bert() -> Task:
    """Which of four kinds of token is the most frequent: norms after, dropout, and up to three quarters of padding."""

    class Bert(nn.Module):
        def __init__(self, width: int = 32) -> None:
            super().__init__()
            self.table, self.places = nn.Embedding(21, width, padding_idx=0), nn.Parameter(0.02 * torch.randn(16, width))
            layer = nn.TransformerEncoderLayer(width, 4, 64, 0.1, "gelu", batch_first=True)
            self.body, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(width, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = self.body(self.table(x) + self.places, src_key_padding_mask=x == 0)
            kept = (x != 0)[..., None].to(h.dtype)
            return self.head((h * kept).sum(1) / kept.sum(1))  # type: ignore[no-any-return]

    g = fixed()
    x = torch.randint(1, 21, (3000, 16), generator=g)
    x = x * (torch.arange(16) < torch.randint(4, 17, (3000, 1), generator=g))
    counts = torch.stack([((x % 4 == kind) & (x != 0)).sum(1) for kind in range(4)], 1)
    return Task(Bert(), rows_of(32, x, counts.argmax(1)), classes)


@family("adam-98", 2e-2, 200, supervised=True, continuous=True)
def listen_and_write() -> Task:
    """Five notes from a noisy spectrogram by encoder and decoder, as Whisper does it; the last answer is given each time."""

    class Writes(nn.Module):
        def __init__(self, width: int = 32) -> None:
            super().__init__()
            self.listen = nn.Sequential(
                nn.Conv1d(16, width, 3, 2, 1), nn.GELU(), nn.Conv1d(width, width, 3, 1, 1), nn.GELU()
            )
            self.table, self.places = nn.Embedding(9, width), nn.Parameter(0.02 * torch.randn(15, width))
            self.reads = nn.TransformerEncoderLayer(width, 4, 64, 0.0, batch_first=True, norm_first=True)
            self.writes = nn.TransformerDecoderLayer(width, 4, 64, 0.0, batch_first=True, norm_first=True)
            self.head = nn.Linear(width, 9)

        def forward(self, sound: Tensor, given: Tensor) -> Tensor:
            heard = self.reads(self.listen(sound).transpose(1, 2) + self.places)
            told = self.writes(self.table(given) + self.places[: given.shape[1]], heard, tgt_mask=causal(given.shape[1]))
            return self.head(told)  # type: ignore[no-any-return]

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        given = F.pad(batch[1][:, :-1], (1, 0))
        return F.cross_entropy(net(batch[0], given).flatten(0, 1), batch[1].flatten())

    g = fixed()
    notes = torch.randint(1, 9, (1000, 5), generator=g)
    pitch = 1.8 * notes.repeat_interleave(6, 1)[:, None]
    sound = torch.exp(-((torch.arange(16.0)[:, None] - pitch) ** 2)) + 0.3 * torch.randn(1000, 16, 30, generator=g)
    return Task(Writes(), rows_of(16, sound, notes), loss)


@family("adam", 7e-3, 250, supervised=True)
def molecule_energies() -> Task:
    """The energy of a random molecule, some -30 units, by sums over neighbours and atoms; absolute errors."""

    class Molecule(nn.Module):
        def __init__(self, width: int = 32) -> None:
            super().__init__()
            self.table, self.layers = nn.Embedding(4, width), nn.ModuleList(mlp([width, width, width]) for _ in range(3))
            self.head = mlp([width, width, 1])

        def forward(self, atoms: Tensor, bonds: Tensor) -> Tensor:
            h = self.table(atoms)
            for layer in self.layers:
                h = h + layer(h + bonds @ h)
            return self.head(h).sum((1, 2))  # type: ignore[no-any-return]

    g = fixed()
    atoms, before = torch.randint(0, 4, (1500, 9), generator=g), torch.rand(1500, 9, generator=g)
    bonds = torch.zeros(1500, 9, 9)
    for k in range(1, 9):
        bonds[torch.arange(1500), k, (before[:, k] * k).long()] = 1.0
    bonds = bonds + bonds.transpose(1, 2)
    strength = 1 + 4 * torch.rand(4, 4, generator=g)
    energy = -(bonds * (strength + strength.T)[atoms[:, :, None], atoms[:, None]]).sum((1, 2)) / 2
    return Task(Molecule(), rows_of(32, atoms, bonds, energy), lambda n, b: F.l1_loss(n(b[0], b[1]), b[2]))


@family("adam", 2e-2, 250, supervised=True)
def link_prediction() -> Task:
    """Is there an edge: a graph autoencoder with learnt nodes, as many non-edges as edges."""
    g = fixed()
    group = torch.randint(0, 8, (160,), generator=g)
    edges = (torch.rand(160, 160, generator=g) < torch.where(group[:, None] == group, 0.4, 0.01)).triu(1)
    known = (edges | edges.T).float() + torch.eye(160)

    class Links(nn.Module):
        known: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("known", known / known.sum(1, keepdim=True))
            self.nodes, self.one, self.two = nn.Parameter(torch.randn(160, 16)), nn.Linear(16, 32), nn.Linear(32, 16)

        def forward(self, pairs: Tensor) -> Tensor:
            h = self.known @ self.two(F.relu(self.known @ self.one(self.nodes)))
            return (h[pairs[:, 0]] * h[pairs[:, 1]]).sum(1)  # type: ignore[no-any-return]

    right, wrong = edges.nonzero(), torch.randint(0, 160, (int(edges.sum()), 2), generator=g)
    y = torch.cat([torch.ones(len(right)), torch.zeros(len(wrong))])
    return Task(Links(), rows_of(128, torch.cat([right, wrong]), y), logistic)


@family("nadam", 1e-2, 200, supervised=True, continuous=True)
def dilated_forecast() -> Task:
    """Six hours ahead by dilated causal convolutions with weight norm, absolute errors."""
    sizes = ((1, 16, 1), (16, 16, 2), (16, 16, 4))
    layers = [
        part for a, b, d in sizes for part in (weight_norm(nn.Conv1d(a, b, 3, dilation=d)), nn.ReLU(), nn.Dropout(0.05))
    ]
    net = nn.Sequential(nn.Unflatten(1, (1, 48)), *layers, nn.Flatten(), nn.Linear(16 * 34, 6))
    cut = seasonal().unfold(0, 54, 1)
    return Task(net, rows_of(16, cut[:, :48], cut[:, 48:]), lambda n, b: F.l1_loss(n(b[0]), b[1]))


@family("adamw", 1.5e-2, 200, supervised=True, continuous=True)
def state_space_rows() -> Task:
    """Digits as a sequence of 32 pairs of pixels through two diagonal state-space layers (S4D with real states)."""

    class StateSpace(nn.Module):
        def __init__(self, width: int = 24, states: int = 8) -> None:
            super().__init__()
            self.decay = nn.Parameter(torch.linspace(-4, 0, states).repeat(width, 1))
            self.read, self.norm = nn.Parameter(torch.randn(width, states) / states), nn.LayerNorm(width)
            self.mix = nn.Linear(width, 2 * width)

        def forward(self, x: Tensor) -> Tensor:
            length, width = x.shape[1:]
            ages = torch.arange(length - 1, -1, -1, dtype=x.dtype)
            kernel = (self.read[..., None] * torch.exp(-self.decay.exp()[..., None] * ages)).sum(1)
            h = F.pad(self.norm(x).transpose(1, 2), (length - 1, 0))
            h = F.conv1d(h, kernel[:, None].to(h.dtype), groups=width)
            return x + F.glu(self.mix(F.gelu(h).transpose(1, 2)), dim=-1)

    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.layers = nn.Linear(2, 24), nn.Sequential(StateSpace(), StateSpace())
            self.head = nn.Linear(24, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layers(self.first(x)).mean(1))  # type: ignore[no-any-return]

    x, y = images()
    return Task(Reads(), rows_of(32, x.reshape(-1, 32, 2), y), classes)


@family("nesterov", 1e-2, 200, supervised=True, continuous=True)
def blob_detection() -> Task:
    """Boxes as YOLO has them: presence, place and kind in each of sixteen cells, weighted and summed."""
    g = fixed()
    cell, kind = torch.randint(0, 16, (600,), generator=g), torch.randint(0, 3, (600,), generator=g)
    inside = torch.rand(600, 2, generator=g)
    centre = 4 * (torch.stack([cell // 4, cell % 4], 1) + inside)
    spread = torch.tensor([1.0, 3.0, 8.0])[kind, None, None]
    x = torch.exp(-((grid(16) - centre[..., None, None]) ** 2).sum(1) / spread)
    x = x + 0.1 * torch.randn(x.shape, generator=g)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.LeakyReLU(0.1),
        nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.LeakyReLU(0.1), nn.Conv2d(32, 6, 3, 1, 1), nn.Flatten(2),
    )  # fmt: skip

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        told, cells = net(batch[0]), batch[2]
        here = told[torch.arange(len(cells)), :, cells]
        present = F.binary_cross_entropy_with_logits(told[:, 0], F.one_hot(cells, 16).to(told.dtype), reduction="sum")
        place = F.mse_loss(here[:, 1:3].sigmoid(), batch[1], reduction="sum")
        return (present + 5 * place + F.cross_entropy(here[:, 3:], batch[3], reduction="sum")) / len(cells)

    return Task(net, rows_of(16, x[:, None], inside, cell, kind), loss)


@family("adam", 4e-3, 250, continuous=True, not_in=("bf16",))
def prototypes() -> Task:
    """Few-shot episodes: five classes that were never seen, three examples each; what is asked is noisy by nature."""
    warp = mlp([16, 32, 24], nn.Tanh).requires_grad_(False)

    def draw(generator: Generator) -> Batch:
        kinds = torch.randn(5, 1, 8, generator=generator)
        shared = torch.randn(5, 8, 8, generator=generator)
        return (3 * warp(torch.cat([kinds.expand(-1, 8, -1), 2 * shared], 2)),)

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        z = net(batch[0])
        apart = torch.cdist(z[:, 3:].flatten(0, 1), z[:, :3].mean(1))
        return F.cross_entropy(-(apart**2), torch.arange(5).repeat_interleave(5))

    return Task(mlp([24, 64, 64, 16]), draw, loss)


@family("sgd", 60.0, 250, supervised=True, continuous=True)
def tangent_kernel() -> Task:
    """Weights of one that are scaled where they are used (the NTK's parametrisation): plain SGD at a rate of tens."""

    class Scaled(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(outputs, inputs))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight) * math.sqrt(2 / self.weight.shape[1])

    x, y = images()
    net = nn.Sequential(nn.Flatten(), Scaled(64, 128), nn.ReLU(), Scaled(128, 128), nn.ReLU(), Scaled(128, 10))
    return Task(net, rows_of(64, x, y), lambda n, b: F.cross_entropy(0.3 * n(b[0]), b[1]))
