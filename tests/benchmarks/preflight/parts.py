"""Nets, losses, optimizers and modules that the cases are built of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import clusters, loader

Built = tuple[Any, ...]
"""Module and data, and arguments of ``preflight`` where they matter."""


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


class Bare(L.LightningModule):
    """Without forward: the step calls its parts."""

    def configure_optimizers(self) -> Any:
        """AdamW over everything."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class Stepped(Bare):
    """Parts by their names, and the step that calls them."""

    def __init__(self, step: Callable[[Any, Any], Any], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.step = step
        for name, part in parts.items():
            setattr(self, name, part)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """As given."""
        return self.step(self, batch)


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


def classes(net: nn.Module | None = None, loss: Any = F.cross_entropy, **options: Any) -> Built:
    """Clusters and a perceptron, with one thing changed."""
    return Learner(net or perceptron(12, 4), loss, **options), loader(*clusters())
