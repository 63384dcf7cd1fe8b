"""Data and modules of the fifteenth round: photographs, sounds, loads, visits, shapes, and what an agent has seen."""

from __future__ import annotations

import itertools
import math
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import generator


class Task(L.LightningModule):
    """A loss of the batch, by Adam."""

    lr = 1e-3

    def loss(self, batch: Any) -> Any:
        """What is made small."""
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Log it and hand it over."""
        loss = self.loss(batch)
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        """Adam over everything."""
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class Manual(Task):
    """Its step calls its optimizers."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


def photos(n: int = 640, classes: int = 5, side: int = 16) -> tuple[Tensor, Tensor]:
    """Coloured stripes between 0 and 1; the class is their direction."""
    g = generator(1)
    y = torch.randint(0, classes, (n,), generator=g)
    angle = (math.pi * y / classes + 0.1 * torch.randn(n, generator=g))[:, None, None]
    down, across = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    phase = 6.3 * torch.rand(n, 1, 1, generator=g)
    stripes = torch.sin(1.2 * (angle.cos() * across + angle.sin() * down) + phase)
    colour = 0.2 + 0.3 * torch.rand(n, 3, 1, 1, generator=g)
    noise = 0.05 * torch.randn(n, 3, side, side, generator=g)
    return (0.5 + colour * stripes[:, None] + noise).clamp(0, 1), y


def normalised(x: Tensor) -> Tensor:
    """Pictures as ``transforms.Normalize(0.5, 0.25)`` leaves them."""
    return (x - 0.5) / 0.25


def scenes(n: int = 320, side: int = 16) -> tuple[Tensor, Tensor]:
    """Pictures with a bright and a dark disc, and for each pixel: nothing, bright, dark."""
    g = generator(2)
    down, across = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    mask = torch.zeros(n, side, side, dtype=torch.long)
    for kind in (1, 2):
        centre = 2 + (side - 4) * torch.rand(n, 2, 1, 1, generator=g)
        near = (down - centre[:, 0]) ** 2 + (across - centre[:, 1]) ** 2 < (side / 5) ** 2
        mask[near] = kind
    shade = torch.tensor([0.0, 1.0, -1.0])[mask]
    return shade[:, None] + 0.3 * torch.randn(n, 3, side, side, generator=g), mask


def spoken(n: int = 320, frames: int = 30, words: int = 6) -> dict[str, Tensor]:
    """Frames of eight features, three to five words (1 to 6) that are each spoken for some frames, and how many of both."""
    g = generator(3)
    sound = torch.randn(words + 1, 8, generator=g)
    sound[0] = 0
    length = torch.randint(3, 6, (n,), generator=g)
    label = torch.randint(1, words + 1, (n, 5), generator=g) * (torch.arange(5) < length[:, None])
    slots = torch.stack([label, torch.zeros_like(label)], 2).flatten(1).repeat_interleave(frames // 10, 1)
    x = 1.5 * sound[slots] + 0.5 * torch.randn(n, frames, 8, generator=g)
    return {"x": x, "frames": torch.full((n,), frames), "label": label, "length": length}


def loads(n: int = 800, past: int = 36, ahead: int = 12) -> tuple[Tensor, Tensor]:
    """Standardised hourly loads: what was, and what comes."""
    g = generator(4)
    t = torch.arange(n + past + ahead)
    series = (
        torch.sin(t * 2 * math.pi / 24) + 0.5 * torch.sin(t * 2 * math.pi / 12 + 1) + 0.15 * torch.randn(len(t), generator=g)
    )
    series = (series - series.mean()) / series.std()
    cut = series.unfold(0, past + ahead, 1)[:n]
    return cut[:, :past], cut[:, past:]


def visitors(n: int = 1280) -> dict[str, Tensor]:
    """Two categories, four standardised columns, and whether somebody bought (a third did)."""
    g = generator(5)
    country, device = torch.randint(0, 9, (n,), generator=g), torch.randint(0, 3, (n,), generator=g)
    x = torch.randn(n, 4, generator=g)
    tilt = torch.randn(9, generator=g)[country] + 0.5 * (device == 1) + x[:, 0] * x[:, 1] + x[:, 2] - 1
    return {
        "country": country,
        "device": device,
        "x": x,
        "bought": (torch.rand(n, generator=g) < torch.sigmoid(2 * tilt)).float(),
    }


def flats(n: int = 960) -> tuple[Tensor, Tensor]:
    """Eight standardised columns and a standardised rent, with some noise."""
    g = generator(6)
    x = torch.randn(n, 8, generator=g)
    y = x[:, 0] + 0.7 * torch.tanh(x[:, 1] * x[:, 2]) + 0.5 * x[:, 3].abs() + 0.2 * torch.randn(n, generator=g)
    return x, (y - y.mean()) / y.std()


def notes(n: int = 640, words: int = 50, length: int = 18) -> dict[str, Tensor]:
    """Tokens from 2 on, padded with 0 from some place on, which are real, and which of three themes is told of."""
    g = generator(7)
    label = torch.randint(0, 3, (n,), generator=g)
    themed = 2 + 16 * label[:, None] + torch.randint(0, 16, (n, length), generator=g)
    any_ = torch.randint(2, words, (n, length), generator=g)
    tokens = torch.where(torch.rand(n, length, generator=g) < 0.4, themed, any_)
    real = torch.arange(length) < torch.randint(8, length + 1, (n, 1), generator=g)
    return {"input_ids": tokens * real, "attention_mask": real.long(), "labels": label}


def shapes(n: int = 480, points: int = 48) -> tuple[Tensor, Tensor]:
    """Points on a sphere, a cube or a disc that were turned at random, and which."""
    g = generator(8)
    y = torch.randint(0, 3, (n,), generator=g)
    x = torch.randn(n, points, 3, generator=g)
    ball = F.normalize(x, dim=-1)
    cube = x.clamp(-1, 1) / x.abs().amax(-1, keepdim=True).clamp_max(1)
    disc = ball * torch.tensor([1.0, 1.0, 0.0])
    turn = torch.linalg.qr(torch.randn(n, 3, 3, generator=g))[0]
    return torch.stack([ball, cube, disc], 1)[torch.arange(n), y] @ turn, y


def swings(n: int = 960) -> dict[str, Tensor]:
    """A pendulum: cosine, sine and speed, the torque between -2 and 2, the reward, what came next, and whether it ended."""
    g = generator(9)
    angle, speed = 6.3 * torch.rand(n, generator=g) - 3.15, 2 * torch.randn(n, generator=g)
    expert = (-2.0 * torch.sin(angle) - 0.5 * speed).clamp(-2, 2)
    action = (expert + 0.3 * torch.randn(n, generator=g)).clamp(-2, 2)
    speed2 = speed + 0.05 * (15 * torch.sin(angle) + 3 * action)
    angle2 = angle + 0.05 * speed2
    obs, after = (torch.stack([a.cos(), a.sin(), s / 2], 1) for a, s in ((angle, speed), (angle2, speed2)))
    cost = 0.1 * angle.square() + 0.01 * speed.square() + 0.001 * action.square()
    done = (torch.rand(n, generator=g) < 0.05).float()
    return {"obs": obs, "action": action[:, None], "reward": -cost, "next_obs": after, "done": done}


def baskets(n: int = 800, things: int = 40, length: int = 10) -> Tensor:
    """What was looked at, one after another: things of one kind follow each other."""
    g = generator(10)
    walk = torch.zeros(n, length, dtype=torch.long)
    walk[:, 0] = torch.randint(0, things, (n,), generator=g)
    for place in range(1, length):
        near = (walk[:, place - 1] + torch.randint(1, 4, (n,), generator=g)) % things
        walk[:, place] = torch.where(torch.rand(n, generator=g) < 0.85, near, torch.randint(0, things, (n,), generator=g))
    return walk


def mlp(*widths: int, act: type[nn.Module] = nn.ReLU, last: type[nn.Module] | None = None) -> nn.Sequential:
    """Linear layers with an activation behind each but the last."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), act()]
    return nn.Sequential(*layers[:-1], *([last()] if last else []))


def backbone(width: int = 32) -> nn.Sequential:
    """Convolutions with batch norms, for the photographs, down to a vector."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


class Segmenter(nn.Module):
    """Down and up once, with a skip."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.inc = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.down = nn.Sequential(
            nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(inplace=True)
        )
        self.up, self.outc = nn.ConvTranspose2d(32, 16, 2, stride=2), nn.Conv2d(32, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of each pixel."""
        fine = self.inc(x)
        return self.outc(torch.cat([fine, self.up(self.down(fine))], 1))


class Vit(nn.Module):
    """Patches of 4 × 4, a class token, two encoder layers."""

    def __init__(self, outputs: int = 5, width: int = 48) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, stride=4)
        self.cls, self.pos = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, 17, width))
        nn.init.trunc_normal_(self.pos, std=0.02)
        layer = nn.TransformerEncoderLayer(width, 4, 96, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks, self.norm = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls.expand(len(x), -1, -1), tokens], 1) + self.pos
        return self.head(self.norm(self.blocks(tokens))[:, 0])


def causal(length: int) -> Tensor:
    """True where one must not look."""
    return torch.ones(length, length, dtype=torch.bool).triu(1)
