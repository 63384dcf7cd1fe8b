"""The sixth round's faults of structure."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import clusters, curve, loader, pictures, rows, waves
from tests.benchmarks.preflight.outsiders_parts import (
    Lit,
    LowRank,
    Seq2Seq,
    Unet,
    captions,
    masks,
    series,
)
from tests.benchmarks.preflight.parts import Attention, Built, convnet, perceptron
from tests.benchmarks.preflight.register import faulty


@faulty("FROZEN", "NO-GRADIENT")
def adapters_loaded_for_inference() -> Built:
    """alpaca-lora #352, "trainable params: 0": adapters come frozen, and a learnt scale is all that is left."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(LowRank(nn.Linear(12, 48)), nn.ReLU(), LowRank(nn.Linear(48, 4)))
            self.net.requires_grad_(False)
            self.scale = nn.Parameter(torch.ones(1))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.scale * self.net(batch[0]), batch[1])

    return Model(), loader(*clusters())


@faulty("NOT-REGISTERED")
def prompts_in_a_list() -> Built:
    """One learnt prompt for each layer, kept in a Python list."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.inputs, self.head = nn.Linear(3, 24), nn.Linear(24, 4)
            self.blocks = nn.ModuleList(Attention(24, causal=False) for _ in range(2))
            self.prompts = [nn.Parameter(0.02 * torch.randn(1, 4, 24)) for _ in range(2)]

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            h = self.inputs(batch[0])
            for prompt, block in zip(self.prompts, self.blocks, strict=True):
                h = block(torch.cat([prompt.expand(len(h), -1, -1), h], 1))[:, 4:]
            return F.cross_entropy(self.head(h.mean(1)), batch[1])

    return Model(), loader(*waves())


@faulty("EVAL-MODE")
def train_is_overridden_for_all() -> Built:
    """Meant for a frozen backbone, written for the whole net, and called as EVAL-MODE's remedy says.

    At first scoring nobody called ``train``, which Lightning leaves to the user since 2.2, and nothing was wrong.
    """

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = convnet(norm=True)

        def train(self, mode: bool = True) -> Model:
            super().train(mode)
            self.net.eval()
            return self

        def on_train_start(self) -> None:
            self.train()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

    return Model(), loader(*pictures())


@faulty("EVAL-MODE")
def guesses_for_the_unlabelled() -> Built:
    """Labels are guessed in eval mode first, and nobody switches back."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(12, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(0.2), nn.Linear(48, 4))

        def guess(self, x: Tensor) -> tuple[Tensor, Tensor]:
            self.net.eval()
            with torch.no_grad():
                return self.net(x).softmax(-1).max(-1)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            sure, guessed = self.guess(batch["bare"])
            known = F.cross_entropy(self.net(batch["x"]), batch["y"])
            return known + (F.cross_entropy(self.net(batch["bare"]), guessed, reduction="none") * (sure > 0.9)).mean()

    x, y = clusters()
    return Model(), rows(x=x, y=y, bare=x.roll(7, 0))


@faulty("SYMMETRIC-INIT")
def every_weight_a_hundredth() -> Built:
    class Forecaster(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTM(1, 24, batch_first=True), nn.Linear(24, 1)
            for p in self.parameters():
                nn.init.constant_(p, 0.01)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            out, _ = self.cell(batch[0][:, :-1, None])
            return F.mse_loss(self.head(out)[:, -1, 0], batch[0][:, -1])

    return Forecaster(), loader(series())


@faulty("INIT-SCALE", "INITIAL-LOSS", "GRAD-EXPLODING")
def table_of_words_far_too_large() -> Built:
    """Tied to the head and drawn with a deviation of 3."""

    class Captioner(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.model = Seq2Seq()
            self.model.head.weight = self.model.table.weight
            nn.init.normal_(self.model.table.weight, std=3.0)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, words = batch
            return F.cross_entropy(self.model(x, words[:, :-1]).mT, words[:, 1:], ignore_index=0)

    return Captioner(), loader(*captions())


@faulty("GRAD-VANISHING", "INIT-SCALE")
def thirty_small_tanh_layers() -> Built:
    class Deep(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.inputs, self.head = nn.Linear(6, 32), nn.Linear(32, 1)
            self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(30))
            for layer in self.layers:
                nn.init.normal_(layer.weight, std=0.02)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            h = torch.tanh(self.inputs(batch[0]))
            for layer in self.layers:
                h = torch.tanh(layer(h))
            return F.mse_loss(self.head(h).squeeze(1), batch[1])

    return Deep(), loader(*curve())


@faulty("DEAD-UNITS", "ZERO-GRADIENT")
def negative_weights_on_positive_pictures() -> Built:
    """All first sums are negative, and ReLU lets none of them pass."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), perceptron(144, 4))
            nn.init.uniform_(self.net[1][0].weight, -0.2, 0.0)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

    x, y = pictures()
    return Model(), loader((x - x.min()) / (x.max() - x.min()), y)


@faulty("NONDETERMINISTIC")
def noise_whatever_the_mode() -> Built:
    """Regularising noise is added when the model is judged, too."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.unet = Unet()

        def forward(self, x: Tensor) -> Tensor:
            return self.unet(x + 0.2 * torch.randn_like(x)).squeeze(1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.binary_cross_entropy_with_logits(self(batch[0]), batch[1])

    return Model(), loader(*masks(), size=16)
