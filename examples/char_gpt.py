"""A character-level GPT on the source text of Python's standard library: real text that every machine has.

In the spirit of Karpathy's nanoGPT: pre-norm blocks, causal attention, one file.
"""

from __future__ import annotations

import math
import sysconfig
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import lightning_adam as la

Sick = Literal["no-warmup", "lr-high", "bad-batch", "nan"]


def standard_library_text(limit: int = 3_000_000) -> str:
    """The top-level modules of the standard library, by name, up to so many characters."""
    parts, size = [], 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        parts.append(path.read_text(encoding="utf-8", errors="replace"))
        size += len(parts[-1])
        if size >= limit:
            break
    return "".join(parts)[:limit]


def unigram_entropy(text: str) -> float:
    """Nats per character of a model that knows only how frequent each character is."""
    counts = Counter(text)
    return -sum(n / len(text) * math.log(n / len(text)) for n in counts.values())


def encode(text: str) -> Tensor:
    """Printable ASCII and newline as 0…95; anything else is 96."""
    codes = torch.tensor([ord(c) - 31 if 32 <= ord(c) < 127 else 0 if c == "\n" else 96 for c in text])
    return codes.to(torch.long)


VOCABULARY = 97


class Windows(Dataset[Tensor]):
    """Windows of ``length + 1`` characters, at places drawn once from a seed."""

    def __init__(self, codes: Tensor, length: int, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.codes, self.length = codes, length
        self.starts = torch.randint(len(codes) - length - 1, (count,), generator=generator).tolist()

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Tensor:
        start = self.starts[index]
        return self.codes[start : start + self.length + 1]


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, width] to the same."""
        x = x + self.attend(self.norm1(x))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y

    def attend(self, x: Tensor) -> Tensor:
        """Causal self-attention."""
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        y: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return y


class CharGPT(L.LightningModule):
    """About a million parameters.

    Args:
        optimizer: for ``la.configure_optimizers``, as are ``lr`` and ``warmup``.
        sick: what to break on purpose, at ``sick_step`` where it has a moment.
    """

    def __init__(
        self,
        optimizer: str = "adamw",
        lr: float | None = None,
        warmup: float = 0.05,
        layers: int = 5,
        heads: int = 4,
        width: int = 128,
        length: int = 64,
        sick: Sick | None = None,
        sick_step: int = 100,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.characters = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.apply(self._initialise)
        self.optimizer, self.lr, self.warmup = optimizer, lr, warmup
        self.sick, self.sick_step = sick, sick_step

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(self, codes: Tensor) -> Tensor:
        """[batch, length] characters to [batch, length, vocabulary] logits."""
        places = torch.arange(codes.shape[1], device=codes.device)
        x = self.characters(codes) + self.positions(places)
        logits: Tensor = self.head(self.norm(self.blocks(x)))
        return logits

    def loss(self, batch: Tensor) -> Tensor:
        """Nats per character of the next character."""
        return F.cross_entropy(self(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """One batch."""
        loss = self.make_sick(self.loss(batch))
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def make_sick(self, loss: Tensor) -> Tensor:
        """A corrupt batch, or a NaN, at the sick step."""
        if self.global_step == self.sick_step and self.sick == "bad-batch":
            return loss * 300  # what a broken example weight does
        if self.global_step == self.sick_step and self.sick == "nan":
            return loss * torch.nan
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """The same loss on text that was not trained on."""
        self.log("val_loss", self.loss(batch), prog_bar=True)

    def rates(self) -> dict[str, Any]:
        """AdamW's are tuned; for the others the catalogue's."""
        tuned = {"lr": 1e-3, "betas": (0.9, 0.95), "weight_decay": 0.1} if self.optimizer == "adamw" else {}
        return tuned if self.lr is None else {**tuned, "lr": self.lr}

    def configure_optimizers(self) -> Any:
        """The one call."""
        return la.configure_optimizers(
            self,
            self.optimizer,
            **self.rates(),
            schedule="cosine",
            warmup=self.warmup,
            clip=1.0,
        )


def loaders(text: str, steps: int, length: int = 64, batch: int = 32, seed: int = 0) -> tuple[Any, Any]:
    """Training windows for so many steps, and validation windows from the last tenth of the text."""
    codes = encode(text)
    cut = int(0.9 * len(codes))
    train = Windows(codes[:cut], length, steps * batch, seed)
    held_out = Windows(codes[cut:], length, 256, seed + 1)
    return DataLoader(train, batch), DataLoader(held_out, 64)
