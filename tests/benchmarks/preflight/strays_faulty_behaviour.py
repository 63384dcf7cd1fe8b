"""The fifteenth round's faults of behaviour, and of the plan."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import chains, loader, rows, waves
from tests.benchmarks.preflight.drifters_parts import run_of
from tests.benchmarks.preflight.parts import Built, Words
from tests.benchmarks.preflight.register import faulty
from tests.benchmarks.preflight.strays_faulty_data import Classifier, Regressor
from tests.benchmarks.preflight.strays_faulty_structure import body_of_others
from tests.benchmarks.preflight.strays_healthy import stripes
from tests.benchmarks.preflight.strays_parts import (
    Manual,
    Task,
    baskets,
    flats,
    loads,
    mlp,
    normalised,
    notes,
    photos,
    swings,
)


@faulty("BATCH-MIXING")
def encoder_with_the_batch_in_second_place() -> Built:
    """``TransformerEncoderLayer`` without ``batch_first``, fed (batch, place, feature)."""

    class Series(Task):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(3, 32), nn.Linear(32, 4)
            self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, 0.0), 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(self.embed(x)).mean(1))

        def loss(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

    return Series(), loader(*waves())


@faulty("BATCH-MIXING")
def time_first_by_a_view() -> Built:
    """``x.view(length, batch, -1)`` instead of a transpose."""

    class Loads(Task):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(1, 32), nn.Linear(32, 12)

        def loss(self, batch: Any) -> Tensor:
            x, y = batch
            return F.mse_loss(self.head(self.rnn(x.view(x.shape[1], len(x), 1))[0][-1]), y)

    return Loads(), loader(*loads())


@faulty("NOT-CAUSAL")
def next_thing_with_all_of_them_in_sight() -> Built:
    """A session model without a mask: each place sees the thing that it should tell."""

    class Session(Task):
        def __init__(self) -> None:
            super().__init__()
            self.things, self.places = nn.Embedding(40, 32), nn.Embedding(10, 32)
            self.block, self.head = nn.TransformerEncoderLayer(32, 2, 64, 0.1, batch_first=True), nn.Linear(32, 40)

        def loss(self, batch: Any) -> Tensor:
            seen = batch["items"][:, :-1]
            h = self.block(self.things(seen) + self.places(torch.arange(9)))
            return F.cross_entropy(self.head(h).transpose(1, 2), batch["items"][:, 1:])

    return Session(), rows(items=baskets())


@faulty("NOT-CAUSAL")
def convolutions_padded_on_both_sides() -> Built:
    """``padding=1`` in a model of the next word."""

    class Conv(Task):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(24, 32), nn.Conv1d(32, 24, 1)
            self.convs = nn.Sequential(
                nn.Conv1d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv1d(32, 32, 3, padding=1), nn.ReLU()
            )

        def loss(self, batch: Any) -> Tensor:
            h = self.convs(self.embed(batch[0][:, :-1]).transpose(1, 2))
            return F.cross_entropy(self.head(h), batch[0][:, 1:])

    return Conv(), loader(chains())


@faulty("NOT-CAUSAL")
def lower_half_masked_instead_of_the_upper() -> Built:
    """``torch.tril(ones).bool()`` as ``mask=``: True means hidden, so that only what comes is seen."""

    class Lm(Task):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.places, self.head = nn.Embedding(24, 32), nn.Embedding(16, 32), nn.Linear(32, 24)
            self.block = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True)

        def loss(self, batch: Any) -> Tensor:
            x = batch[0][:, :-1]
            mask = torch.ones(16, 16).tril(-1).bool()
            h = self.block(self.embed(x) + self.places(torch.arange(16)), src_mask=mask)
            return F.cross_entropy(self.head(h).transpose(1, 2), batch[0][:, 1:])

    return Lm(), loader(chains())


@faulty("IGNORES-INPUT")
def first_state_instead_of_the_last() -> Built:
    """The head reads the state that the LSTM was given, not the one that it returned."""

    class Stateful(Task):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(3, 32, batch_first=True), nn.Linear(32, 4)

        def loss(self, batch: Any) -> Tensor:
            x, y = batch
            h0, c0 = torch.zeros(1, len(x), 32), torch.zeros(1, len(x), 32)
            self.rnn(x, (h0, c0))
            return F.cross_entropy(self.head(h0[-1]), y)

    return Stateful(), loader(*waves())


@faulty("IGNORES-INPUT")
def noise_denoised_without_a_look() -> Built:
    """A diffusion model's net gets the time alone: ``x`` is made and never handed over."""

    class Blind(Task):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(1, 64, 64, 12)

        def loss(self, batch: Any) -> Tensor:
            x = batch[1]
            t, noise = torch.rand(len(x), 1), torch.randn_like(x)
            noisy = (1 - t) * x + t * noise  # noqa: F841
            return F.mse_loss(self.net(t), noise)

    return Blind(), loader(*loads())


@faulty("NONDETERMINISTIC")
def dropout_that_never_ends() -> Built:
    """``F.dropout(x, 0.5)`` without ``training=self.training``."""

    class Net(Task):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(8, 64), nn.Linear(64, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc2(F.dropout(F.relu(self.fc1(x)), 0.5)).squeeze(-1)

        def loss(self, batch: Any) -> Tensor:
            return F.mse_loss(self(batch[0]), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.loss(batch))

    return Net(), loader(*flats())


@faulty("CANNOT-OVERFIT", "NO-SIGNAL")
def labels_drawn_anew_by_the_collate() -> Built:
    """``collate_fn`` shuffles the labels of each batch."""
    x, y = photos()

    def collate(batch: Any) -> tuple[Tensor, Tensor]:
        pictures, labels = zip(*batch, strict=True)
        return torch.stack(pictures), torch.stack(labels)[torch.randperm(len(labels))]

    data = torch.utils.data.TensorDataset(normalised(x), y)
    return Classifier(), torch.utils.data.DataLoader(data, 32, shuffle=True, collate_fn=collate)


@faulty("LR-HIGH", "PROBE-DIVERGES")
def adam_at_one_again() -> Built:
    """``Adam(lr=1.0)``, copied from SGD."""

    class Fast(Classifier):
        lr = 1.0

    return Fast(), stripes()


@faulty("LR-HIGH", "PROBE-DIVERGES")
def trained_body_at_a_tenth() -> Built:
    """Fine-tuning a trained net with AdamW at 0.1."""

    class Tuned(Classifier):
        def __init__(self) -> None:
            super().__init__(body_of_others())

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=0.1)

    return Tuned(), stripes()


@faulty("LR-LOW")
def adam_at_a_hundred_millionth() -> Built:
    """``lr=1e-8``: ``eps`` and ``lr`` have changed places."""

    class Slow(Regressor):
        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=1e-8, eps=1e-8)

    return Slow(), loader(*flats())


@faulty("EPS-HIGH")
def epsilon_of_a_tenth_again() -> Built:
    """``eps=0.1`` as for Inception on ImageNet, with gradients of a thousandth."""

    class Eps(Task):
        def __init__(self) -> None:
            super().__init__()
            self.model = Words()

        def loss(self, batch: Any) -> Tensor:
            return F.cross_entropy(self.model(batch[0][:, :-1]).flatten(0, 1), batch[0][:, 1:].flatten())

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=3e-4, eps=0.1)

    return Eps(), loader(chains())


@faulty("CLIP-ALWAYS")
def clipped_to_nothing_again() -> Built:
    """``gradient_clip_val=1e-4`` under SGD."""

    class Clipped(Regressor):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    return Clipped(), loader(*flats()), run_of(10, gradient_clip_val=1e-4)


@faulty("SCHEDULE-COLLAPSED")
def exponential_by_the_step() -> Built:
    """``ExponentialLR(0.9)`` with ``interval="step"``."""

    class Exp(Regressor):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=1e-3)
            schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return Exp(), loader(*flats()), run_of(20)


@faulty("SCHEDULE-COLLAPSED")
def cosine_of_epochs_by_the_step() -> Built:
    """``LinearLR`` down to nothing over 20, the number of epochs, counted in steps."""

    class Linear(Classifier):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
            schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=20)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    return Linear(), stripes(), run_of(20)


@faulty("SCHEDULE-NEVER-ARRIVES")
def one_cycle_by_the_epoch() -> Built:
    """``OneCycleLR(total_steps=estimated_stepping_batches)`` without ``interval="step"``."""

    class Cycle(Classifier):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
            total = int(self.trainer.estimated_stepping_batches)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=total)
            return {"optimizer": optimizer, "lr_scheduler": schedule}

    return Cycle(), stripes(), run_of(10)


@faulty("SCHEDULE-NEVER-ARRIVES", "NO-WARMUP", "LR-LOW")
def warmup_of_steps_by_the_epoch() -> Built:
    """A ``LambdaLR`` that warms up for 500 steps, called once an epoch, in a run of ten."""

    class Warm(Task):
        def __init__(self) -> None:
            super().__init__()
            self.model = Words()

        def loss(self, batch: Any) -> Tensor:
            return F.cross_entropy(self.model(batch[0][:, :-1]).flatten(0, 1), batch[0][:, 1:].flatten())

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 500))
            return [optimizer], [schedule]

    return Warm(), loader(chains()), run_of(10)


@faulty("IGNORES-INPUT", "NO-GRADIENT", "ZERO-GRADIENT")
def attention_to_the_question_alone() -> Built:
    """Cross attention is called with the queries as values, too: the memory is never read."""

    class Pool(Task):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.query = nn.Embedding(50, 32), nn.Parameter(0.1 * torch.randn(1, 4, 32))
            self.attention, self.fc = nn.MultiheadAttention(32, 4, batch_first=True), nn.Linear(128, 3)

        def loss(self, batch: Any) -> Tensor:
            memory = self.embed(batch["input_ids"])
            q = self.query.expand(len(memory), -1, -1)
            return F.cross_entropy(self.fc(self.attention(q, q, q)[0].flatten(1)), batch["labels"])

    return Pool(), rows(**notes())


@faulty("GRAD-NOT-ZEROED")
def critics_gradients_left_by_the_actor() -> Built:
    """Two optimizers by hand: the actor's backward runs through the critic, whose gradients nobody clears."""

    class Ddpg(Manual):
        def __init__(self) -> None:
            super().__init__()
            self.actor, self.critic = mlp(3, 48, 1, last=nn.Tanh), mlp(4, 48, 1)
            self.slow = copy.deepcopy(nn.ModuleList([self.actor, self.critic])).requires_grad_(False)

        def aim(self, batch: Any) -> Tensor:
            with torch.no_grad():
                value = self.slow[1](torch.cat([batch["next_obs"], 2 * self.slow[0](batch["next_obs"])], 1))
            return batch["reward"][:, None] + 0.95 * (1 - batch["done"][:, None]) * value

        def training_step(self, batch: Any, batch_idx: int) -> None:
            of_actor, of_critic = self.optimizers()  # type: ignore[misc]
            obs = batch["obs"]
            self.manual_backward(F.mse_loss(self.critic(torch.cat([obs, batch["action"]], 1)), self.aim(batch)))
            of_critic.step()
            of_actor.zero_grad()
            self.manual_backward(-self.critic(torch.cat([obs, 2 * self.actor(obs)], 1)).mean())
            of_actor.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.Adam(n.parameters(), lr=1e-3) for n in (self.actor, self.critic)]

    return Ddpg(), rows(size=64, **swings())


@faulty("BATCH-MIXING")
def heads_split_without_a_transpose() -> Built:
    """Attention by hand: ``view(n · heads, length, d)`` where the heads are not beside the batch, then attention over it."""

    class Attend(Task):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.qkv, self.head = nn.Embedding(50, 32), nn.Linear(32, 96), nn.Linear(32, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            n, length = tokens.shape
            q, k, v = self.qkv(self.embed(tokens)).chunk(3, -1)
            q, k, v = (t.reshape(length, n * 4, 8).transpose(0, 1) for t in (q, k, v))
            mixed = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(8), -1) @ v
            return self.head(mixed.transpose(0, 1).reshape(n, length, 32).mean(1))

        def loss(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch["input_ids"]), batch["labels"])

    return Attend(), rows(**notes())
