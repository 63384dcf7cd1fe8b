"""The fifteenth round's faults of structure: which tensors there are, which are trained, how they start."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import loader, rows
from tests.benchmarks.preflight.nomads_parts import pretrained, sums
from tests.benchmarks.preflight.parts import Built
from tests.benchmarks.preflight.register import faulty
from tests.benchmarks.preflight.strays_faulty_data import Classifier, Regressor
from tests.benchmarks.preflight.strays_healthy import stripes
from tests.benchmarks.preflight.strays_parts import (
    Segmenter,
    Task,
    backbone,
    flats,
    mlp,
    normalised,
    photos,
    scenes,
    visitors,
)


def body_of_others(classes: int = 5) -> nn.Sequential:
    """A trained classifier of the photographs."""
    x, y = photos()
    return pretrained(nn.Sequential(backbone(), nn.Linear(32, classes)), normalised(x), y, steps=60)  # type: ignore[return-value]


@faulty("OPTIMIZER-STALE")
def head_replaced_behind_the_optimizer() -> Built:
    """The optimizer is made in ``__init__``, then the last layer is replaced for five classes."""

    class Tuned(Classifier):
        def __init__(self) -> None:
            super().__init__(body_of_others())
            self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-3)
            self.net[1] = nn.Linear(32, 5)  # type: ignore[index,operator]

        def configure_optimizers(self) -> Any:
            return self.optimizer

    return Tuned(), stripes()


@faulty("OPTIMIZER-STALE")
def optimizer_of_the_moving_average() -> Built:
    """``configure_optimizers`` hands over a deep copy's parameters instead of the net's."""

    class Averaged(Regressor):
        def __init__(self) -> None:
            super().__init__()
            self.copies = [copy.deepcopy(self.net)]

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.copies[0].parameters(), lr=1e-3)

    return Averaged(), loader(*flats())


@faulty("OPTIMIZER-MISSES")
def decoder_without_an_optimizer_again() -> Built:
    """Encoder and decoder are two modules; Adam gets the first."""
    source, target = sums()

    class Seq2Seq(Task):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.encoder = nn.Embedding(12, 32, padding_idx=0), nn.GRU(32, 48, batch_first=True)
            self.decoder, self.out = nn.GRU(32, 48, batch_first=True), nn.Linear(48, 12)

        def loss(self, batch: Any) -> Tensor:
            source, target = batch
            h = self.decoder(self.embed(target[:, :-1]), self.encoder(self.embed(source))[1])[0]
            return F.cross_entropy(self.out(h).permute(0, 2, 1), target[:, 1:], ignore_index=0)

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam([*self.embed.parameters(), *self.encoder.parameters()], lr=1e-3)

    return Seq2Seq(), loader(source, target)


@faulty("OPTIMIZER-MISSES")
def class_token_and_places_are_missed() -> Built:
    """Tokens and places are parameters of the module itself; only the blocks' and the head's are handed over."""

    class Patches(Task):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.head = nn.Linear(48, 48), nn.Linear(48, 5)
            self.cls, self.pos = nn.Parameter(0.02 * torch.randn(1, 1, 48)), nn.Parameter(0.02 * torch.randn(1, 17, 48))
            self.blocks = nn.TransformerEncoderLayer(48, 4, 96, 0.0, batch_first=True)

        def loss(self, batch: Any) -> Tensor:
            x = self.patch(F.unfold(batch[0], 4, stride=4).transpose(1, 2))
            x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos
            return F.cross_entropy(self.head(self.blocks(x)[:, 0]), batch[1])

        def configure_optimizers(self) -> Any:
            parts = [self.patch, self.blocks, self.head]
            return torch.optim.AdamW([p for part in parts for p in part.parameters()], lr=1e-3)

    return Patches(), stripes()


@faulty("FROZEN")
def frozen_after_the_head_was_new() -> Built:
    """The loop that freezes comes after the new head, and takes it, too; the norms alone are left."""

    class Tuned(Classifier):
        def __init__(self) -> None:
            super().__init__(body_of_others())
            self.net[1] = nn.Linear(32, 5)  # type: ignore[index,operator]
            for name, parameter in self.named_parameters():
                parameter.requires_grad = "0.1." in name or "0.5." in name

    return Tuned(), stripes()


@faulty("FROZEN")
def adapters_frozen_with_their_base() -> Built:
    """LoRA: everything is frozen when the adapters are there already; only the head learns."""

    class Lora(nn.Module):
        def __init__(self, base: nn.Linear) -> None:
            super().__init__()
            self.base = base
            self.lora_a = nn.Parameter(torch.randn(4, base.in_features) / math.sqrt(base.in_features))
            self.lora_b = nn.Parameter(torch.zeros(base.out_features, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + x @ self.lora_a.T @ self.lora_b.T

    class Adapted(Regressor):
        def __init__(self) -> None:
            super().__init__()
            self.net[0], self.net[2] = Lora(self.net[0]), Lora(self.net[2])  # type: ignore[arg-type]
            self.net.requires_grad_(False)
            self.net[4].requires_grad_(True)

    return Adapted(), loader(*flats())


@faulty("NOT-REGISTERED")
def experts_in_a_plain_list() -> Built:
    """``self.experts = [...]`` of a mixture."""

    class Moe(Task):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.experts = nn.Linear(8, 4), [mlp(8, 32, 1) for _ in range(4)]

        def loss(self, batch: Any) -> Tensor:
            every = torch.cat([expert(batch[0]) for expert in self.experts], 1)
            return F.mse_loss((self.gate(batch[0]).softmax(1) * every).sum(1), batch[1])

    return Moe(), loader(*flats())


@faulty("NOT-REGISTERED")
def tables_in_a_plain_dict() -> Built:
    """A dict of embeddings, one for each category."""

    class Tabular(Task):
        def __init__(self) -> None:
            super().__init__()
            self.tables = {"country": nn.Embedding(9, 5), "device": nn.Embedding(3, 2)}
            self.net = mlp(11, 48, 1)

        def loss(self, batch: Any) -> Tensor:
            known = [table(batch[name]) for name, table in self.tables.items()]
            scores = self.net(torch.cat([*known, batch["x"]], 1)).squeeze(1)
            return F.binary_cross_entropy_with_logits(scores, batch["bought"])

    return Tabular(), rows(**visitors())


@faulty("NOT-REGISTERED")
def tensors_that_require_gradients() -> Built:
    """``self.w = torch.randn(..., requires_grad=True)``: no parameter, so no optimizer has it."""

    class Hand(Task):
        def __init__(self) -> None:
            super().__init__()
            self.w = (torch.randn(8, 32) / 3).requires_grad_(True)
            self.b = torch.zeros(32, requires_grad=True)
            self.out = nn.Linear(32, 1)

        def loss(self, batch: Any) -> Tensor:
            return F.mse_loss(self.out(torch.relu(batch[0] @ self.w + self.b)).squeeze(1), batch[1])

    return Hand(), loader(*flats())


@faulty("EVAL-MODE")
def measured_in_the_middle_of_the_step() -> Built:
    """The step calls ``self.net.eval()`` to measure accuracy, and never ``train()`` again."""

    class Measured(Classifier):
        def __init__(self) -> None:
            super().__init__(nn.Sequential(backbone(), nn.Dropout(0.3), nn.Linear(32, 5)))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.loss(batch)
            self.net.eval()
            with torch.no_grad():
                self.log("train_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())
            return loss

    return Measured(), stripes()


@faulty("EVAL-MODE")
def loaded_for_inference() -> Built:
    """A segmenter in ``eval()``, all of whose weights are to be trained."""
    x, y = scenes()

    class Segmentation(Task):
        def __init__(self) -> None:
            super().__init__()
            self.model = Segmenter().eval()

        def loss(self, batch: Any) -> Tensor:
            return F.cross_entropy(self.model(batch[0]), batch[1])

    return Segmentation(), loader(x, y, size=16)
