"""Data and nets of the eleventh round: what people bring to Lightning, small."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.benchmarks.preflight.data import clusters, generator, loader
from tests.benchmarks.preflight.outsiders_parts import Lit


class Supervised(Lit):
    """A net and a criterion of (output, target)."""

    def __init__(self, net: nn.Module, criterion: Any) -> None:
        super().__init__()
        self.net, self.criterion = net, criterion

    def forward(self, x: Tensor) -> Tensor:
        """What the net says."""
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Of a pair."""
        x, y = batch
        loss = self.criterion(self(x), y)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """The same loss."""
        x, y = batch
        self.log("val/loss", self.criterion(self(x), y))


def reviews(n: int = 640, words: int = 60, length: int = 16) -> dict[str, Tensor]:
    """Tokens padded with 0, which of them are real, and one of three opinions; 1 begins each."""
    g = generator()
    label = torch.randint(0, 3, (n,), generator=g)
    taste = torch.softmax(1.5 * torch.randn(3, words - 2, generator=g), -1)
    tokens = torch.multinomial(taste[label], length, replacement=True, generator=g) + 2
    tokens[:, 0] = 1
    real = torch.arange(length) < torch.randint(length // 2, length - 1, (n, 1), generator=g)
    return {"input_ids": tokens * real, "attention_mask": real.long(), "labels": label}


def speech(n: int = 320, letters: int = 6, first: int = 1) -> list[tuple[Tensor, Tensor]]:
    """Frames of 8 numbers, and the letters that are spoken, three to five frames each."""
    g = generator()
    sound = torch.randn(letters, 8, generator=g)
    spoken = [torch.randint(0, letters, (int(k),), generator=g) for k in torch.randint(3, 6, (n,), generator=g)]
    lasts = [torch.randint(3, 6, (len(s),), generator=g) for s in spoken]
    clear = [sound[s.repeat_interleave(k)] for s, k in zip(spoken, lasts, strict=True)]
    return [(x + 0.2 * torch.randn(*x.shape, generator=g), s + first) for x, s in zip(clear, spoken, strict=True)]


def spoken(samples: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """A batch of them: padded, with both lengths."""
    x, y = zip(*samples, strict=True)
    return {
        "frames": nn.utils.rnn.pad_sequence(list(x), batch_first=True),
        "letters": nn.utils.rnn.pad_sequence(list(y), batch_first=True),
        "long": torch.tensor([len(s) for s in x]),
        "spelt": torch.tensor([len(s) for s in y]),
    }


def utterances(first: int = 1) -> DataLoader[Any]:
    """A loader of speech."""
    return DataLoader(speech(first=first), batch_size=16, shuffle=True, collate_fn=spoken)  # type: ignore[arg-type]


def streets(n: int = 320, side: int = 16, void: int = 255) -> tuple[Tensor, Tensor]:
    """Pictures of three surfaces in stripes of unequal width, the class of each pixel, and a void frame around it."""
    g = generator()
    cut = torch.stack([torch.randint(3, 7, (n,), generator=g), torch.randint(9, 13, (n,), generator=g)], 1)
    row = torch.arange(side)
    kind = (row >= cut[:, :1]).long() + (row >= cut[:, 1:]).long()
    mask = kind[:, :, None].repeat(1, 1, side)
    colour = torch.randn(3, 3, generator=g)
    x = colour[mask].movedim(-1, 1) + 0.3 * torch.randn(n, 3, side, side, generator=g)
    mask[:, :, 0] = mask[:, :, -1] = void
    return x, mask


def translations(n: int = 480, words: int = 20, length: int = 8) -> dict[str, Tensor]:
    """Sentences, and each word's partner in the other tongue in reverse order: 1 begins, 2 ends, 0 pads."""
    g = generator()
    count = torch.randint(4, length + 1, (n,), generator=g)
    src, tgt = torch.zeros(n, length, dtype=torch.long), torch.zeros(n, length + 2, dtype=torch.long)
    partner = torch.randperm(words - 3, generator=g) + 3
    for i, k in enumerate(count.tolist()):
        said = torch.randint(3, words, (k,), generator=g)
        src[i, :k] = said
        tgt[i, : k + 2] = torch.cat([torch.tensor([1]), partner[said.flip(0) - 3], torch.tensor([2])])
    return {"src": src, "tgt": tgt}


def houses(n: int = 640) -> tuple[Tensor, Tensor]:
    """Ten columns, standardised, and a price of some hundred thousand."""
    g = generator()
    x = torch.randn(n, 10, generator=g)
    return x, 310_000 + 60_000 * x[:, 0] + 25_000 * x[:, 1] * x[:, 2] + 8_000 * torch.randn(n, generator=g)


class Reader(nn.Module):
    """A small encoder over tokens and their places; the first one's state decides."""

    def __init__(self, words: int = 60, outputs: int = 3, width: int = 32) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width, padding_idx=0), nn.Embedding(32, width)
        layer = nn.TransformerEncoderLayer(width, 4, 64, dropout=0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, outputs)

    def forward(self, tokens: Tensor, ignored: Tensor | None = None) -> Tensor:
        """Scores; what is ignored is True."""
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        return self.head(self.encoder(x, src_key_padding_mask=ignored)[:, 0])


class Translator(nn.Module):
    """``nn.Transformer`` with places, as in torch's tutorial."""

    def __init__(self, words: int = 20, width: int = 32) -> None:
        super().__init__()
        self.src, self.tgt = nn.Embedding(words, width), nn.Embedding(words, width)
        self.places = nn.Embedding(16, width)
        self.body = nn.Transformer(width, 4, 1, 1, 64, dropout=0.0, batch_first=True)
        self.head = nn.Linear(width, words)

    def forward(self, src: Tensor, tgt: Tensor, mask: Tensor | None) -> Tensor:
        """Scores of the next word."""
        places = self.places(torch.arange(16, device=src.device))
        a, b = self.src(src) + places[: src.shape[1]], self.tgt(tgt) + places[: tgt.shape[1]]
        blank = src == 0
        return self.head(self.body(a, b, tgt_mask=mask, src_key_padding_mask=blank, memory_key_padding_mask=blank))


class Backbone(nn.Module):
    """As of timm: a stem, two blocks with BatchNorm, a pool and a classifier."""

    def __init__(self, classes: int = 1000, channels: int = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(8, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.num_features, self.classifier = 64, nn.Linear(64, classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Before the classifier."""
        return F.adaptive_avg_pool2d(self.block(self.stem(x)), 2).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores."""
        return self.classifier(self.forward_features(x))


class Points(L.LightningDataModule):
    """Clusters, split in ``setup``."""

    def __init__(self, shuffle: bool = True, size: int = 32) -> None:
        super().__init__()
        self.shuffle, self.size = shuffle, size

    def setup(self, stage: str | None = None) -> None:
        """Split them."""
        x, y = self.points()
        self.train, self.val = (x[:768], y[:768]), (x[768:], y[768:])

    def points(self) -> tuple[Tensor, Tensor]:
        """Rows, and what they are."""
        return clusters()

    def train_dataloader(self) -> DataLoader[Any]:
        """Four fifths."""
        return loader(*self.train, size=self.size, shuffle=self.shuffle)

    def val_dataloader(self) -> DataLoader[Any]:
        """The rest."""
        return loader(*self.val, size=self.size, shuffle=False)


def dice(scores: Tensor, mask: Tensor) -> Tensor:
    """One minus the soft overlap of probabilities."""
    p = scores.sigmoid()
    return 1 - (2 * (p * mask).sum() + 1) / (p.sum() + mask.sum() + 1)


def kl_to_normal(mean: Tensor, log_var: Tensor) -> Tensor:
    """Of each sample, added over its dimensions."""
    return -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum(1)


def reconstruction(told: Tensor, x: Tensor) -> Tensor:
    """Squares added over a picture, averaged over the batch."""
    return F.mse_loss(told, x, reduction="none").flatten(1).sum(1).mean()
