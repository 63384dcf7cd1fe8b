"""Data and nets of the sixteenth round: glyphs, blobs, letters, gauges, clouds, clips, chirps, clients and queries."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from tests.benchmarks.preflight.data import generator


class System(L.LightningModule):
    """Its step and validation share ``compute``, which is what a Lightning user calls it."""

    learning_rate = 1e-3

    def compute(self, batch: Any) -> Any:
        """The loss of a batch."""
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Log and return it."""
        loss = self.compute(batch)
        self.log("loss/train", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW over what may be trained."""
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=self.learning_rate)


class ByHand(System):
    """Manual optimization."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class Examples(Dataset[Any]):
    """A list of whatever each sample is."""

    def __init__(self, samples: list[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: int) -> Any:
        return self.samples[place]


def batches(samples: list[Any], size: int = 32, **options: Any) -> DataLoader[Any]:
    """Shuffled, without the last few."""
    return DataLoader(Examples(samples), size, **{"shuffle": True, "drop_last": True, **options})


def glyphs(n: int = 640, classes: int = 6, side: int = 14) -> tuple[Tensor, Tensor]:
    """Bytes: one of six smooth drawings, moved by a pixel or two, with grain."""
    g = generator(161)
    drawing = F.interpolate(torch.randn(classes, 1, 5, 5, generator=g), side, mode="bicubic").clamp(-1.5, 1.5)
    y = torch.randint(0, classes, (n,), generator=g)
    moved = [torch.roll(drawing[k], tuple(torch.randint(-2, 3, (2,), generator=g).tolist()), (1, 2)) for k in y]
    x = 128 + 70 * torch.stack(moved) + 20 * torch.randn(n, 1, side, side, generator=g)
    return x.clamp(0, 255).round().byte(), y


def scaled(x: Tensor) -> Tensor:
    """Bytes to about -2 and 2."""
    return (x.float() / 255 - 0.5) / 0.28


def blobs(n: int = 256, side: int = 16) -> dict[str, Tensor]:
    """Pictures with one bright round thing, where it is, its box between 0 and 1, and how far away each pixel is."""
    g = generator(162)
    centre, size = 4 + (side - 8) * torch.rand(n, 2, generator=g), 1.5 + 2 * torch.rand(n, 1, generator=g)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    far = ((rows - centre[:, 0, None, None]) ** 2 + (columns - centre[:, 1, None, None]) ** 2).sqrt()
    mask = (far < size[:, :, None]).long()
    image = mask[:, None] * torch.tensor([1.0, 0.7, 0.4])[:, None, None] + 0.2 * torch.randn(n, 3, side, side, generator=g)
    box = torch.cat([centre / side, 2 * size / side, 2 * size / side], 1)
    return {"image": image - 0.1, "mask": mask, "box": box, "depth": 1 + far / 4}


def letters(n: int = 320, length: int = 16, words: int = 20) -> dict[str, Tensor]:
    """Sentences that end early, filled with 0: each token follows from the last; and whether a sentence climbs."""
    g = generator(163)
    label = torch.randint(0, 2, (n,), generator=g)
    ids = torch.zeros(n, length, dtype=torch.long)
    ids[:, 0] = torch.randint(1, words, (n,), generator=g)
    for place in range(1, length):
        step = torch.where(label == 1, 3, 7) + torch.randint(0, 2, (n,), generator=g)
        ids[:, place] = 1 + (ids[:, place - 1] - 1 + step) % (words - 1)
    mask = (torch.arange(length) < torch.randint(length // 2, length + 1, (n, 1), generator=g)).long()
    return {"input_ids": ids * mask, "attention_mask": mask, "label": label}


def gauges(n: int = 480, length: int = 24, channels: int = 4, kinds: int = 3) -> tuple[Tensor, Tensor]:
    """Several gauges of a machine over time, and which of its faults swings in the first."""
    g = generator(164)
    y = torch.randint(0, kinds, (n,), generator=g)
    t = torch.arange(length)
    swing = torch.sin((0.4 + 0.5 * y[:, None]) * t + 6.3 * torch.rand(n, 1, generator=g))
    x = 0.5 * torch.randn(n, length, channels, generator=g)
    x[:, :, 0] += 1.3 * swing
    return x, y


def demand(n: int = 480, past: int = 32, ahead: int = 8) -> tuple[Tensor, Tensor]:
    """Windows of a standardised series: a slow wave, a quick one, noise."""
    t = torch.arange(n + past + ahead).float()
    noise = 0.2 * torch.randn(len(t), generator=generator(165))
    series = torch.sin(t * 0.21) + 0.6 * torch.sin(t * 0.9) + noise
    windows = ((series - series.mean()) / series.std()).unfold(0, past + ahead, 1)[:n]
    return windows[:, :past], windows[:, past:]


def clouds(n: int = 320, points: int = 32) -> tuple[Tensor, Tensor]:
    """Points of a ring, a stick or a ball."""
    g = generator(166)
    y = torch.randint(0, 3, (n,), generator=g)
    raw = torch.randn(n, points, 3, generator=g)
    ring = F.normalize(raw * torch.tensor([1.0, 1.0, 0.0]), dim=-1)
    stick = raw * torch.tensor([1.0, 0.05, 0.05])
    picked = torch.stack([ring, stick, 0.6 * raw], 1)[torch.arange(n), y]
    return picked + 0.03 * torch.randn(n, points, 3, generator=g), y


def meshes(n: int = 240) -> list[dict[str, Any]]:
    """Graphs of six to ten nodes as COO, and whether there is a triangle fan (many edges) or a path."""
    g, made = generator(167), []
    for _ in range(n):
        nodes, label = int(torch.randint(6, 11, (1,), generator=g)), int(torch.randint(0, 2, (1,), generator=g))
        path = torch.stack([torch.arange(nodes - 1), torch.arange(1, nodes)])
        fan = torch.stack([torch.zeros(nodes - 2, dtype=torch.long), torch.arange(2, nodes)])
        edges = torch.cat([path, fan], 1) if label else path
        both = torch.cat([edges, edges.flip(0)], 1)
        made.append({"x": torch.randn(nodes, 5, generator=g), "edge_index": both, "y": label})
    return made


def as_one_graph(graphs: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Nodes one after another, edges moved accordingly, and the graph of each node."""
    sizes = [len(graph["x"]) for graph in graphs]
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    return {
        "x": torch.cat([graph["x"] for graph in graphs]),
        "edge_index": torch.cat([graph["edge_index"] + start for graph, start in zip(graphs, starts, strict=True)], 1),
        "batch": torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)),
        "y": torch.tensor([graph["y"] for graph in graphs]),
    }


def clips(n: int = 200, frames: int = 6, side: int = 10) -> tuple[Tensor, Tensor]:
    """A square that goes left, right, up or down."""
    g = generator(168)
    y = torch.randint(0, 4, (n,), generator=g)
    x = 0.2 * torch.randn(n, 1, frames, side, side, generator=g)
    move = torch.tensor([[0, -1], [0, 1], [-1, 0], [1, 0]])
    for k in range(n):
        at = torch.randint(0, side, (2,), generator=g)
        for f in range(frames):
            r, c = ((at + f * move[y[k]]) % (side - 2)).tolist()
            x[k, 0, f, r : r + 3, c : c + 3] += 1.5
    return x, y


def chirps(n: int = 320, length: int = 256) -> tuple[Tensor, Tensor]:
    """Rising, falling and even tones with hiss."""
    g = generator(169)
    y = torch.randint(0, 3, (n,), generator=g)
    t = torch.linspace(0, 1, length)
    slope = torch.tensor([30.0, -30.0, 0.0])[y][:, None]
    begin = torch.where(y == 1, 60.0, 25.0)[:, None] + 10 * torch.rand(n, 1, generator=g)
    return torch.sin(2 * math.pi * (begin * t + slope * t.square() / 2)) + 0.2 * torch.randn(n, length, generator=g), y


def clients(n: int = 960) -> dict[str, Tensor]:
    """Region, product, five standardised columns, an amount in standard units, whether a claim was made, and when."""
    g = generator(170)
    region, product = torch.randint(0, 8, (n,), generator=g), torch.randint(0, 5, (n,), generator=g)
    x = torch.randn(n, 5, generator=g)
    risk = 0.8 * torch.randn(8, generator=g)[region] + x[:, 0] - 0.7 * x[:, 1] * x[:, 2] + 0.3 * (product == 2)
    time = -torch.log(torch.rand(n, generator=g).clamp_min(1e-4)) * torch.exp(-risk)
    return {
        "region": region,
        "product": product,
        "x": x,
        "amount": (risk - risk.mean()) / risk.std() + 0.2 * torch.randn(n, generator=g),
        "claim": (torch.rand(n, generator=g) < torch.sigmoid(2 * risk)).float(),
        "time": time.clamp_max(3.0),
        "event": (time < 3.0).float(),
    }


def queries(n: int = 320, things: int = 8) -> tuple[Tensor, Tensor]:
    """What was found for a query, six columns each, and how relevant each is: 0 to 3."""
    g = generator(171)
    x = torch.randn(n, things, 6, generator=g)
    worth = x[:, :, 0] + 0.5 * x[:, :, 1] * x[:, :, 2] + 0.3 * torch.randn(n, things, generator=g)
    return x, torch.bucketize(worth, torch.tensor([-0.5, 0.5, 1.3]))


def replay(n: int = 960) -> dict[str, Tensor]:
    """A walker on a line: where it is and how quick, left or right, the reward, what came next, whether it ended."""
    g = generator(172)
    state = torch.randn(n, 4, generator=g)
    action = torch.randint(0, 2, (n,), generator=g)
    push = torch.where(action == 1, 0.3, -0.3)
    after = state + 0.1 * torch.randn(n, 4, generator=g)
    after[:, 0] += push
    reward = -after[:, 0].abs() + 0.1 * torch.randn(n, generator=g)
    done = (torch.rand(n, generator=g) < 0.05).float()
    return {"state": state, "action": action, "reward": reward, "next_state": after, "done": done}


def walks(streams: int = 8, length: int = 12, steps: int = 40, words: int = 16) -> Iterator[tuple[Tensor, Tensor]]:
    """Eight endless texts, cut in pieces that follow each other."""
    g = generator(173)
    last = torch.randint(0, words, (streams,), generator=g)
    for _ in range(steps):
        piece = [last]
        for _ in range(length):
            last = (last + 1 + (torch.rand(streams, generator=g) < 0.3).long() * 4) % words
            piece.append(last)
        text = torch.stack(piece, 1)
        yield text[:, :-1], text[:, 1:]


def dense(*widths: int, act: type[nn.Module] = nn.GELU) -> nn.Sequential:
    """Linear layers with an activation between them."""
    layers: list[nn.Module] = [nn.Linear(widths[0], widths[1])]
    for inputs, outputs in itertools.pairwise(widths[1:]):
        layers += [act(), nn.Linear(inputs, outputs)]
    return nn.Sequential(*layers)


def small_net(outputs: int = 6, width: int = 16) -> nn.Sequential:
    """For the glyphs."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, 1, 1), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8 * width, outputs),
    )  # fmt: skip


class Hourglass(nn.Module):
    """For the blobs: down, up, and a skip."""

    def __init__(self, outputs: int = 1, width: int = 16) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1), nn.GroupNorm(4, width), nn.SiLU())
        self.deep = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.GroupNorm(4, 2 * width), nn.SiLU())
        self.rise = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(2 * width, width, 3, 1, 1), nn.SiLU())
        self.leave = nn.Conv2d(2 * width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """A map per output."""
        first = self.enter(x)
        return self.leave(torch.cat([first, self.rise(self.deep(first))], 1))
