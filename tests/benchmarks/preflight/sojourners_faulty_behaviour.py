"""The sixteenth round's faults of behaviour, and of the plan."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.data import DataLoader

from tests.benchmarks.preflight.data import loader, rows
from tests.benchmarks.preflight.nomads_parts import Made
from tests.benchmarks.preflight.parts import Built
from tests.benchmarks.preflight.register import faulty
from tests.benchmarks.preflight.sojourners_healthy import Glyphs, drawings
from tests.benchmarks.preflight.sojourners_healthy_equations import Values
from tests.benchmarks.preflight.sojourners_healthy_sequences import Gauges, Patches, Temporal
from tests.benchmarks.preflight.sojourners_healthy_tables import Claims
from tests.benchmarks.preflight.sojourners_parts import (
    System,
    clients,
    demand,
    dense,
    gauges,
    glyphs,
    letters,
    replay,
    scaled,
)


@faulty("BATCH-MIXING")
def recurrent_net_that_takes_time_first() -> Built:
    """``batch_first`` was forgotten; the last sample's state is read as the last time."""

    class First(Gauges):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(4, 24, 2)

    return First(), loader(*gauges())


@faulty("BATCH-MIXING")
def states_of_both_directions_by_view() -> Built:
    """``hidden.view(n, -1)`` of (directions, n, width), as in a published sentence coder."""

    class Both(System):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(4, 24, batch_first=True, bidirectional=True), nn.Linear(48, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[1].view(len(x), -1))

        def compute(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

    return Both(), loader(*gauges())


@faulty("BATCH-MIXING")
def patches_that_look_at_other_samples() -> Built:
    """The encoder takes (length, n, width)."""
    module = Patches()
    layer = nn.TransformerEncoderLayer(32, 4, 64, 0.1)
    module.body = nn.TransformerEncoder(layer, 2)
    return module, loader(*demand())


@faulty("BATCH-MIXING")
def standardised_over_the_batch_by_hand() -> Built:
    """``(h - h.mean(0)) / h.std(0)`` in ``forward``, in evaluation too."""

    class Over(Claims):
        def forward(self, batch: Any) -> Tensor:
            x = torch.cat([self.region(batch["region"]), self.product(batch["product"]), batch["x"]], -1)
            h = self.body(x)
            return self.head(F.relu((h - h.mean(0)) / (h.std(0) + 1e-5)))

    return Over(), rows(**clients())


class Author(System):
    """A small language model with attention written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.place = nn.Embedding(20, 32), nn.Parameter(0.02 * torch.randn(16, 32))
        self.norm, self.qkv, self.out = nn.LayerNorm(32), nn.Linear(32, 96), nn.Linear(32, 32)
        self.leave = nn.Sequential(nn.LayerNorm(32), dense(32, 64, 20))

    def looks(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention."""
        far = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool).triu(1)
        return (q @ k.mT / 8**0.5).masked_fill(far, -torch.inf).softmax(-1) @ v

    def heads(self, x: Tensor) -> Tensor:
        """Four of them."""
        return x.view(*x.shape[:2], 4, 8).transpose(1, 2)

    def forward(self, ids: Tensor) -> Tensor:
        """Scores of the next word at each place."""
        x = self.table(ids) + self.place[: ids.shape[1]]
        q, k, v = (self.heads(part) for part in self.qkv(self.norm(x)).chunk(3, -1))
        x = x + self.out(self.looks(q, k, v).transpose(1, 2).reshape(x.shape))
        return self.leave(x)

    def compute(self, batch: Any) -> Tensor:
        """The next word."""
        ids = batch["input_ids"]
        return F.cross_entropy(self(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), ignore_index=0)


@faulty("NOT-CAUSAL")
def mask_of_the_wrong_triangle() -> Built:
    """``tril`` of what must not be seen: each place looks ahead."""

    class Ahead(Author):
        def looks(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            far = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool).tril(-1)
            return (q @ k.mT / 8**0.5).masked_fill(far, -torch.inf).softmax(-1) @ v

    return Ahead(), rows(**letters())


@faulty("NOT-CAUSAL")
def heads_by_view_alone() -> Built:
    """``view(n, heads, length, width)`` of (n, length, heads · width): later words come early (Informer's issue 59)."""

    class Viewed(Author):
        def heads(self, x: Tensor) -> Tensor:
            return x.reshape(len(x), 4, x.shape[1], 8)

    return Viewed(), rows(**letters())


@faulty("NOT-CAUSAL")
def convolutions_filled_up_on_both_sides() -> Built:
    """``padding="same"`` in a net that foretells the next value."""
    module = Temporal()
    parts = [m if not hasattr(m, "parametrizations") else None for m in module.net]
    same = (weight_norm(nn.Conv1d(16 if k else 1, 16, 3, padding="same", dilation=2**k)) for k in range(3))
    module.net = nn.Sequential(*[next(same) if m is None else m for m in parts])
    return module, loader(*demand())


@faulty("TARGET-IS-INPUT", "NOT-CAUSAL")
def words_foretold_from_themselves() -> Built:
    """The labels were not moved by one."""

    class Same(Author):
        def compute(self, batch: Any) -> Tensor:
            ids = batch["input_ids"]
            return F.cross_entropy(self(ids).flatten(0, 1), ids.flatten(), ignore_index=0)

    return Same(), rows(**letters())


@faulty("IGNORES-INPUT", "ZERO-GRADIENT")
def norm_over_a_single_number() -> Built:
    """``LayerNorm(1)`` behind the head: always its bias."""
    module = Claims()
    module.head = nn.Sequential(module.head, nn.LayerNorm(1))  # type: ignore[assignment]
    return module, rows(**clients())


@faulty("IGNORES-INPUT", "ZERO-GRADIENT", "DEAD-UNITS")
def everything_dropped() -> Built:
    """``Dropout(1.0)``: the share to keep, in another library."""
    module = Claims()
    module.body[3] = nn.Dropout(1.0)
    return module, rows(**clients())


@faulty("IGNORES-INPUT", "NO-SIGNAL")
def state_where_the_observation_was_meant() -> Built:
    """The loop over time reads its own state, never ``x``."""

    class Alone(Gauges):
        def forward(self, x: Tensor) -> Tensor:
            h = torch.zeros(len(x), x.shape[1], 4)
            return self.head(self.pooled(self.rnn(h)[0]))

    return Alone(), loader(*gauges())


@faulty("NONDETERMINISTIC")
def dropped_in_evaluation_too() -> Built:
    """``F.dropout`` without ``training=``."""

    class Always(Claims):
        def forward(self, batch: Any) -> Tensor:
            x = torch.cat([self.region(batch["region"]), self.product(batch["product"]), batch["x"]], -1)
            return self.head(F.dropout(F.relu(self.body(x)), 0.4))

    return Always(), rows(**clients())


@faulty("NO-SIGNAL", "CANNOT-OVERFIT")
def labels_made_anew_at_each_reading() -> Built:
    """``random.randint`` in ``__getitem__``, a placeholder that stayed."""
    x, _ = glyphs()
    x = scaled(x)
    return Glyphs(), DataLoader(Made(lambda k: (x[k], int(torch.randint(0, 6, ())))), 32, shuffle=True)


@faulty("WRONG-SIGN", "CANNOT-OVERFIT", "PROBE-DIVERGES", "LR-HIGH")
def gradients_followed_upwards() -> Built:
    """``maximize=True`` was copied from a policy."""

    class Up(Claims):
        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 1e-3, maximize=True)

    return Up(), rows(**clients())


def planned(make: Any, lr: float = 1e-3, interval: str = "step") -> Built:
    """Glyphs for ten epochs, with a schedule."""

    class Planned(Glyphs):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=lr)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": make(optimizer), "interval": interval}}

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Planned(), drawings(), {"trainer": L.Trainer(max_epochs=10, accelerator="cpu", **quiet)}


@faulty("SCHEDULE-COLLAPSED")
def ten_times_less_at_each_batch() -> Built:
    """``StepLR(10)`` meant epochs."""
    return planned(lambda o: torch.optim.lr_scheduler.StepLR(o, 10, 0.1))


@faulty("SCHEDULE-COLLAPSED")
def five_per_cent_less_at_each_batch() -> Built:
    """0.95 for each of 200 batches."""
    return planned(lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.95))


@faulty("SCHEDULE-NEVER-ARRIVES")
def cycle_of_batches_by_the_epoch() -> Built:
    """200 steps of one cycle, and the schedule moves once in an epoch."""
    return planned(lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1e-2, total_steps=200), interval="epoch")


@faulty("SCHEDULE-NEVER-ARRIVES")
def warmup_longer_than_the_training() -> Built:
    """4000 steps of a famous paper, of 200."""
    return planned(lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: min(1.0, (step + 1) / 4000)))


@faulty("SCHEDULE-COLLAPSED", "LR-LOW", "UPDATE-LOST", "SCHEDULE-NEVER-ARRIVES")
def share_of_integers() -> Built:
    """``step // 1000`` where a share was meant: nought all along."""
    return planned(lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: float(step // 1000)))


@faulty("LR-HIGH", "PROBE-DIVERGES")
def rate_of_sgd_given_to_adam() -> Built:
    """0.5."""
    module = Claims()
    module.learning_rate = 0.5
    return module, rows(**clients())


@faulty("LR-LOW")
def rate_with_too_many_noughts() -> Built:
    """1e-8 for a new net."""
    module = Gauges()
    module.learning_rate = 1e-8
    return module, loader(*gauges())


@faulty("EPS-HIGH")
def epsilon_of_another_recipe() -> Built:
    """From an Inception recipe, with another rate."""

    class Epsilon(Claims):
        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=1e-3, eps=1.0)

    return Epsilon(), rows(**clients())


@faulty("CLIP-ALWAYS")
def clipped_to_almost_nothing() -> Built:
    """``gradient_clip_val=1e-4`` with SGD."""

    class Sgd(Values):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.q.parameters(), 0.05)

    trainer = L.Trainer(
        max_epochs=5, gradient_clip_val=1e-4, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    return Sgd(), rows(**replay()), {"trainer": trainer}
