"""An eleventh round of faulty cases, written by one who has not read the checks, after forum threads and issues: data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

from tests.benchmarks.preflight.data import clusters, curve, generator, loader, pictures, rows, waves
from tests.benchmarks.preflight.outsiders_parts import Lit, Unet, masks
from tests.benchmarks.preflight.parts import Built, Recurrent, convnet, perceptron
from tests.benchmarks.preflight.register import faulty
from tests.benchmarks.preflight.travellers_parts import pixelwise
from tests.benchmarks.preflight.wayfarers_parts import Points, Reader, Supervised, houses, reviews, streets, utterances


@faulty("INPUT-SCALE")
def divided_by_255_twice() -> Built:
    """``ToTensor`` has divided already; the step does it again, and there is no norm in the net."""

    class Pictures(Supervised):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            return super().training_step((x / 255, y), batch_idx)

    x, y = pictures()
    return Pictures(convnet(), F.cross_entropy), loader((x - x.min()) / (x.max() - x.min()), y)


@faulty("ONE-LABEL", "NO-SIGNAL")
def masks_through_totensor() -> Built:
    """Class numbers were divided by 255 like the picture, and ``.long()`` makes all of them 0."""

    class Streets(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = pixelwise(3, 3)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch["image"]), batch["mask"].long())

    x, mask = streets(void=0)
    return Streets(), rows(image=x, mask=mask.float() / 255, size=16)


@faulty("NO-SIGNAL")
def labels_sorted_by_file_name() -> Built:
    """``sorted(os.listdir())`` for the labels, not for the pictures: each picture gets another one's label."""
    x, y = pictures()
    return Supervised(convnet(), nn.CrossEntropyLoss()), loader(x, y[torch.randperm(len(y), generator=generator(3))])


@faulty("LABEL-RANGE")
def labels_start_at_one() -> Built:
    """Four kinds, numbered 1 to 4 in the CSV, and four outputs."""
    x, y = clusters()
    return Supervised(perceptron(12, 4), nn.CrossEntropyLoss()), loader(x, y + 1)


@faulty("IGNORED")
def foreground_is_the_padding_index() -> Built:
    """``ignore_index=1`` copied from a text model's padding; pixels are 0 or 1, so only background is left."""
    x, inside = masks()
    return Supervised(Unet(2), nn.CrossEntropyLoss(ignore_index=1)), loader(x, inside.long(), size=16)


@faulty("PADDING-COUNTS")
def tags_of_padding() -> Built:
    """A tag for each token; padding is tagged 0 ("O"), and nothing tells the loss."""

    class Tagger(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.cell = nn.Embedding(60, 32, padding_idx=0), nn.GRU(32, 32, batch_first=True)
            self.head = nn.Linear(32, 4)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            scores = self.head(self.cell(self.words(batch["input_ids"]))[0])
            loss = F.cross_entropy(scores.view(-1, 4), batch["tags"].view(-1))
            self.log("train_loss", loss)
            return loss

    data = reviews()
    real = torch.arange(24) < torch.randint(4, 14, (640, 1), generator=generator())
    tokens = F.pad(data["input_ids"] + (data["input_ids"] == 0) * 7, (0, 8), value=9) * real
    return Tagger(), rows(input_ids=tokens, attention_mask=real.long(), tags=tokens % 4)


@faulty("DUPLICATES")
def a_weight_for_each_class() -> Built:
    """WeightedRandomSampler wants one weight per sample and gets one per class: the first four rows, for ever."""
    x, y = clusters()
    sampler = WeightedRandomSampler((1 / torch.bincount(y)).tolist(), num_samples=len(y), replacement=True)
    return Supervised(perceptron(12, 4), nn.CrossEntropyLoss()), DataLoader(
        TensorDataset(x, y), batch_size=32, sampler=sampler
    )


@faulty("SORTED")
def shuffle_lost_in_the_datamodule() -> Built:
    """An image folder lists class after class; ``shuffle`` was set for validation and not for training."""

    class Folder(Points):
        def points(self) -> tuple[Tensor, Tensor]:
            x, y = clusters()
            mixed = torch.randperm(len(y), generator=generator())
            kept = torch.cat([mixed[:768][y[mixed[:768]].argsort()], mixed[768:]])
            return x[kept], y[kept]

    return Supervised(perceptron(12, 4), nn.CrossEntropyLoss()), Folder(shuffle=False)


@faulty("TARGET-IS-INPUT")
def price_among_the_columns() -> Built:
    """``df.values`` as features, and the target's column is still in it."""
    x, y = curve()
    frame = pd.DataFrame(x.numpy(), columns=[f"x{i}" for i in range(6)]).assign(price=y.numpy())
    features, target = torch.tensor(frame.values), torch.tensor(frame["price"].values)[:, None]
    return Supervised(perceptron(7, 1), nn.MSELoss()), loader(features, target)


@faulty("DATA-NONFINITE")
def missing_values_of_a_table() -> Built:
    """pandas has NaN where nothing was measured, in three of a hundred rows."""

    class Table(Dataset[dict[str, Any]]):
        def __init__(self) -> None:
            x, y = clusters()
            self.frame = pd.DataFrame(x.numpy()).assign(kind=y.numpy())
            self.frame.iloc[::33, 4] = float("nan")

        def __len__(self) -> int:
            return len(self.frame)

        def __getitem__(self, index: int) -> dict[str, Any]:
            row = self.frame.iloc[index]
            return {"x": torch.tensor(row.values[:-1], dtype=torch.float32), "y": int(row["kind"])}

    class Net(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(12, 4)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch["x"]), batch["y"])

    return Net(), DataLoader(Table(), batch_size=32, shuffle=True)


@faulty("TARGET-SCALE")
def prices_as_they_are() -> Built:
    """Hundreds of thousands, Adam at 1e-3, and an L1 loss."""
    x, y = houses()
    return Supervised(perceptron(10, 1), nn.L1Loss()), loader(x, y[:, None])


@faulty("INPUT-CONSTANT", "IGNORES-INPUT")
def every_word_is_unknown() -> Built:
    """The vocabulary has lower-case words and the text is not lowered: [CLS] and then [UNK] throughout."""

    class Opinions(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = Reader()

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch["input_ids"]), batch["labels"])

    labels = reviews()["labels"]
    tokens = torch.full((len(labels), 16), 3)
    tokens[:, 0] = 1
    return Opinions(), rows(input_ids=tokens, labels=labels)


@faulty("BATCHNORM-BATCH")
def one_large_picture_at_a_time() -> Built:
    """No more fits; the head pools to one pixel and normalises it over a batch of one."""

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
            self.head = nn.Sequential(nn.Flatten(), nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(x))

    return Supervised(Pooled(), nn.CrossEntropyLoss()), loader(*pictures(), size=1)


@faulty("SORTED")
def stream_of_one_file_after_another() -> Built:
    """An iterable dataset reads four files, one for each kind of wave; ``shuffle`` cannot be given."""

    class Files(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            x, y = waves()
            for kind in range(4):
                yield from zip(x[y == kind], y[y == kind], strict=True)

    return Supervised(Recurrent(nn.GRU), nn.CrossEntropyLoss()), DataLoader(Files(), batch_size=32)


@faulty("LABEL-RANGE")
def a_letter_is_the_blank() -> Built:
    """``CTCLoss`` takes 0 for its blank, and the alphabet starts at 0."""

    class Spelling(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRU(8, 32, batch_first=True, bidirectional=True), nn.Linear(64, 7)
            self.ctc = nn.CTCLoss(zero_infinity=True)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            shares = self.head(self.cell(batch["frames"])[0]).log_softmax(-1).transpose(0, 1)
            return self.ctc(shares, batch["letters"], batch["long"], batch["spelt"])

    return Spelling(), utterances(first=0)
