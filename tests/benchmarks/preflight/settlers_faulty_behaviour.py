"""The twelfth round's faults of behaviour and of the plan."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import chains, clusters, curve, loader, pictures, rows, waves
from tests.benchmarks.preflight.outsiders_parts import ByHand, Lit, masks
from tests.benchmarks.preflight.parts import Built, convnet, perceptron
from tests.benchmarks.preflight.register import faulty
from tests.benchmarks.preflight.settlers_parts import Loss, pixelcnn, run_of, transformer
from tests.benchmarks.preflight.travellers_parts import clouds
from tests.benchmarks.preflight.wayfarers_parts import Supervised, reviews, utterances


@faulty("IGNORES-INPUT")
def places_instead_of_words() -> Built:
    """``x = self.places(…)`` where ``x = x + self.places(…)`` was meant."""

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(60, 32), nn.Embedding(16, 32)
            self.body, self.head = transformer(), nn.Linear(32, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.words(tokens)
            x = self.places(torch.arange(16)).expand_as(x)
            return self.head(self.body(x).mean(1))

    def loss(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(net(batch["input_ids"]), batch["labels"])

    return Loss(Reader(), loss), rows(**reviews())


@faulty("NOT-CAUSAL")
def mask_after_the_softmax() -> Built:
    """Attention is multiplied by the mask after its softmax: what comes later still stands in the denominator."""

    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.places = nn.Embedding(24, 32), nn.Embedding(16, 32)
            self.qkv, self.head = nn.Linear(32, 96), nn.Linear(32, 24)

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.table(tokens) + self.places(torch.arange(tokens.shape[1]))
            q, k, v = self.qkv(x).chunk(3, -1)
            mask = torch.tril(torch.ones(tokens.shape[1], tokens.shape[1]))
            return self.head(x + (q @ k.mT / 32**0.5).softmax(-1) * mask @ v)

    def loss(net: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(net(batch[0][:, :-1]).transpose(1, 2), batch[0][:, 1:])

    return Loss(Looks(), loss), loader(chains())


@faulty("NOT-CAUSAL", "TARGET-IS-INPUT")
def first_mask_of_kind_b() -> Built:
    """PixelCNN: the first layer's mask lets each pixel see itself."""

    def loss(net: nn.Module, batch: Any) -> Tensor:
        x = (batch[0] > 0).float()
        return F.binary_cross_entropy_with_logits(net(x), x)

    return Loss(pixelcnn("B"), loss), loader(*pictures())


@faulty("BATCH-MIXING")
def time_major_states_viewed_as_rows() -> Built:
    """``nn.LSTM`` gives (time, batch, width); ``view(batch, -1)`` of it makes rows of several samples."""

    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTM(3, 16), nn.Linear(16 * 16, 4)

        def forward(self, x: Tensor) -> Tensor:
            states, _ = self.cell(x.permute(1, 0, 2))
            return self.head(states.view(len(x), -1))

    return Supervised(Reads(), nn.CrossEntropyLoss()), loader(*waves())


@faulty("BATCH-MIXING")
def neighbours_among_all_clouds() -> Built:
    """DGCNN: the nearest points are sought over the flattened batch, so that other clouds' points are among them."""

    class Edges(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.edge = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32))
            self.head = nn.Linear(32, 4)

        def forward(self, clouds: Tensor) -> Tensor:
            points = clouds.reshape(-1, 3)
            near = torch.cdist(points, points).topk(6, largest=False).indices
            pairs = torch.cat([points[:, None].expand(-1, 6, -1), points[near] - points[:, None]], -1)
            return self.head(self.edge(pairs).amax(1).view(len(clouds), -1, 32).amax(1))

    return Supervised(Edges(), nn.CrossEntropyLoss()), loader(*clouds())


@faulty("NONDETERMINISTIC")
def channels_dropped_by_the_functional() -> Built:
    """``F.dropout2d(x, 0.3)`` in ``forward`` drops in validation too."""

    class Segments(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 1, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(F.dropout2d(F.relu(self.first(x)), 0.3)).squeeze(1)

    return Supervised(Segments(), nn.BCEWithLogitsLoss()), loader(*masks(), size=16)


@faulty("GRAD-NOT-ZEROED")
def gradients_of_the_generators_loss_stay() -> Built:
    """Lightning issues 557 and 591: the discriminator is cleared after the real half, and starts with what was left."""

    class Gan(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.generator, self.discriminator = perceptron(8, 12), perceptron(12, 1, act=nn.LeakyReLU)

        def told(self, x: Tensor, real: float) -> Tensor:
            scores = self.discriminator(x)
            return F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, real))

        def training_step(self, batch: Any, batch_idx: int) -> None:
            first, second = self.optimizers()
            fake = self.generator(torch.randn(len(batch[0]), 8))
            first.zero_grad()
            self.manual_backward(self.told(fake, 1.0))
            first.step()
            self.manual_backward(self.told(batch[0], 1.0) + self.told(fake.detach(), 0.0))
            second.step()

        def configure_optimizers(self) -> Any:
            nets = (self.generator, self.discriminator)
            return [torch.optim.Adam(net.parameters(), 2e-4, betas=(0.5, 0.999)) for net in nets], []

    return Gan(), loader(*clusters())


class Hand(ByHand):
    """Manual optimization of a perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron(12, 4)

    def backward_of(self, batch: Any, share: float = 1.0) -> Tensor:
        """The loss's gradients."""
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.manual_backward(loss * share)
        return loss


@faulty("GRAD-NOT-ZEROED")
def accumulated_and_never_cleared() -> Built:
    """A step at every second batch, as in Lightning's page on accumulation, without its ``zero_grad``."""

    class Accumulates(Hand):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.backward_of(batch, 0.5)
            if (batch_idx + 1) % 2 == 0:
                self.optimizers().step()

    return Accumulates(), loader(*clusters())


@faulty("UPDATE-LOST")
def step_without_parentheses() -> Built:
    """``optimizer.step`` is looked at and not called."""

    class Looks(Hand):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.backward_of(batch)
            optimizer.step  # noqa: B018

    return Looks(), loader(*clusters())


@faulty("ZERO-GRADIENT", "NO-GRADIENT", "IGNORED", "DATA-NONFINITE")
def frames_fewer_than_letters() -> Built:
    """Frames are thinned out by eight: no path spells the word, and ``zero_infinity`` makes the loss 0."""

    class Spelling(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRU(8, 32, batch_first=True), nn.Linear(32, 7)
            self.ctc = nn.CTCLoss(zero_infinity=True)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            states = self.cell(batch["frames"])[0][:, ::8]
            shares = self.head(states).log_softmax(-1).transpose(0, 1)
            return self.ctc(shares, batch["letters"], (batch["long"] // 8).clamp_min(1), batch["spelt"])

    return Spelling(), utterances()


class Planned(Supervised):
    """A perceptron, its optimizer, and a schedule that is a function of the optimizer."""

    def __init__(self, make: Any, plan: Any = None) -> None:
        super().__init__(perceptron(12, 4), nn.CrossEntropyLoss())
        self.make, self.plan = make, plan

    def configure_optimizers(self) -> Any:
        """As Lightning's page shows it."""
        optimizer = self.make(self.parameters())
        if self.plan is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.plan(optimizer), "interval": "step"}}


def adamw(parameters: Any) -> torch.optim.Optimizer:
    """At 1e-3."""
    return torch.optim.AdamW(parameters, lr=1e-3)


@faulty("LR-HIGH", "PROBE-DIVERGES")
def momentum_where_the_rate_stands() -> Built:
    """``Adam(parameters, 0.9)``: the second argument is the rate."""
    return Planned(lambda p: torch.optim.Adam(p, 0.9)), loader(*clusters())


@faulty("LR-HIGH", "PROBE-DIVERGES", "NO-WARMUP")
def five_hundredths_for_five_millionths() -> Built:
    """``lr=5e-2`` typed for 5e-5 in fine-tuning a transformer."""

    class Tuned(Lit):
        lr = 5e-2

        def __init__(self) -> None:
            super().__init__()
            self.words, self.body, self.head = nn.Embedding(60, 32), transformer(), nn.Linear(32, 3)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.head(self.body(self.words(batch["input_ids"])).mean(1)), batch["labels"])

    return Tuned(), rows(**reviews())


@faulty("LR-LOW")
def rate_of_a_millionth_for_sgd() -> Built:
    """DeepFD: ``SGD(lr=1e-6)`` on a small table."""

    class Table(Supervised):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1e-6)

    return Table(perceptron(6, 1), lambda told, y: F.mse_loss(told.squeeze(1), y)), loader(*curve())


@faulty("SCHEDULE-COLLAPSED")
def linear_decay_over_a_single_epoch() -> Built:
    """``num_training_steps=len(loader)`` of a run of twenty epochs."""

    def plan(optimizer: Any) -> Any:
        from transformers import get_linear_schedule_with_warmup

        return get_linear_schedule_with_warmup(optimizer, 3, 30)

    return Planned(adamw, plan), loader(*clusters()), run_of(20)


@faulty("SCHEDULE-COLLAPSED")
def nine_tenths_at_each_step() -> Built:
    """``ExponentialLR(gamma=0.9)`` is an epoch's factor; ``interval="step"``."""

    def plan(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)

    return Planned(adamw, plan), loader(*clusters()), run_of(50)


@faulty("SCHEDULE-NEVER-ARRIVES", "LR-LOW", "UPDATE-LOST")
def warmup_by_whole_division() -> Built:
    """``min(1, step // 1000)``: the factor is 0 for the whole run of 600 steps."""

    def plan(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, step // 1000))

    return Planned(adamw, plan), loader(*clusters()), run_of(20)


@faulty("SCHEDULE-NEVER-ARRIVES")
def warmup_in_batches_under_accumulation() -> Built:
    """A warmup of 200 batches; sixteen are accumulated, so the run has 40 steps."""

    def plan(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=200)

    return Planned(adamw, plan), loader(*clusters()), run_of(20, accumulate_grad_batches=16)


@faulty("CLIP-ALWAYS")
def values_clipped_at_a_millionth_in_the_hook() -> Built:
    """``configure_gradient_clipping`` with 1e-6, and SGD."""

    class Clipped(Planned):
        def configure_gradient_clipping(self, optimizer: Any, *args: Any, **options: Any) -> None:
            nn.utils.clip_grad_value_(self.parameters(), 1e-6)

    return Clipped(lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)), loader(*clusters())


@faulty("EPS-HIGH")
def epsilon_of_a_tenth() -> Built:
    """``eps=0.1`` as TensorFlow's page says of Inception, in Adam at 1e-3 on small gradients."""

    class Small(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = convnet()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=1e-3, eps=0.1)

    return Small(), loader(*pictures())
