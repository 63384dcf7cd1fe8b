"""A fourth round of healthy cases: libraries, streams, and models of several parts."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from tests.benchmarks.preflight.data import chains, clusters, generator, loader, pictures, rows
from tests.benchmarks.preflight.parts import Bare, Built, Learner, perceptron
from tests.benchmarks.preflight.register import healthy
from tests.benchmarks.preflight.strangers_parts import (
    WORDS,
    Hosted,
    Split,
    Unet,
    adapted,
    bert,
    gpt2,
    reviews,
    scenes,
    spoken,
    views,
    vit,
)


@healthy
def bert_reads_reviews() -> Built:
    return Hosted(bert("BertForSequenceClassification", num_labels=2)), rows(**reviews())


@healthy
def gpt2_shifts_for_itself() -> Built:
    tokens = chains(words=WORDS)
    return Hosted(gpt2()), rows(size=16, input_ids=tokens, labels=tokens)


@healthy
def t5_copies_backwards() -> Built:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    model = T5ForConditionalGeneration(T5Config(vocab_size=WORDS, decoder_start_token_id=0, **sizes)).train()
    tokens = chains(length=9, words=WORDS - 2) + 2
    labels = tokens.flip(1).clone()
    labels[::3, 6:] = -100
    return Hosted(model, lr=1e-3), rows(size=16, input_ids=tokens, labels=labels)


@healthy
def vit_of_a_library() -> Built:
    x, y = pictures()
    return Hosted(vit()), rows(pixel_values=x, labels=y)


@healthy
def adapters_in_gpt2() -> Built:
    tokens = chains(words=WORDS)
    return Hosted(adapted(), lr=5e-3), rows(size=16, input_ids=tokens, labels=tokens)


@healthy
def unet_with_void_border() -> Built:
    x, y = scenes()
    y[:, 0], y[:, -1] = 255, 255
    return Learner(Unet(), lambda o, t: F.cross_entropy(o, t, ignore_index=255)), loader(x, y, size=8)


@healthy
def boxes_on_a_grid() -> Built:
    """Of 64 cells few have an object; boxes count only there."""

    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.SiLU(), nn.MaxPool2d(2))
            self.head = nn.Conv2d(16, 5, 1)
            nn.init.constant_(self.head.bias, -3.0)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            images, targets = batch
            out = self.head(self.body(torch.stack(images))).permute(0, 2, 3, 1)
            seen, boxes = torch.zeros_like(out[..., 0]), torch.zeros_like(out[..., 1:])
            for i, target in enumerate(targets):
                for box in target["boxes"]:
                    cell = (i, int(box[1] * 8), int(box[0] * 8))
                    seen[cell], boxes[cell] = 1.0, box
            fit = F.l1_loss(out[..., 1:].sigmoid()[seen > 0], boxes[seen > 0])
            return F.binary_cross_entropy_with_logits(out[..., 0], seen) + fit

    (x, y), items = scenes(), []
    for image, kinds in zip(x, y, strict=True):
        rows_, columns = torch.where(kinds > 0)
        low, high = torch.stack([columns.min(), rows_.min()]), torch.stack([columns.max(), rows_.max()])
        middle = (low + high) / 2 / 16
        items.append((image, {"boxes": torch.cat([middle, (high - low) / 16])[None], "labels": kinds.max()[None]}))
    collate = lambda pairs: tuple(zip(*pairs, strict=True))  # noqa: E731
    return Model(), DataLoader(items, batch_size=16, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]


@healthy
def speech_with_lengths() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRU(7, 32, batch_first=True, bidirectional=True), nn.Linear(64, 7)

        def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(frames, lengths, batch_first=True, enforce_sorted=False)
            states = nn.utils.rnn.pad_packed_sequence(self.cell(packed)[0], batch_first=True, total_length=frames.shape[1])
            return self.head(states[0]).log_softmax(-1)

    def loss(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        logs = net(batch["frames"], batch["frame_lengths"]).transpose(0, 1)
        return F.ctc_loss(logs, batch["words"], batch["frame_lengths"], batch["word_lengths"], zero_infinity=True)

    return Split(Net(), loss), rows(size=16, **spoken())


@healthy
def hinge_gan_with_spectral_norm() -> Built:
    class Model(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.g = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2))
            norm = nn.utils.parametrizations.spectral_norm
            self.d = nn.Sequential(norm(nn.Linear(2, 32)), nn.LeakyReLU(0.2), norm(nn.Linear(32, 1)))

        def training_step(self, batch: Any, batch_idx: int) -> None:
            opt_g, opt_d = self.optimizers()
            real = batch["points"]
            fake = self.g(torch.randn(len(real), 8))
            opt_d.zero_grad()
            self.manual_backward(F.relu(1 - self.d(real)).mean() + F.relu(1 + self.d(fake.detach())).mean())
            opt_d.step()
            if batch_idx % 2 == 0:
                opt_g.zero_grad()
                self.manual_backward(-self.d(fake).mean())
                opt_g.step()

        def configure_optimizers(self) -> Any:
            g = torch.optim.Adam(self.g.parameters(), 1e-4, betas=(0.0, 0.9))
            return [g, torch.optim.Adam(self.d.parameters(), 4e-4, betas=(0.0, 0.9))]

    return Model(), rows(points=torch.randn(640, 2, generator=generator()) * 0.3 + 1)


@healthy
def quantised_autoencoder() -> Built:
    """VQ-VAE (van den Oord et al. 2017): gradients pass straight through the choice of a code."""

    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder, self.codes = perceptron(144, 8), perceptron(8, 144), nn.Embedding(16, 8)
            nn.init.uniform_(self.codes.weight, -1 / 16, 1 / 16)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x = batch[0].flatten(1)
            z = self.encoder(x)
            code = self.codes(torch.cdist(z, self.codes.weight).argmin(1))
            out = self.decoder(z + (code - z).detach())
            return F.mse_loss(out, x) + F.mse_loss(code, z.detach()) + 0.25 * F.mse_loss(z, code.detach())

    return Model(), loader(*pictures())


@healthy
def momentum_contrast() -> Built:
    """MoCo (He et al. 2020): keys of a slow copy, negatives of a queue."""

    class Model(Bare):
        queue: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.query = perceptron(144, 16)
            self.key = copy.deepcopy(self.query).requires_grad_(False)
            self.register_buffer("queue", F.normalize(torch.randn(16, 128, generator=generator()), dim=0))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            one, two = batch
            q = F.normalize(self.query(one), dim=1)
            with torch.no_grad():
                for slow, fast in zip(self.key.parameters(), self.query.parameters(), strict=True):
                    slow.mul_(0.99).add_(fast, alpha=0.01)
                k = F.normalize(self.key(two), dim=1)
            logits = torch.cat([(q * k).sum(1, keepdim=True), q @ self.queue.clone().detach()], 1) / 0.1
            self.queue = torch.cat([k.T, self.queue], 1)[:, :128]
            return F.cross_entropy(logits, torch.zeros(len(one), dtype=torch.long))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.query.parameters(), lr=0.03, momentum=0.9)

    return Model(), loader(*views())


@healthy
def made_in_setup() -> Built:
    """The net is known only when the data are: ``configure_model`` makes it."""

    class Model(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net: nn.Module | None = None

        def configure_model(self) -> None:
            if self.net is None:
                self.net = nn.Sequential(nn.LazyLinear(32), nn.ReLU(), nn.LazyLinear(4))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            assert self.net is not None
            return F.cross_entropy(self.net(batch["x"]), batch["y"])

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    x, y = clusters()
    return Model(), rows(x=x, y=y)


@healthy
def endless_stream_of_dicts() -> Built:
    class Source(IterableDataset[dict[str, Tensor]]):
        def __iter__(self) -> Iterator[dict[str, Tensor]]:
            x, y = clusters()
            g = generator(3)
            while True:
                some = torch.randint(0, len(x), (32,), generator=g)
                yield {"features": x[some], "weight": torch.ones(32), "label": y[some]}

    def loss(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return (F.cross_entropy(net(batch["features"]), batch["label"], reduction="none") * batch["weight"]).mean()

    return Split(perceptron(12, 4), loss), DataLoader(Source(), batch_size=None)


@healthy
def molecules_in_one_graph() -> Built:
    """Several small graphs side by side, as PyTorch Geometric has them: nodes, edges, and whose each node is."""

    @dataclass
    class Graphs:
        x: Tensor
        edge_index: Tensor
        batch: Tensor
        y: Tensor

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own, self.near, self.head = nn.Linear(6, 32), nn.Linear(6, 32), nn.Linear(32, 1)

        def forward(self, graphs: Any) -> Tensor:
            start, stop = graphs.edge_index
            gathered = torch.zeros_like(graphs.x).index_add(0, stop, graphs.x[start]) / 4
            h = F.relu(self.own(graphs.x) + self.near(gathered))
            pooled = torch.zeros(len(graphs.y), 32).index_add(0, graphs.batch, h)
            return self.head(pooled / torch.bincount(graphs.batch)[:, None]).squeeze(-1)

    g, batches = generator(), []
    for _ in range(24):
        counts = torch.randint(4, 9, (16,), generator=g)
        owner = torch.arange(16).repeat_interleave(counts)
        x = torch.randn(len(owner), 6, generator=g)
        ends = torch.randint(0, len(owner), (2, 400), generator=g)
        edges = ends[:, owner[ends[0]] == owner[ends[1]]]
        y = torch.zeros(16).index_add(0, owner, x[:, 0]) / counts.sqrt()
        batches.append(Graphs(x, edges, owner, y))
    return Split(Net(), lambda net, graphs: F.mse_loss(net(graphs), graphs.y)), DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


@healthy
def convnext_with_small_scales() -> Built:
    """Layer scale of 1e-6, stochastic depth, mixed pictures (Liu et al. 2022), as timm trains them."""

    class Block(nn.Module):
        def __init__(self, width: int, drop: float) -> None:
            super().__init__()
            self.mix, self.norm, self.drop = nn.Conv2d(width, width, 5, padding=2, groups=width), nn.LayerNorm(width), drop
            self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            self.gamma = nn.Parameter(1e-6 * torch.ones(width))

        def forward(self, x: Tensor) -> Tensor:
            h = self.gamma * self.mlp(self.norm(self.mix(x).permute(0, 2, 3, 1)))
            if self.training:
                h = h * (torch.rand(len(x), 1, 1, 1) > self.drop) / (1 - self.drop)
            return x + h.permute(0, 3, 1, 2)

    net = nn.Sequential(
        nn.Conv2d(1, 16, 2, 2), *(Block(16, 0.1) for _ in range(4)), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 4)
    )

    def loss(net: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        share, soft = 0.8, F.one_hot(y, 4).float()
        return F.cross_entropy(net(share * x + (1 - share) * x.flip(0)), share * soft + (1 - share) * soft.flip(0))

    return Split(net, loss), loader(*pictures())
