"""Data and nets of the twelfth round: what is usual in torchvision, timm, transformers, forecasting and graph libraries."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import generator
from tests.benchmarks.preflight.outsiders_parts import Lit


class Loss(Lit):
    """A net, and a loss of (net, batch)."""

    def __init__(self, net: nn.Module, loss: Any, lr: float = 1e-3) -> None:
        super().__init__()
        self.net, self.loss, self.lr = net, loss, lr

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """As given."""
        loss = self.loss(self.net, batch)
        self.log("train/loss", loss)
        return loss


def photos(n: int = 480, classes: int = 4, side: int = 16) -> tuple[Tensor, Tensor]:
    """Colour pictures of bytes, each kind with its own shade and stripes, and the kind."""
    g = generator()
    y = torch.randint(0, classes, (n,), generator=g)
    shade = torch.rand(classes, 3, 1, 1, generator=g)
    wave = torch.sin(torch.arange(side) * (0.4 + 0.5 * torch.arange(classes)[:, None]))[:, None, None, :]
    x = 128 + 60 * (shade - 0.5)[y] + 40 * wave[y] + 30 * torch.randn(n, 3, side, side, generator=g)
    return x.clamp(0, 255).to(torch.uint8), y


def normalised(n: int = 480, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Photos after ``ToTensor`` and ``Normalize``."""
    x, y = photos(n, classes)
    scaled = x.float() / 255
    mean, deviation = scaled.mean((0, 2, 3), keepdim=True), scaled.std((0, 2, 3), keepdim=True)
    return (scaled - mean) / deviation, y


def spectrograms(n: int = 480, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Mel spectrograms in decibels under their loudest point (-80 to 0), and which command it was."""
    g = generator()
    y = torch.randint(0, classes, (n,), generator=g)
    pattern = torch.randn(classes, 1, 16, 20, generator=g)
    return (-40 + 12 * pattern[y] + 10 * torch.randn(n, 1, 16, 20, generator=g)).clamp(-80, 0), y


def adults(n: int = 960) -> dict[str, Tensor]:
    """Three categories, four numbers (standardised), and whether somebody earns much."""
    g = generator()
    sizes = torch.tensor([5, 8, 12])
    categories = (torch.rand(n, 3, generator=g) * sizes).long()
    numbers = torch.randn(n, 4, generator=g)
    score = numbers[:, 0] + (categories[:, 0] - 2) * 0.7 + 0.4 * torch.randn(n, generator=g)
    return {"categories": categories, "numbers": numbers, "rich": (score > 0).long()}


def ratings(n: int = 1280, users: int = 40, films: int = 30) -> tuple[Tensor, Tensor, Tensor]:
    """Who rated which film, and by how much above the mean."""
    g = generator()
    user, film = torch.randint(0, users, (n,), generator=g), torch.randint(0, films, (n,), generator=g)
    taste, kind = torch.randn(users, 3, generator=g), torch.randn(films, 3, generator=g)
    return user, film, (taste[user] * kind[film]).sum(1) / 1.7 + 0.2 * torch.randn(n, generator=g)


def tagged(n: int = 480, words: int = 40, length: int = 12) -> dict[str, Tensor]:
    """Words padded with 0, which are real, and a tag for each that depends on the word before; -100 where there is none."""
    g = generator()
    words_of = torch.randint(1, words, (n, length), generator=g)
    real = torch.arange(length) < torch.randint(5, length + 1, (n, 1), generator=g)
    tags = (words_of % 3 + (words_of.roll(1, 1) > words // 2).long()) % 3
    return {"input_ids": words_of * real, "attention_mask": real.long(), "labels": tags.masked_fill(~real, -100)}


def commands(n: int = 320, length: int = 128) -> tuple[Tensor, Tensor]:
    """Sound waves between -1 and 1 of three pitches."""
    g = generator()
    y = torch.randint(0, 3, (n,), generator=g)
    t, phase = torch.arange(length), 6.3 * torch.rand(n, 1, generator=g)
    wave = torch.sin(t * (0.2 + 0.25 * y[:, None]) + phase)
    return (0.3 * wave + 0.1 * torch.randn(n, length, generator=g)).clamp(-1, 1)[:, None], y


def molecules(n: int = 480, atoms: int = 8) -> dict[str, Tensor]:
    """Dense graphs: a kind and two charges for each atom, bonds in both directions, and one of three classes."""
    g = generator()
    y = torch.randint(0, 3, (n,), generator=g)
    bonds = (torch.rand(n, atoms, atoms, generator=g) < (0.15 + 0.2 * y)[:, None, None]).float()
    bonds = ((bonds + bonds.transpose(1, 2)) > 0).float()
    atom = torch.randn(n, atoms, 6, generator=g) + 0.5 * F.one_hot(y, 6)[:, None]
    return {"atoms": atom, "bonds": bonds, "y": y}


def votes(n: int = 960, columns: int = 7) -> tuple[Tensor, Tensor]:
    """Seven numbers, and how many of five annotators chose each of four kinds."""
    g = generator()
    x = torch.randn(n, columns, generator=g)
    chosen = torch.multinomial(torch.softmax(2 * x[:, :4], 1), 5, replacement=True, generator=g)
    return x, F.one_hot(chosen, 4).sum(1).float()


class Tagger(Lit):
    """Words, read in both directions by an LSTM or a GRU, and a score for each of three tags."""

    def __init__(self, cell: type[nn.RNNBase]) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(40, 32, padding_idx=0), nn.Linear(64, 3)
        self.cell = cell(32, 32, batch_first=True, bidirectional=True)

    def scores(self, batch: dict[str, Tensor]) -> Tensor:
        """(examples, places, tags)."""
        told: Tensor = self.head(self.cell(self.words(batch["input_ids"]))[0])
        return told


class Block(nn.Module):
    """torchvision's BasicBlock."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        change = stride != 1 or inputs != outputs
        short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.downsample = short if change else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Two convolutions beside the short way."""
        h = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(h + self.downsample(x))


def resnet(classes: int = 4, width: int = 8) -> nn.Sequential:
    """A ResNet for small pictures, initialised as torchvision does."""
    net = nn.Sequential(
        nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
        Block(width, width), Block(width, 2 * width, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, classes),
    )  # fmt: skip
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(part, Block):
            nn.init.zeros_(part.bn2.weight)
    return net


def transformer(width: int = 32, layers: int = 2, **options: Any) -> nn.TransformerEncoder:
    """An encoder of torch, batch first."""
    layer = nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True, **{"dropout": 0.0, **options})
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


class Masked(nn.Conv2d):
    """PixelCNN's convolution (van den Oord et al. 2016): what comes later is cut off; of kind "A" the pixel itself too."""

    mask: Tensor

    def __init__(self, kind: str, inputs: int, outputs: int, size: int) -> None:
        super().__init__(inputs, outputs, size, padding=size // 2)
        mask = torch.ones(size, size)
        mask[size // 2, size // 2 + (kind == "B") :] = 0
        mask[size // 2 + 1 :] = 0
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        """With the mask on the weights."""
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)


def pixelcnn(first: str = "A") -> nn.Sequential:
    """Three masked convolutions."""
    return nn.Sequential(
        Masked(first, 1, 16, 5), nn.ReLU(), Masked("B", 16, 16, 3), nn.ReLU(), Masked("B", 16, 1, 1),
    )  # fmt: skip


class Crf(nn.Module):
    """A linear chain over tags (Lafferty et al. 2001): the negative log-likelihood of a whole sequence."""

    def __init__(self, tags: int = 3) -> None:
        super().__init__()
        self.moves = nn.Parameter(0.1 * torch.randn(tags, tags))

    def forward(self, scores: Tensor, tags: Tensor) -> Tensor:
        """Mean over sequences, per place."""
        taken = scores.gather(2, tags[..., None])[..., 0].sum(1) + self.moves[tags[:, :-1], tags[:, 1:]].sum(1)
        alpha = scores[:, 0]
        for place in range(1, scores.shape[1]):
            alpha = torch.logsumexp(alpha[:, :, None] + self.moves, 1) + scores[:, place]
        return (torch.logsumexp(alpha, 1) - taken).mean() / scores.shape[1]


def run_of(epochs: int, **options: Any) -> dict[str, Any]:
    """The argument that says how long the run is."""
    return {"trainer": L.Trainer(max_epochs=epochs, logger=False, **options)}
