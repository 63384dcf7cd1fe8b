"""The thirteenth round's faults of behaviour: modes, graphs cut in two, axes that change places, masks."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import chains, loader, rows, waves
from tests.benchmarks.preflight.drifters_parts import (
    Steps,
    dense,
    digits,
    lenet,
    of,
    opinions,
    windows,
)
from tests.benchmarks.preflight.parts import Built, Learner
from tests.benchmarks.preflight.register import faulty


@faulty("EVAL-MODE")
def evaluated_once_and_left_so() -> Built:
    """``self.net.eval()`` at the end of ``__init__``, after a look at the output's shape."""
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(576, 10),
    )  # fmt: skip
    net.eval()
    return Learner(net, F.cross_entropy, of(torch.optim.SGD, lr=0.01)), loader(*digits())


@faulty("EVAL-MODE")
def eval_called_for_the_metric() -> Built:
    """``self.eval()`` in the step, for an accuracy without dropout; nobody calls ``train()``."""

    class Measured(Learner):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.eval()
            right = (self(batch[0]).argmax(1) == batch[1]).float().mean()
            self.log("accuracy", right)
            return super().training_step(batch, batch_idx)

    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10))
    return Measured(net, F.cross_entropy, of(torch.optim.Adam, lr=1e-3)), loader(*digits())


@faulty("NONDETERMINISTIC")
def dropout_that_never_stops() -> Built:
    """``F.dropout(x, 0.5)`` without ``self.training``."""

    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(64, 128), nn.Linear(128, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(F.dropout(self.one(x.flatten(1)).relu(), 0.5))

    return Learner(Dropping(), F.cross_entropy, of(torch.optim.Adam, lr=1e-3)), loader(*digits())


@faulty("NO-GRADIENT")
def features_without_a_gradient() -> Built:
    """``self.head(self.encoder(x).detach())``: only the encoder's weights stand in the way, and nobody meant it."""

    def loss(module: Any, batch: Any) -> Tensor:
        return F.cross_entropy(module.head(module.encoder(batch[0]).detach()), batch[1])

    return Steps(loss, encoder=dense(64, 64, 32), head=nn.Linear(32, 10)), loader(*digits())


@faulty("NO-GRADIENT")
def through_numpy_and_back() -> Built:
    """Filtered by SciPy in the middle: ``torch.from_numpy(h.detach().numpy())``."""

    class Filtered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(24, 48), nn.Linear(48, 6)

        def forward(self, x: Tensor) -> Tensor:
            h = self.one(x).relu().detach().numpy().clip(0, 4)
            return self.two(torch.from_numpy(h))

    return Learner(Filtered(), F.mse_loss, of(torch.optim.Adam, lr=1e-3)), loader(*windows())


@faulty("NO-GRADIENT")
def step_trains_a_copy() -> Built:
    """``net = copy.deepcopy(self.net)`` in the step, so that the average of weights is not disturbed."""

    def loss(module: Any, batch: Any) -> Tensor:
        return F.cross_entropy(copy.deepcopy(module.net)(batch[0]), batch[1])

    return Steps(loss, net=lenet()), loader(*digits())


@faulty("IGNORES-INPUT", "NO-GRADIENT")
def first_state_in_place_of_the_last() -> Built:
    """``self.fc(h0[-1])``: the state that went into the LSTM."""

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.fc = nn.LSTM(3, 24, batch_first=True), nn.Linear(24, 4)

        def forward(self, x: Tensor) -> Tensor:
            h0 = torch.zeros(1, len(x), 24)
            self.lstm(x, (h0, torch.zeros_like(h0)))
            return self.fc(h0[-1])

    return Learner(First(), F.cross_entropy, of(torch.optim.Adam, lr=1e-3)), loader(*waves())


@faulty("BATCH-MIXING")
def lstm_that_is_not_batch_first() -> Built:
    """(N, T, F) into an LSTM that reads its first axis as time, and ``out[:, -1]``."""

    class Swapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.fc = nn.LSTM(3, 32), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.lstm(x)[0][:, -1])

    return Learner(Swapped(), F.cross_entropy, of(torch.optim.Adam, lr=1e-3)), loader(*waves())


@faulty("BATCH-MIXING")
def view_to_bring_time_first() -> Built:
    """``x.view(T, N, F)`` in the place of ``x.permute(1, 0, 2)``."""

    class Viewed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.fc = nn.GRU(3, 32), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            n, length, features = x.shape
            return self.fc(self.gru(x.view(length, n, features))[0][-1])

    return Learner(Viewed(), F.cross_entropy, of(torch.optim.Adam, lr=1e-3)), loader(*waves())


@faulty("BATCH-MIXING", "SOFTMAX-DIM")
def attention_over_the_batch() -> Built:
    """``F.softmax(scores, dim=0)`` for the weights of a sequence's places."""

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.score, self.fc = nn.GRU(3, 32, batch_first=True), nn.Linear(32, 1), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = self.gru(x)[0]
            return self.fc((F.softmax(self.score(h), dim=0) * h).sum(1))

    return Learner(Pooled(), F.cross_entropy, of(torch.optim.Adam, lr=1e-3)), loader(*waves())


@faulty("BATCHNORM-BATCH")
def norms_with_one_sample() -> Built:
    """``batch_size=1`` after the memory ran out, under ``BatchNorm2d``."""
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip
    return Learner(net, F.cross_entropy, of(torch.optim.Adam, lr=1e-3)), loader(*digits(), size=1)


def speaker(mask: Tensor | None) -> Steps:
    """A small language model of ``nn.TransformerEncoder``, with this mask."""
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)

    def loss(module: Any, batch: Any) -> Tensor:
        x, y = batch[0][:, :-1], batch[0][:, 1:]
        h = module.body(module.words(x) + module.places(torch.arange(16)), mask=mask)
        return F.cross_entropy(module.head(h).flatten(0, 1), y.flatten())

    body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return Steps(loss, words=nn.Embedding(24, 32), places=nn.Embedding(16, 32), body=body, head=nn.Linear(32, 24))


@faulty("NOT-CAUSAL")
def encoder_for_a_language_model() -> Built:
    """``TransformerEncoder`` without its ``mask``, asked for the next token."""
    return speaker(None), loader(chains())


@faulty("NOT-CAUSAL")
def mask_the_other_way_round() -> Built:
    """True is hidden in ``nn.Transformer``; the lower triangle was given."""
    return speaker(torch.tril(torch.ones(16, 16, dtype=torch.bool), -1)), loader(chains())


@faulty("IGNORES-INPUT", "PADDING-COUNTS")
def attention_mask_taken_as_it_is() -> Built:
    """``src_key_padding_mask=mask.bool()``: Hugging Face's 1 is real, torch's True is hidden."""
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)

    def loss(module: Any, batch: Any) -> Tensor:
        mask = batch["mask"].bool()
        h = module.body(module.words(batch["tokens"]), src_key_padding_mask=mask)
        return F.cross_entropy(module.head((h * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)), batch["label"])

    data = opinions()
    short = data["mask"].clone()
    short[:, -1], data["tokens"][:, -1] = False, 0
    body = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    return Steps(loss, words=nn.Embedding(60, 32), body=body, head=nn.Linear(32, 2)), rows(**{**data, "mask": short})
