"""Data of the ninth round: depth, names, clouds of points, proteins, loads of a grid, arms, and what people listen to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from tests.benchmarks.preflight.data import generator


def depths(n: int = 320, side: int = 16) -> tuple[Tensor, Tensor]:
    """Colour pictures, standardised, and how far each pixel is (0.5 to 1.5)."""
    g = generator()
    far = F.interpolate(torch.rand(n, 1, 4, 4, generator=g), size=(side, side), mode="bilinear") + 0.5
    seen = torch.cat([1 / far, far, far * far], 1) + 0.1 * torch.randn(n, 3, side, side, generator=g)
    return (seen - seen.mean((0, 2, 3), keepdim=True)) / seen.std((0, 2, 3), keepdim=True), far[:, 0]


def names(n: int = 640, letters: int = 26, length: int = 10, peoples: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Letters (1 to 26, then 0 as padding), lengths, and the people by whose habits the letters were drawn."""
    g = generator()
    people = torch.randint(0, peoples, (n,), generator=g)
    habits = torch.softmax(1.5 * torch.randn(peoples, letters, generator=g), -1)
    drawn = torch.multinomial(habits[people], length, replacement=True, generator=g) + 1
    lengths = torch.randint(4, length + 1, (n,), generator=g)
    return drawn * (torch.arange(length) < lengths[:, None]), lengths, people


def clouds(n: int = 480, points: int = 24) -> tuple[Tensor, Tensor]:
    """Points on a sphere, a cube, a disc or a stick, and which."""
    g = generator()
    kind, p = torch.randint(0, 4, (n,), generator=g), torch.randn(n, points, 3, generator=g)
    flat, thin = torch.tensor([1.0, 1.0, 0.05]), torch.tensor([0.05, 0.05, 1.5])
    shapes = torch.stack([F.normalize(p, dim=-1), p.clamp(-0.8, 0.8), p * flat, p * thin], 1)
    return shapes[torch.arange(n), kind], kind


def proteins(n: int = 320) -> list[tuple[Tensor, Tensor]]:
    """Chains of 20 kinds of residues (1 to 20), and the state (0 to 2) of each."""
    g = generator()
    chains = [torch.randint(1, 21, (int(torch.randint(8, 31, (1,), generator=g)),), generator=g) for _ in range(n)]
    return [(chain, (chain + (chain.roll(1) > 15).long()) % 3) for chain in chains]


def padded(samples: list[tuple[Tensor, Tensor]], padding: int) -> dict[str, Tensor]:
    """A batch of chains, longest to shortest as they come; what stands for "nothing" among the states is given."""
    chains, states = zip(*samples, strict=True)
    return {
        "residues": pad_sequence(list(chains), batch_first=True),
        "states": pad_sequence(list(states), batch_first=True, padding_value=padding),
        "lengths": torch.tensor([len(chain) for chain in chains]),
    }


def loads(n: int = 640) -> tuple[Tensor, Tensor]:
    """What a grid used in 32 hours, and in the eight hours after them; about standardised."""
    g = generator()
    t = torch.arange(40)
    phase, height = 6.3 * torch.rand(n, 1, generator=g), 0.5 + torch.rand(n, 1, generator=g)
    used = height * torch.sin(0.26 * t + phase) + 0.3 * torch.sin(0.7 * t) + 0.1 * torch.randn(n, 40, generator=g)
    return used[:, :32], used[:, 32:]


def arms(n: int = 960) -> tuple[Tensor, Tensor]:
    """Three joints' angles, and where the hand is."""
    angles = 2.0 * torch.rand(n, 3, generator=generator()) - 1.0
    turned = angles.cumsum(1)
    return angles, torch.stack([turned.cos().sum(1) - 2.2, turned.sin().sum(1)], 1)


def listeners(n: int = 960, songs: int = 40, length: int = 8) -> tuple[Tensor, Tensor]:
    """What somebody heard, and what comes next: songs follow each other in circles of ten."""
    g = generator()
    circle, place = torch.randint(0, songs // 10, (n, 1), generator=g), torch.randint(0, 10, (n, 1), generator=g)
    heard = 10 * circle + (place + torch.arange(length + 1)) % 10
    noisy = torch.where(
        torch.rand(n, length + 1, generator=g) < 0.2, torch.randint(0, songs, heard.shape, generator=g), heard
    )
    return noisy[:, :-1], heard[:, -1]


def subjects(n: int = 640, topics: int = 6) -> tuple[Tensor, Tensor]:
    """Sixteen numbers of a text, and which of six topics it is about (several, or none)."""
    g = generator()
    x = torch.randn(n, 16, generator=g)
    return x, (x @ torch.randn(16, topics, generator=g) + 0.5 * torch.randn(n, topics, generator=g) > 1.0).float()


def batches(samples: Iterable[Any], size: int, collate: Any = None, shuffle: bool = True) -> DataLoader[Any]:
    """Of a list of samples."""
    return DataLoader(list(samples), batch_size=size, shuffle=shuffle, collate_fn=collate, drop_last=True)  # type: ignore[arg-type]


class Points(nn.Module):
    """PointNet (Qi et al. 2017) without its transforms."""

    def __init__(self, outputs: int = 4, width: int = 32) -> None:
        super().__init__()
        self.each = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.head = nn.Linear(width, outputs)

    def forward(self, points: Tensor) -> Tensor:
        """The largest of each feature over all points decides."""
        told: Tensor = self.head(self.each(points).amax(1))
        return told


def pixelwise(inputs: int = 3, outputs: int = 1, width: int = 16) -> nn.Sequential:
    """Convolutions that keep height and width."""
    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
        nn.Conv2d(width, outputs, 1),
    )  # fmt: skip
