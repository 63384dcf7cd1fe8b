"""The eleventh round's faults of behaviour and of the plan."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import chains, clusters, loader, pictures, rows, waves
from tests.benchmarks.preflight.outsiders_parts import ByHand, Lit
from tests.benchmarks.preflight.parts import Built, convnet, perceptron
from tests.benchmarks.preflight.register import faulty
from tests.benchmarks.preflight.wayfarers_parts import Reader, Supervised, Translator, reviews, translations


class Language(Lit):
    """An encoder of torch as a language model; ``mask`` is what it gets."""

    def __init__(self, mask: Tensor | None) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(24, 32), nn.Embedding(32, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.encoder, self.head, self.mask = nn.TransformerEncoder(layer, 2), nn.Linear(32, 24), mask

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The next token at each place."""
        (tokens,) = batch
        x = self.table(tokens[:, :-1]) + self.places.weight[: tokens.shape[1] - 1]
        return F.cross_entropy(self.head(self.encoder(x, self.mask)).flatten(0, 1), tokens[:, 1:].flatten())


@faulty("NOT-CAUSAL")
def mask_of_the_past() -> Built:
    """True hides in torch; ``tril`` hides the past and the place itself, so that only the future is read."""
    mask = torch.tril(torch.ones(16, 16, dtype=torch.bool), -1)
    return Language(mask), loader(chains())


@faulty("TARGET-IS-INPUT", "NOT-CAUSAL")
def decoder_is_told_what_it_must_say() -> Built:
    """``tgt[:, 1:]`` is both the decoder's input and its target: the mask lets each place see itself."""

    class Wrong(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = Translator()

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            said = batch["tgt"][:, 1:]
            mask = nn.Transformer.generate_square_subsequent_mask(said.shape[1])
            scores = self.net(batch["src"], said, mask)
            return F.cross_entropy(scores.transpose(1, 2), said, ignore_index=0)

    return Wrong(), rows(**translations())


@faulty("NOT-CAUSAL", "TARGET-IS-INPUT")
def decoder_without_a_mask() -> Built:
    """``nn.Transformer`` makes no causal mask by itself."""

    class Wrong(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = Translator()

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            scores = self.net(batch["src"], batch["tgt"][:, :-1], None)
            return F.cross_entropy(scores.flatten(0, 1), batch["tgt"][:, 1:].flatten(), ignore_index=0)

    return Wrong(), rows(**translations())


@faulty("IGNORES-INPUT", "PADDING-COUNTS")
def padding_mask_the_other_way_round() -> Built:
    """Hugging Face's mask is 1 for what is real; ``src_key_padding_mask`` hides what is True."""

    class Wrong(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = Reader()

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            scores = self.net(batch["input_ids"], batch["attention_mask"].bool())
            return F.cross_entropy(scores, batch["labels"])

    return Wrong(), rows(**reviews())


@faulty("NONDETERMINISTIC")
def functional_dropout_in_forward() -> Built:
    """``F.dropout(x, 0.5)`` drops in evaluation too: ``training`` is True by default."""

    class Drops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = convnet(32), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.dropout(F.relu(self.conv(x)), 0.5))

    return Supervised(Drops(), nn.CrossEntropyLoss()), loader(*pictures())


@faulty("BATCH-MIXING")
def recurrent_net_takes_samples_for_times() -> Built:
    """``nn.LSTM`` without ``batch_first`` reads (batch, time) as (time, batch); the last time is taken of axis 1."""

    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTM(3, 24), nn.Linear(24, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(x)[0][:, -1])

    return Supervised(Reads(), nn.CrossEntropyLoss()), loader(*waves())


@faulty("BATCH-MIXING")
def patches_by_reshape_alone() -> Built:
    """A vision transformer reshapes (N, 16, 32) to (16, N, 32) for torch's encoder instead of transposing."""

    class Vit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(1, 32, 3, 3)
            self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0), 1)
            self.head = nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            patches = self.patch(x).flatten(2).transpose(1, 2)
            turned = patches.reshape(patches.shape[1], patches.shape[0], 32)
            return self.head(self.encoder(turned).mean(0))

    return Supervised(Vit(), nn.CrossEntropyLoss()), loader(*pictures())


@faulty("NONDETERMINISTIC", "NOT-REGISTERED", "OPTIMIZER-MISSES")
def last_layer_made_in_forward() -> Built:
    """The last layer is made anew at every call, "because its width is not known before"."""

    class Lazy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten())

        def forward(self, x: Tensor) -> Tensor:
            h = self.conv(x)
            return nn.Linear(h.shape[1], 4)(h)

    return Supervised(Lazy(), nn.CrossEntropyLoss()), loader(*pictures())


class Planned(Supervised):
    """A perceptron, and a plan that is a function of the optimizer."""

    def __init__(self, plan: Any, lr: float = 1e-3, make: Any = torch.optim.AdamW, **options: Any) -> None:
        super().__init__(perceptron(12, 4), nn.CrossEntropyLoss())
        self.plan, self.rate, self.make, self.options = plan, lr, make, options

    def configure_optimizers(self) -> Any:
        """As Lightning's page shows it."""
        optimizer = self.make(self.parameters(), lr=self.rate, **self.options)
        return optimizer if self.plan is None else {"optimizer": optimizer, "lr_scheduler": self.plan(optimizer)}


@faulty("SCHEDULE-COLLAPSED")
def milestones_of_epochs_reached_in_steps() -> Built:
    """MultiStepLR at 10, 20 and 30 was meant in epochs; ``interval="step"`` came with another schedule's code."""

    def plan(optimizer: Any) -> Any:
        fall = torch.optim.lr_scheduler.MultiStepLR(optimizer, [10, 20, 30], gamma=0.1)
        return {"scheduler": fall, "interval": "step"}

    return Planned(plan), loader(*clusters()), {"trainer": L.Trainer(max_epochs=40, logger=False)}


@faulty("SCHEDULE-NEVER-ARRIVES")
def warmup_of_steps_counted_in_epochs() -> Built:
    """Hugging Face's linear schedule, 100 steps of warmup, in a plain list: Lightning steps it once an epoch."""
    from transformers import get_linear_schedule_with_warmup

    class Listed(Planned):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
            return [optimizer], [get_linear_schedule_with_warmup(optimizer, 100, 900)]

    return Listed(None), loader(*clusters()), {"trainer": L.Trainer(max_epochs=30, logger=False)}


@faulty("SCHEDULE-NEVER-ARRIVES", "LR-LOW")
def schedule_by_hand_never_stepped() -> Built:
    """Manual optimization: Lightning no longer steps the warmup (issue 6379), which begins at a thousandth."""

    class Hand(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(12, 4)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]))
            optimizer.step()

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
            rise = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1e-3, total_iters=100)
            return [optimizer], [{"scheduler": rise, "interval": "step"}]

    return Hand(), loader(*clusters()), {"trainer": L.Trainer(max_epochs=30, logger=False)}


@faulty("LR-HIGH", "PROBE-DIVERGES")
def rate_of_sgd_for_adam() -> Built:
    """0.1 and momentum made way for AdamW; the rate stayed, with weight decay."""
    return Planned(None, lr=0.1, weight_decay=5e-4), loader(*clusters())


@faulty("LR-LOW")
def rate_divided_by_the_batch() -> Built:
    """1e-4 is divided by 32 for the batch, and by 100 for fine-tuning."""
    return Planned(None, lr=1e-4 / 32 / 100), loader(*clusters())


@faulty("CLIP-ALWAYS")
def clipped_at_a_ten_thousandth_with_sgd() -> Built:
    """``gradient_clip_val=1e-4`` from an RNN's configuration, with SGD."""
    trainer = L.Trainer(max_epochs=10, gradient_clip_val=1e-4, logger=False)
    return Planned(None, lr=0.05, make=torch.optim.SGD, momentum=0.9), loader(*clusters()), {"trainer": trainer}


@faulty("EPS-HIGH")
def epsilon_of_one() -> Built:
    """``eps=1.0`` as TensorFlow's page advises for Inception, at a rate of 1e-3."""
    return Planned(None, eps=1.0), loader(*clusters())
