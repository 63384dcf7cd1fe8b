"""Data, nets and the module that the cases are built of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

Built = tuple[Any, ...]
"""Module and data, and arguments of ``preflight`` where they matter."""


def generator(seed: int = 0) -> torch.Generator:
    """Its own random numbers for each case."""
    return torch.Generator().manual_seed(seed)


class Learner(L.LightningModule):
    """A net, a loss of (output, target), and an optimizer."""

    def __init__(
        self,
        net: nn.Module,
        loss: Callable[..., Tensor],
        optimizer: Callable[[Iterable[Any]], torch.optim.Optimizer] = lambda p: torch.optim.AdamW(p, lr=1e-3),
        schedule: Callable[[torch.optim.Optimizer], Any] | None = None,
    ) -> None:
        super().__init__()
        self.net, self.loss_of, self.make, self.schedule = net, loss, optimizer, schedule

    def forward(self, x: Tensor) -> Tensor:
        """The net's output."""
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One pair of input and target."""
        x, y = batch
        loss = self.loss_of(self(x), y)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        """As given."""
        optimizer = self.make(self.parameters())
        return optimizer if self.schedule is None else {"optimizer": optimizer, "lr_scheduler": self.schedule(optimizer)}


class Rows(Dataset[dict[str, Tensor]]):
    """Batches that are dicts."""

    def __init__(self, **columns: Tensor) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: column[index] for name, column in self.columns.items()}


def loader(*tensors: Tensor, size: int = 32, shuffle: bool = True) -> DataLoader[Any]:
    """Of tensors side by side."""
    return DataLoader(TensorDataset(*tensors), batch_size=size, shuffle=shuffle, drop_last=True)


def rows(size: int = 32, **columns: Tensor) -> DataLoader[Any]:
    """Of named columns."""
    return DataLoader(Rows(**columns), batch_size=size, shuffle=True, drop_last=True)


def clusters(n: int = 960, features: int = 12, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Points around centres, standardised."""
    g = generator()
    y = torch.randint(0, classes, (n,), generator=g)
    x = 1.5 * torch.randn(classes, features, generator=g)[y] + torch.randn(n, features, generator=g)
    return (x - x.mean(0)) / x.std(0), y


def curve(n: int = 960, features: int = 6) -> tuple[Tensor, Tensor]:
    """A smooth function with noise, standardised."""
    g = generator()
    x = torch.randn(n, features, generator=g)
    y = torch.sin(x[:, 0]) + 0.5 * x[:, 1] * x[:, 2] + 0.1 * torch.randn(n, generator=g)
    return x, (y - y.mean()) / y.std()


def pictures(n: int = 640, classes: int = 4, channels: int = 1, side: int = 12) -> tuple[Tensor, Tensor]:
    """Noisy patterns."""
    g = generator()
    y = torch.randint(0, classes, (n,), generator=g)
    return torch.randn(classes, channels, side, side, generator=g)[y] + 0.7 * torch.randn(
        n, channels, side, side, generator=g
    ), y


def chains(n: int = 480, length: int = 17, words: int = 24) -> Tensor:
    """Tokens of a Markov chain."""
    g = generator()
    moves = torch.softmax(2 * torch.randn(words, words, generator=g), -1)
    tokens = torch.zeros(n, length, dtype=torch.long)
    tokens[:, 0] = torch.randint(0, words, (n,), generator=g)
    for place in range(1, length):
        tokens[:, place] = torch.multinomial(moves[tokens[:, place - 1]], 1, generator=g)[:, 0]
    return tokens


def waves(n: int = 640, length: int = 16, features: int = 3) -> tuple[Tensor, Tensor]:
    """Sequences, and which of two kinds each is."""
    g = generator()
    x = torch.randn(n, length, features, generator=g)
    return x, (x[:, :, 0].mean(1) > 0).long() + 2 * (x[:, -1, 1] > 0).long()


def perceptron(inputs: int, outputs: int, width: int = 48, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(nn.Linear(inputs, width), act(), nn.Linear(width, width), act(), nn.Linear(width, outputs))


def convnet(outputs: int = 4, norm: bool = False) -> nn.Sequential:
    """For the pictures."""
    norms = [nn.BatchNorm2d(8), nn.BatchNorm2d(16)] if norm else [nn.Identity(), nn.Identity()]
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), norms[0], nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), norms[1], nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, outputs),
    )  # fmt: skip


class Attention(nn.Module):
    """Pre-norm block with torch's fused attention."""

    def __init__(self, width: int, heads: int = 4, causal: bool = True) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Attention and perceptron, each on a residual path."""
        n, length, width = x.shape
        q, k, v = self.qkv(self.norm(x)).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, length, width))
        return x + self.mlp(x)


class Words(nn.Module):
    """Language model with tied embeddings."""

    def __init__(self, words: int = 24, width: int = 32, causal: bool = True) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(words, width), nn.Embedding(64, width)
        self.blocks = nn.ModuleList(Attention(width, causal=causal) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words, bias=False)
        self.head.weight = self.table.weight
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits for every place."""
        x = self.table(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Recurrent(nn.Module):
    """The last state decides."""

    def __init__(self, cell: type[nn.RNNBase] = nn.LSTM, outputs: int = 4, **options: Any) -> None:
        super().__init__()
        self.cell = cell(3, 24, **{"batch_first": True, **options})
        self.head = nn.Linear(24 * (2 if options.get("bidirectional") else 1), outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.cell(x)[0][:, -1])


def next_word(logits: Tensor, tokens: Tensor) -> Tensor:
    """Cross entropy over all places."""
    return F.cross_entropy(logits.flatten(0, 1), tokens.flatten())


def value(output: Tensor, target: Tensor) -> Tensor:
    """Mean square of a single output."""
    return F.mse_loss(output.squeeze(-1), target)


def sgd(lr: float, momentum: float = 0.9) -> Callable[[Iterable[Any]], torch.optim.Optimizer]:
    """A maker of SGD."""
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, momentum=momentum)


def adam(lr: float, **options: Any) -> Callable[[Iterable[Any]], torch.optim.Optimizer]:
    """A maker of AdamW."""
    return lambda parameters: torch.optim.AdamW(parameters, lr=lr, **options)
