"""The fifteenth round's faults of the loss call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import chains, loader, rows
from tests.benchmarks.preflight.nomads_parts import papers, sums
from tests.benchmarks.preflight.parts import Built
from tests.benchmarks.preflight.register import faulty
from tests.benchmarks.preflight.strays_healthy import stripes
from tests.benchmarks.preflight.strays_parts import (
    Segmenter,
    Task,
    Vit,
    backbone,
    flats,
    loads,
    mlp,
    normalised,
    notes,
    photos,
    scenes,
    visitors,
)


@dataclass
class Output:
    """As the models of transformers return it."""

    loss: Tensor | None
    logits: Tensor


@faulty("BROADCAST")
def rents_in_a_column() -> Built:
    """``self.criterion(self(x), y)`` with (N, 1) and (N,): a Huber loss as a class."""

    class Rents(Task):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.criterion = mlp(8, 48, 48, 1), nn.HuberLoss()

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x)

        def loss(self, batch: Any) -> Tensor:
            x, y = batch
            return self.criterion(self(x), y)

    return Rents(), loader(*flats())


@faulty("BROADCAST")
def forecast_with_a_channel_left() -> Built:
    """A convolution's (N, 1, hours) minus (N, hours)."""

    class Forecast(Task):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv1d(1, 16, 5, padding=2), nn.ReLU(), nn.Conv1d(16, 1, 5, padding=2), nn.Linear(36, 12)
            )

        def loss(self, batch: Any) -> Tensor:
            return (self.net(batch[0].unsqueeze(1)) - batch[1]).abs().mean()

    return Forecast(), loader(*loads())


@faulty("BROADCAST")
def distances_that_keep_an_axis() -> Built:
    """A contrastive loss: ``pairwise_distance(keepdim=True)`` beside labels of (N,)."""
    x, y = photos()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))

    class Siamese(Task):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(backbone(), nn.Linear(32, 16))

        def loss(self, batch: Any) -> Tensor:
            a, b, other = batch
            far = F.pairwise_distance(self.net(a), self.net(b), keepdim=True)
            return torch.mean((1 - other) * far.pow(2) + other * torch.clamp(2.0 - far, min=0.0).pow(2))

    x = normalised(x)
    return Siamese(), loader(x, x[order], (y != y[order]).float())


@faulty("DOUBLE-SOFTMAX")
def patches_with_probabilities_in_an_output() -> Built:
    """A model in the style of transformers: ``logits`` are a softmax, its ``loss`` is cross entropy."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit = Vit()

        def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> Output:
            logits = nn.functional.softmax(self.vit(pixel_values), dim=-1)
            loss = None if labels is None else nn.CrossEntropyLoss()(logits.view(-1, 5), labels.view(-1))
            return Output(loss, logits)

    class Images(Task):
        def __init__(self) -> None:
            super().__init__()
            self.model = Model()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            output = self.model(**batch)
            self.log("train_loss", output.loss)
            return output.loss

    x, y = photos()
    return Images(), rows(pixel_values=normalised(x), labels=y)


@faulty("DOUBLE-SOFTMAX")
def smoothed_labels_against_probabilities() -> Built:
    """``CrossEntropyLoss(label_smoothing=0.1, weight=…)`` of a net that ends in a softmax."""

    class Themes(Task):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.rnn = nn.Embedding(50, 24), nn.GRU(24, 32, batch_first=True, bidirectional=True)
            self.head = nn.Sequential(nn.Linear(64, 3), nn.Softmax(dim=1))
            self.criterion = nn.CrossEntropyLoss(label_smoothing=0.1, weight=torch.tensor([1.0, 1.2, 0.9]))

        def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
            h = self.rnn(self.embed(tokens))[0]
            return self.head((h * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))

        def loss(self, batch: Any) -> Tensor:
            return self.criterion(self(batch["input_ids"], batch["attention_mask"]), batch["labels"])

    return Themes(), rows(**notes())


@faulty("DOUBLE-SIGMOID")
def buyers_squashed_twice() -> Built:
    """``torch.sigmoid`` in ``forward``, ``BCEWithLogitsLoss(pos_weight=…)`` in the step."""

    class Buyers(Task):
        def __init__(self) -> None:
            super().__init__()
            self.country, self.net = nn.Embedding(9, 4), mlp(8, 48, 1)
            self.loss_fn = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.0))

        def forward(self, country: Tensor, x: Tensor) -> Tensor:
            return torch.sigmoid(self.net(torch.cat([self.country(country), x], dim=1)))

        def loss(self, batch: Any) -> Tensor:
            return self.loss_fn(self(batch["country"], batch["x"]).squeeze(1), batch["bought"])

    return Buyers(), rows(**visitors())


@faulty("DOUBLE-SIGMOID")
def discs_squashed_twice() -> Built:
    """A segmenter with a sigmoid at its end; Dice of it, and BCE with logits of it."""
    x, y = scenes()

    class Discs(Task):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Sequential(Segmenter(1), nn.Sigmoid())

        def loss(self, batch: Any) -> Tensor:
            x, t = batch
            p = self.model(x)
            dice = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
            return F.binary_cross_entropy_with_logits(p, t) + dice

    return Discs(), loader(x, (y == 1).float()[:, None], size=16)


@faulty("NLL-NEEDS-LOG")
def nodes_without_a_log_softmax() -> Built:
    """GCN: ``nll_loss`` of scores."""
    graph = papers()

    class Gcn(Task):
        lr = 1e-2

        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor, a: Tensor) -> Tensor:
            return a @ self.conv2(F.relu(a @ self.conv1(x)))

        def loss(self, batch: Any) -> Tensor:
            output = self(batch["x"], batch["a"])
            return F.nll_loss(output[batch["train"]], batch["y"][batch["train"]])

    return Gcn(), [graph] * 20


@faulty("NLL-NEEDS-LOG")
def answers_of_a_softmax_under_nll() -> Built:
    """``NLLLoss(ignore_index=0)`` of a decoder's softmax."""
    source, target = sums()

    class Decoder(Task):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.encoder = nn.Embedding(12, 32, padding_idx=0), nn.GRU(32, 48, batch_first=True)
            self.decoder, self.out = nn.GRU(32, 48, batch_first=True), nn.Linear(48, 12)
            self.softmax, self.criterion = nn.Softmax(dim=2), nn.NLLLoss(ignore_index=0)

        def loss(self, batch: Any) -> Tensor:
            source, target = batch
            h = self.decoder(self.embed(target[:, :-1]), self.encoder(self.embed(source))[1])[0]
            return self.criterion(self.softmax(self.out(h)).transpose(1, 2), target[:, 1:])

    return Decoder(), loader(source, target)


@faulty("LOG-OF-PROBABILITY")
def logarithm_of_a_sigmoid_that_reaches_one() -> Built:
    """BCE by hand without a floor, of scores in the hundreds: log(1 - 1)."""

    class Hand(Task):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(4, 48, 1)

        def loss(self, batch: Any) -> Tensor:
            p, y = torch.sigmoid(100 * self.net(batch["x"]).squeeze(1)), batch["bought"]
            return -(y * torch.log(p) + (1 - y) * torch.log(1 - p)).mean()

    return Hand(), rows(**visitors())


@faulty("SOFTMAX-DIM")
def attention_over_an_axis_of_one() -> Built:
    """Scores are (N, places, 1) and the softmax is over the last axis: all weights are one."""

    class Pooled(Task):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.rnn = nn.Embedding(50, 24), nn.GRU(24, 32, batch_first=True)
            self.attention, self.fc = nn.Sequential(nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 1)), nn.Linear(32, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            h = self.rnn(self.embed(tokens))[0]
            return self.fc((torch.softmax(self.attention(h), dim=-1) * h).sum(1))

        def loss(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch["input_ids"]), batch["labels"])

    return Pooled(), rows(**notes())


@faulty("SOFTMAX-DIM", "BATCH-MIXING")
def bags_that_attend_to_each_other() -> Built:
    """Pictures in bags: the attention's softmax runs over dim 0, the batch."""
    x, y = photos(600)
    bags, labels = normalised(x).view(120, 5, 3, 16, 16), (y.view(120, 5) == 0).any(1).float()

    class Bags(Task):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.score, self.head = backbone(), nn.Linear(32, 1), nn.Linear(32, 1)

        def loss(self, batch: Any) -> Tensor:
            x, y = batch
            h = self.body(x.flatten(0, 1)).view(len(x), 5, 32)
            pooled = (F.softmax(self.score(h), dim=0) * h).sum(1)
            return F.binary_cross_entropy_with_logits(self.head(pooled)[:, 0], y)

    return Bags(), loader(bags, labels, size=16)


@faulty("RELU-LOGITS")
def activated_scores_of_stripes() -> Built:
    """``F.relu(self.fc2(x))`` into cross entropy, as in many first networks."""

    class Net(Task):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3)
            self.fc1, self.fc2 = nn.Linear(64, 48), nn.Linear(48, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = F.max_pool2d(F.relu(self.conv1(x)), 2)
            x = F.max_pool2d(F.relu(self.conv2(x)), 2)
            return F.relu(self.fc2(F.relu(self.fc1(x.flatten(1)))))

        def loss(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

    return Net(), stripes()


@faulty("RELU-LOGITS")
def activated_scores_of_pixels() -> Built:
    """The last block of a segmenter is a convolution, a norm and a ReLU like all others."""
    x, y = scenes()

    class Blocks(Task):
        def __init__(self) -> None:
            super().__init__()
            sizes = [(3, 16), (16, 16), (16, 3)]
            parts = [(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()) for a, b in sizes]
            self.net = nn.Sequential(*(m for part in parts for m in part))

        def loss(self, batch: Any) -> Tensor:
            return nn.CrossEntropyLoss()(self.net(batch[0]), batch[1])

    return Blocks(), loader(x, y, size=16)


@faulty("SOFTMAX-DIM")
def next_words_share_one_softmax() -> Built:
    """``log_softmax(dim=0)`` of (N · places, words) rows, then NLL."""

    class Lm(Task):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.rnn, self.fc = nn.Embedding(24, 32), nn.LSTM(32, 48, batch_first=True), nn.Linear(48, 24)

        def forward(self, tokens: Tensor) -> Tensor:
            return F.log_softmax(self.fc(self.rnn(self.embed(tokens))[0]).view(-1, 24), dim=0)

        def loss(self, batch: Any) -> Tensor:
            return F.nll_loss(self(batch[0][:, :-1]), batch[0][:, 1:].reshape(-1))

    return Lm(), loader(chains())
