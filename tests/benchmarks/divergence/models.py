"""Small networks of the usual kinds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def mlp(sizes: Sequence[int], act: Callable[[], nn.Module] = nn.ReLU, norm: bool = False) -> nn.Sequential:
    """Linear layers with an activation, and LayerNorm if asked."""
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        layers.append(nn.Linear(a, b))
        if i < len(sizes) - 2:
            layers += [nn.LayerNorm(b), act()] if norm else [act()]
    return nn.Sequential(*layers)


class Cnn(nn.Module):
    """Two convolutions with BatchNorm on 8×8 images."""

    def __init__(self, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 64] to [batch, classes]."""
        out: Tensor = self.head(self.body(x.view(-1, 1, 8, 8)))
        return out


class Scores(nn.Module):
    """Attention scores pass through it, so that a monitor can watch them."""

    def forward(self, scores: Tensor) -> Tensor:
        """The same."""
        return scores


class Block(nn.Module):
    """A transformer block: norm first or after, with normalised queries and keys if asked."""

    def __init__(self, width: int, heads: int, norm_first: bool = True, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads, self.norm_first, self.qk_norm = heads, norm_first, qk_norm
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.scores = Scores()

    def attend(self, x: Tensor) -> Tensor:
        """Causal self-attention."""
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        if self.qk_norm:
            q, k = F.layer_norm(q, q.shape[-1:]), F.layer_norm(k, k.shape[-1:])
        scores = self.scores(q @ k.transpose(-1, -2) / math.sqrt(width // self.heads))
        mask = torch.ones(length, length, dtype=torch.bool).triu(1)
        mixed: Tensor = (scores.masked_fill(mask, -torch.inf).softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width)
        out: Tensor = self.out(mixed)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, width] to the same."""
        if not self.norm_first:
            x = self.norm1(x + self.attend(x))
            after: Tensor = self.norm2(x + self.mlp(x))
            return after
        x = x + self.attend(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Transformer(nn.Module):
    """Characters in, next characters out."""

    def __init__(
        self, vocabulary: int = 97, width: int = 32, layers: int = 2, length: int = 32, norm_first: bool = True,
        qk_norm: bool = False, tied: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        nn.init.normal_(self.tokens.weight, std=0.02 if norm_first else 1.0)
        nn.init.normal_(self.places.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(width, 4, norm_first, qk_norm) for _ in range(layers))
        self.norm = nn.LayerNorm(width) if norm_first else nn.Identity()
        self.head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length] to [batch, length, vocabulary]."""
        h = self.tokens(x) + self.places(torch.arange(x.shape[1]))
        for block in self.blocks:
            h = block(h)
        out: Tensor = self.head(self.norm(h))
        return out


class Recurrent(nn.Module):
    """A GRU or LSTM over characters."""

    def __init__(self, cell: type[nn.RNNBase] = nn.GRU, width: int = 48, vocabulary: int = 97) -> None:
        super().__init__()
        self.tokens, self.cell = nn.Embedding(vocabulary, width), cell(width, width, batch_first=True)  # type: ignore[call-arg,arg-type]
        self.head = nn.Linear(width, vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length] to [batch, length, vocabulary]."""
        out: Tensor = self.head(self.cell(self.tokens(x))[0])
        return out


class BagOfWords(nn.Module):
    """The mean of embeddings, and a linear layer."""

    def __init__(self, vocabulary: int = 2000, width: int = 32) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(vocabulary, width), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, words] to [batch, 4]."""
        out: Tensor = self.head(self.tokens(x).mean(1))
        return out


class TwoTowers(nn.Module):
    """Two networks of which only the first is used."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = mlp([64, 64, 10]), mlp([64, 64, 10])

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 64] to [batch, 10]."""
        out: Tensor = self.used(x)
        return out


class LowRank(nn.Module):
    """A fixed linear layer with a trainable low-rank addition whose second factor begins at zero (LoRA)."""

    def __init__(self, inner: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.inner = inner.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, inner.in_features) / math.sqrt(inner.in_features))
        self.up = nn.Parameter(torch.zeros(inner.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """[…, in] to […, out]."""
        out: Tensor = self.inner(x) + F.linear(F.linear(x, self.down), self.up)
        return out


class Residual(nn.Module):
    """Residual layers with a scale that begins at zero (ReZero), for classification."""

    def __init__(self, inputs: int, classes: int, width: int = 48, layers: int = 6) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(inputs, width), nn.Linear(width, classes)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.scales = nn.Parameter(torch.zeros(layers))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs] to [batch, classes]."""
        h = self.first(x)
        for scale, layer in zip(self.scales, self.layers, strict=True):
            h = h + scale * F.silu(layer(h))
        out: Tensor = self.head(h)
        return out


def pretrained(low_rank: bool = False) -> nn.Sequential:
    """An MLP that has learnt the first 900 digits; with trainable low-rank additions only, if asked."""
    from tests.benchmarks.divergence.data import digits

    net, (x, y) = mlp([64, 64, 64, 10]), digits()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(net(x[:900]), y[:900]).backward()
        optimizer.step()
    net.zero_grad()
    if low_rank:
        net = nn.Sequential(*[LowRank(m) if isinstance(m, nn.Linear) else m for m in net])
    return net
