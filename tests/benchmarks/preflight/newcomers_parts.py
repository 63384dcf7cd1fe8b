"""What the fifth round of cases is built of: a graph's own batch, a datamodule, a translator, models of several outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset

from tests.benchmarks.preflight.data import chains, clusters, generator
from tests.benchmarks.preflight.parts import perceptron

WORDS = 24


class GraphBatch:
    """Small graphs side by side, as a library has them: a plain class with its own ``to``, no tuple and no dataclass."""

    def __init__(self, x: Tensor, edges: Tensor, owner: Tensor, y: Tensor) -> None:
        self.x, self.edges, self.owner, self.y = x, edges, owner, y

    def to(self, device: Any, non_blocking: bool = False) -> GraphBatch:
        """A copy on the device."""
        return GraphBatch(*(t.to(device) for t in (self.x, self.edges, self.owner, self.y)))


class GraphNet(nn.Module):
    """One round of messages, then a mean over each graph."""

    def __init__(self, classes: int = 3, drops: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.own, self.near, self.head, self.drops = nn.Linear(6, 32), nn.Linear(6, 32), nn.Linear(32, classes), drops

    def forward(self, graphs: Any) -> Tensor:
        """A row for each graph."""
        start, stop = graphs.edges
        gathered = torch.zeros_like(graphs.x).index_add(0, stop, graphs.x[start]) / 4
        h = F.relu(self.drops(self.own(graphs.x) + self.near(gathered)))
        count = int(graphs.owner.max()) + 1
        pooled = h.new_zeros(count, 32).index_add(0, graphs.owner, h)
        return self.head(pooled / torch.bincount(graphs.owner)[:, None])


def graphs(lowest: int = 0, count: int = 24) -> DataLoader[Any]:
    """Of three kinds, told by what their first feature sums to; labels count from ``lowest``."""
    g, batches = generator(), []
    for _ in range(count):
        sizes = torch.randint(4, 9, (16,), generator=g)
        owner = torch.arange(16).repeat_interleave(sizes)
        x, ends = torch.randn(len(owner), 6, generator=g), torch.randint(0, len(owner), (2, 400), generator=g)
        score = torch.zeros(16).index_add(0, owner, x[:, 0]) / sizes.sqrt()
        y = (score > -0.4).long() + (score > 0.4).long() + lowest
        batches.append(GraphBatch(x, ends[:, owner[ends[0]] == owner[ends[1]]], owner, y))
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


class Stream(IterableDataset[Any]):
    """Made anew for each epoch."""

    def __init__(self, make: Callable[[], Iterator[Any]]) -> None:
        self.make = make

    def __iter__(self) -> Iterator[Any]:
        return self.make()


class Module(L.LightningDataModule):
    """Splits its data in ``setup``."""

    def __init__(self, make: Callable[[], Dataset[Any]], shuffle: bool = True, size: int = 32) -> None:
        super().__init__()
        self.make, self.shuffle, self.size = make, shuffle, size

    def setup(self, stage: str) -> None:
        """Known only now."""
        self.data = self.make()

    def train_dataloader(self) -> Any:
        """Batches."""
        return DataLoader(self.data, batch_size=self.size, shuffle=self.shuffle, drop_last=True)


class Translator(nn.Module):
    """torch's Transformer, with or without the mask of its decoder."""

    def __init__(self, masks: bool = True) -> None:
        super().__init__()
        self.source, self.target, self.masks = nn.Embedding(WORDS, 32), nn.Embedding(WORDS, 32), masks
        self.places = nn.Parameter(0.1 * torch.randn(1, 32, 32))
        self.body = nn.Transformer(32, 4, 1, 1, 64, dropout=0.0, batch_first=True)
        self.head = nn.Linear(32, WORDS)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits of the next word at each place of the target."""
        s, t = (table(x) + self.places[:, : x.shape[1]] for table, x in ((self.source, source), (self.target, target)))
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1]) if self.masks else None
        return self.head(self.body(s, t, tgt_mask=mask))


def sentences(short: bool = False) -> tuple[Tensor, Tensor]:
    """A chain and the same backwards behind a 1; where they are short, both end in zeros."""
    source = chains(length=12, words=WORDS - 2) + 2
    target = torch.cat([torch.ones(len(source), 1, dtype=torch.long), source.flip(1)], 1)
    if short:
        ends = torch.randint(3, 5, (len(source), 1), generator=generator())
        source, target = source * (torch.arange(12) < ends), target * (torch.arange(13) <= ends)
    return source, target


@dataclass
class Answer:
    """What a model says when it is called as transformers' are."""

    loss: Tensor
    logits: Tensor


class Answering(nn.Module):
    """Makes its own loss where it gets labels."""

    def __init__(self, net: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.criterion = net, loss

    def forward(self, features: Tensor, labels: Tensor) -> Answer:
        """Loss and logits."""
        logits = self.net(features)
        return Answer(self.criterion(logits, labels), logits)


class TwoHeads(nn.Module):
    """A dict of outputs: a class and a value."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(perceptron(12, 32), nn.ReLU())
        self.kind, self.amount = nn.Linear(32, 4), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """By name."""
        h = self.body(x)
        return {"kind": self.kind(h), "amount": self.amount(h)}


def two_targets() -> dict[str, Tensor]:
    """Clusters, and a value that is read off them."""
    x, y = clusters()
    return {"x": x, "kind": y, "amount": torch.tanh(x[:, 0] + x[:, 1])}


class ConditionalGan(L.LightningModule):
    """By hand, with the classes beside the noise.

    Args:
        trained: what its two optimizers are given.
    """

    def __init__(self, trained: Callable[[ConditionalGan], tuple[nn.Module, nn.Module]]) -> None:
        super().__init__()
        self.automatic_optimization, self._trained = False, trained
        self.g, self.d = nn.ModuleList([nn.Embedding(4, 8), perceptron(16, 12)]), perceptron(16, 1)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """First the discriminator, then the generator."""
        real, kinds = batch
        opt_g, opt_d = self.optimizers()
        fake = self.g[1](torch.cat([torch.randn(len(real), 8), self.g[0](kinds)], 1))
        which = F.one_hot(kinds, 4).float()
        opt_d.zero_grad()
        seen = [self.d(torch.cat([x, which], 1)) for x in (real, fake.detach())]
        self.manual_backward(F.softplus(-seen[0]).mean() + F.softplus(seen[1]).mean())
        opt_d.step()
        opt_g.zero_grad()
        self.manual_backward(F.softplus(-self.d(torch.cat([fake, which], 1))).mean())
        opt_g.step()

    def configure_optimizers(self) -> Any:
        """One for each."""
        return [torch.optim.Adam(net.parameters(), 2e-4, betas=(0.5, 0.999)) for net in self._trained(self)]
