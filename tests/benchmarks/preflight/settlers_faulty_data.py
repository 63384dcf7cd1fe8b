"""A twelfth round of faulty cases, written without a look at the checks, after collections of bugs and issues: data."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import ConcatDataset, DataLoader, Dataset, TensorDataset

from tests.benchmarks.preflight.data import clusters, curve, generator, loader, pictures, rows
from tests.benchmarks.preflight.outsiders_parts import Lit, series
from tests.benchmarks.preflight.parts import Built, convnet, perceptron
from tests.benchmarks.preflight.register import faulty
from tests.benchmarks.preflight.settlers_parts import Loss, Tagger, normalised, photos, spectrograms, tagged, votes
from tests.benchmarks.preflight.wayfarers_parts import Reader, Supervised, reviews


@faulty("INPUT-SCALE")
def decibels_as_they_are() -> Built:
    """``AmplitudeToDB`` gives -80 to 0, and the first convolution gets them (torchaudio's tutorial without its norm)."""
    return Supervised(convnet(3), nn.CrossEntropyLoss()), loader(*spectrograms())


@faulty("INPUT-SCALE")
def bytes_cast_to_float_in_forward() -> Built:
    """DeepFD: pictures of 0 to 255 in a perceptron; ``x.float()`` is all that is done to them."""

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = perceptron(768, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x.float().flatten(1))

    return Supervised(Flat(), nn.CrossEntropyLoss()), loader(*photos())


@faulty("DATA-NONFINITE")
def percent_change_from_zero() -> Built:
    """``pct_change`` divides by yesterday's volume, which was zero on some days."""
    g = generator()
    volume = pd.DataFrame(torch.poisson(torch.full((960, 6), 4.0), generator=g).numpy())
    change = volume.pct_change().fillna(0.0)
    x = torch.tensor(change.values, dtype=torch.float32)
    return Supervised(perceptron(6, 2), nn.CrossEntropyLoss()), loader(x, (x[:, 0] > 0).long())


@faulty("TARGET-IS-INPUT")
def scaler_over_the_whole_frame() -> Built:
    """The scaler's frame still has the target's column: features hold it standardised, the target is the raw one."""
    x, y = curve()
    price = 3.0 + 0.5 * y
    frame = torch.cat([x, price[:, None]], 1)
    features = (frame - frame.mean(0)) / frame.std(0)
    return Supervised(perceptron(7, 1), nn.MSELoss()), loader(features, price[:, None])


@faulty("SORTED")
def good_pieces_then_broken_ones() -> Built:
    """``ConcatDataset`` of two folders, and a loader without ``shuffle``."""
    x, y = clusters(classes=2)
    folders = [TensorDataset(x[y == k], y[y == k]) for k in (0, 1)]
    data: Any = ConcatDataset(folders)
    return Supervised(perceptron(12, 2), nn.CrossEntropyLoss()), DataLoader(data, batch_size=32)


@faulty("DUPLICATES")
def index_modulo_a_debugging_subset() -> Built:
    """``index % 8`` was to try whether one batch can be learnt; it stayed."""

    class Small(Dataset[Any]):
        x, y = pictures()

        def __len__(self) -> int:
            return len(self.y)

        def __getitem__(self, index: int) -> Any:
            return self.x[index % 8], self.y[index % 8]

    return Supervised(convnet(), nn.CrossEntropyLoss()), DataLoader(Small(), batch_size=32, shuffle=True)


@faulty("LABEL-RANGE")
def votes_instead_of_shares() -> Built:
    """``cross_entropy`` takes shares of each class; annotators' counts, five in each row, are handed over."""
    return Supervised(perceptron(7, 4), nn.CrossEntropyLoss()), loader(*votes())


@faulty("LABEL-RANGE")
def hinge_embedding_of_zero_and_one() -> Built:
    """``HingeEmbeddingLoss`` wants 1 and -1; labels are 0 and 1."""

    class Siamese(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.loss = perceptron(12, 8), nn.HingeEmbeddingLoss(margin=1.0)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            first, second, alike = batch
            return self.loss(F.pairwise_distance(self.net(first), self.net(second)), alike)

    x, y = clusters(classes=2)
    return Siamese(), loader(x[:-1], x[1:], (y[:-1] == y[1:]).float())


@faulty("NO-SIGNAL")
def pictures_and_labels_shuffled_apart() -> Built:
    """One loader for the pictures, one for the labels, and both shuffle."""

    class Apart(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = convnet()

        def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch["x"][0]), batch["y"][0])

    x, y = pictures()
    return Apart(), {"x": loader(x), "y": loader(y)}


@faulty("NO-SIGNAL")
def pictures_permuted_in_the_step() -> Built:
    """A try at CutMix that permutes the pictures and forgets the labels."""

    class Mixed(Supervised):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            x = x[torch.randperm(len(x))]
            return super().training_step((x, y), batch_idx)

    return Mixed(convnet(), nn.CrossEntropyLoss()), loader(*pictures())


@faulty("ONE-LABEL")
def shares_cast_to_whole_numbers() -> Built:
    """``torch.tensor(y, dtype=torch.long)`` of targets between 0 and 1: all of them are 0."""
    x, y = curve()
    return Supervised(perceptron(6, 1), lambda told, y: F.mse_loss(told[:, 0], y.float())), loader(x, y.sigmoid().long())


@faulty("IMBALANCE")
def abuse_in_one_comment_of_eighty() -> Built:
    """Comments under two classes and plain cross entropy: "never" is right in 98.75 %."""

    class Comments(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = Reader(outputs=2)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch["input_ids"], batch["attention_mask"] == 0), batch["labels"])

    data = reviews(1280)
    rude = torch.zeros(1280, dtype=torch.long)
    rude[torch.randperm(1280, generator=generator())[:16]] = 1
    tokens = data["input_ids"].masked_fill((rude[:, None] == 1) & (data["input_ids"] > 1), 2)
    return Comments(), rows(input_ids=tokens, attention_mask=data["attention_mask"], labels=rude, size=64)


@faulty("IGNORED")
def prompt_fills_the_context() -> Built:
    """TRL issue 6668: the prompt is as long as ``max_length``, the answer is cut away, and all labels are -100."""
    from transformers import GPT2Config, GPT2LMHeadModel

    net = GPT2LMHeadModel(GPT2Config(vocab_size=60, n_positions=32, n_embd=32, n_layer=1, n_head=4))
    data = reviews()
    prompt = torch.arange(16).expand(640, 16) < 14
    labels = data["input_ids"].masked_fill(prompt, -100).masked_fill(data["attention_mask"] == 0, -100)
    return Loss(net, lambda net, batch: net(**batch).loss), rows(
        input_ids=data["input_ids"], attention_mask=data["attention_mask"], labels=labels
    )


@faulty("PADDING-COUNTS")
def labels_cloned_from_padded_tokens() -> Built:
    """``labels = input_ids.clone()``: GPT-2 learns to write padding."""
    from transformers import GPT2Config, GPT2LMHeadModel

    net = GPT2LMHeadModel(GPT2Config(vocab_size=60, n_positions=32, n_embd=32, n_layer=1, n_head=4))

    def loss(net: Any, batch: dict[str, Tensor]) -> Tensor:
        tokens = batch["input_ids"]
        return net(tokens, attention_mask=batch["attention_mask"], labels=tokens.clone()).loss

    data = reviews()
    return Loss(net, loss), rows(
        input_ids=F.pad(data["input_ids"], (0, 8)), attention_mask=F.pad(data["attention_mask"], (0, 8))
    )


@faulty("PADDING-COUNTS")
def zeros_after_the_series_ends() -> Built:
    """Series of unequal length, padded with zeros; the error of every time counts, that of padding too."""

    class Forecast(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRU(1, 24, batch_first=True), nn.Linear(24, 1)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            told = self.head(self.cell(batch["past"][..., None])[0])[..., 0]
            return F.mse_loss(told, batch["target"])

    x = series()
    ends = torch.randint(8, 25, (len(x), 1), generator=generator())
    real = torch.arange(24) < ends
    return Forecast(), rows(past=x[:, :-1] * real, target=x[:, 1:] * real, lengths=ends[:, 0])


@faulty("PADDING-COUNTS")
def ignored_tags_made_a_class() -> Built:
    """``labels[labels == -100] = 0`` "because CUDA asserts": padding is now tagged O."""

    class Padded(Tagger):
        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            labels = batch["labels"].masked_fill(batch["labels"] == -100, 0)
            return F.cross_entropy(self.scores(batch).transpose(1, 2), labels)

    return Padded(nn.LSTM), rows(**tagged())


@faulty("TARGET-SCALE", "OUTPUT-RANGE")
def ages_from_a_sigmoid() -> Built:
    """Ages from 1 to 90, squared error, and a net that ends in a sigmoid."""
    x, y = curve()
    ages = (40 + 18 * y).clamp(1, 90)[:, None]
    return Supervised(nn.Sequential(perceptron(6, 1), nn.Sigmoid()), nn.MSELoss()), loader(x, ages)


@faulty("TARGET-SCALE")
def rentals_of_a_day() -> Built:
    """Some four thousand bicycles a day, as the table has them, under squared error."""
    x, y = curve()
    return Supervised(perceptron(6, 1), lambda told, y: F.mse_loss(told.squeeze(1), y)), loader(x, 4500 + 1900 * y)


@faulty("BATCHNORM-BATCH")
def statistics_of_two_pictures() -> Built:
    """DeepLab's pooled branch under BatchNorm: each of its channels has two values in a batch of two."""

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
            self.branch = nn.Sequential(nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
            self.head = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.branch(self.body(x)).flatten(1))

    return Supervised(Pooled(), nn.CrossEntropyLoss()), loader(*normalised(), size=2)


@faulty("INPUT-CONSTANT", "IGNORES-INPUT")
def mean_over_the_only_channel() -> Built:
    """``x - x.mean(dim=0)`` in the dataset, meant over pixels, is over the one channel that a grey picture has."""

    class Grey(Dataset[Any]):
        x, y = pictures()

        def __len__(self) -> int:
            return len(self.y)

        def __getitem__(self, index: int) -> Any:
            x = self.x[index]
            return (x - x.mean(0)) / (x.std(0, unbiased=False) + 1e-6), self.y[index]

    return Supervised(convnet(), nn.CrossEntropyLoss()), DataLoader(Grey(), batch_size=32, shuffle=True)
