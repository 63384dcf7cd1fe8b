"""The sixth round's faults of data and plan."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from tests.benchmarks.preflight.data import chains, clusters, curve, generator, loader, pictures, rows
from tests.benchmarks.preflight.newcomers_parts import Module, Stream
from tests.benchmarks.preflight.outsiders_parts import (
    Lit,
    Seq2Seq,
    Unet,
    captions,
    lives,
    masks,
    series,
    views_of_things,
)
from tests.benchmarks.preflight.parts import Attention, Built, convnet, perceptron
from tests.benchmarks.preflight.register import faulty


@faulty("TARGET-IS-INPUT")
def window_holds_its_target() -> Built:
    """Off by one: the value to be told is the window's last."""

    class Windows(Dataset[tuple[Tensor, Tensor]]):
        def __init__(self) -> None:
            self.values = series(40, 60)

        def __len__(self) -> int:
            return 40 * 40

        def __getitem__(self, at: int) -> tuple[Tensor, Tensor]:
            row, start = self.values[at // 40], at % 40
            return row[start : start + 16], row[start + 15]

    class Forecaster(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(16, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.mse_loss(self.net(batch[0]).squeeze(-1), batch[1])

    return Forecaster(), DataLoader(Windows(), batch_size=32, shuffle=True)


class _Reader(Lit):
    """Reads tokens of a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.cell, self.head = nn.Embedding(24, 24), nn.GRU(24, 24, batch_first=True), nn.Linear(24, 2)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Negative or positive."""
        states, _ = self.cell(self.table(batch["input_ids"]))
        return F.cross_entropy(self.head(states.mean(1)), batch["label"])


@faulty("SORTED")
def all_negative_reviews_first() -> Built:
    """As the IMDB files are, and nobody shuffles."""
    words = chains()
    y = (words.float().mean(1) > words.float().mean()).long()
    order = y.argsort(stable=True)
    data = [{"input_ids": words[i], "label": y[i]} for i in order.tolist()]
    return _Reader(), DataLoader(data, batch_size=16)  # type: ignore[arg-type]


@faulty("DUPLICATES")
def the_same_sample_each_time() -> Built:
    """A seed of eight values in ``__getitem__``, to repeat augmentation: the draw of the sample is repeated too."""

    class Reviews(Dataset[dict[str, Tensor]]):
        def __init__(self) -> None:
            self.words = chains()
            self.label = (self.words.float().mean(1) > self.words.float().mean()).long()

        def __len__(self) -> int:
            return 480

        def __getitem__(self, at: int) -> dict[str, Tensor]:
            draw = random.Random(at % 8)
            i = draw.randrange(480)
            return {"input_ids": self.words[i], "label": self.label[i]}

    return _Reader(), DataLoader(Reviews(), batch_size=16, shuffle=True)


@faulty("ONE-LABEL")
def labels_divided_instead() -> Built:
    """DeepFD, SO 59325381: 255 divides the labels, and all are 0."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = convnet()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

    x, y = pictures()
    return Model(), loader(x, (y / 255).long())


@faulty("LABEL-RANGE")
def pairs_of_zero_and_one() -> Built:
    """CosineEmbeddingLoss wants 1 and -1."""

    class Pairs(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.criterion = (
                perceptron(20, 16),
                perceptron(14, 16),
                nn.CosineEmbeddingLoss(margin=0.2),
            )

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            a, b, alike = batch
            return self.criterion(self.left(a), self.right(b), alike)

    a, b = views_of_things()
    alike = (torch.arange(len(a)) % 2).float()
    return Pairs(), loader(a, torch.where(alike[:, None] > 0, b, b.roll(5, 0)), alike)


@faulty("IGNORED")
def answers_never_found() -> Built:
    """The template that marks the answer does not occur, so that nearly every label is -100."""

    class Language(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.block, self.head = nn.Embedding(24, 32), Attention(32), nn.Linear(32, 24)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            logits = self.head(self.block(self.table(batch["input_ids"])))
            return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100)

    words = chains()
    labels = torch.full_like(words, -100)
    labels[::4, -1] = words[::4, -1]
    return Language(), rows(input_ids=words, labels=labels, size=16)


@faulty("INPUT-SCALE")
def waveforms_of_16_bits() -> Built:
    """Read as whole numbers, cast to float, never divided by 32768."""

    class Audio(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv1d(1, 8, 8, 4),
                nn.ReLU(),
                nn.Conv1d(8, 16, 4, 2),
                nn.ReLU(),
                nn.AdaptiveAvgPool1d(1),
                nn.Flatten(),
                nn.Linear(16, 3),
            )

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch["audio"].float()[:, None]), batch["command"])

    g = generator()
    command = torch.randint(0, 3, (480,), generator=g)
    wave = torch.sin(torch.arange(128) * (0.2 + 0.3 * command[:, None])) + 0.2 * torch.randn(480, 128, generator=g)
    return Audio(), rows(audio=(8000 * wave).to(torch.int16), command=command)


@faulty("TARGET-SCALE")
def days_beside_classes() -> Built:
    """Two tasks: what it is, and in how many days (hundreds) it ends."""

    class Two(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.kind, self.days = nn.Sequential(perceptron(8, 32), nn.ReLU()), nn.Linear(32, 2), nn.Linear(32, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, time, event = batch
            h = self.body(x)
            return F.cross_entropy(self.kind(h), event.long()) + F.mse_loss(self.days(h).squeeze(-1), time)

    x, time, event = lives()
    return Two(), loader(x, 900 * time, event)


@faulty("INPUT-CONSTANT")
def divided_as_whole_numbers() -> Built:
    """``//`` where ``/`` was meant: bytes become 0."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = convnet()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

    x, y = pictures()
    data = ((x - x.min()) / (x.max() - x.min()) * 254).byte()
    return Model(), loader((data // 255).float(), y)


@faulty("DATA-NONFINITE")
def logarithm_of_silence() -> Built:
    """Spectra in decibels; where nothing is heard, the logarithm is minus infinity."""

    def heard() -> Iterator[tuple[Tensor, Tensor]]:
        x, y = pictures(channels=1)
        power = F.relu(x[:, 0] + 1.5)
        return iter(zip(10 * torch.log10(power) / 20, y, strict=True))

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = convnet()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0][:, None]), batch[1])

    return Model(), DataLoader(Stream(heard), batch_size=32)


@faulty("NO-SIGNAL")
def targets_of_the_neighbours() -> Built:
    """Two tables are joined with one of them a row off."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(12, 4)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch["features"]), batch["kind"])

    x, y = clusters()
    return Model(), rows(features=x, kind=y.roll(1, 0))


@faulty("SCHEDULE-NEVER-ARRIVES")
def interval_beside_the_scheduler() -> Built:
    """Lightning #6948: "interval" stands in the outer dict, so that OneCycle is stepped by the epoch."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.unet = Unet()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.binary_cross_entropy_with_logits(self.unet(batch[0])[:, 0], batch[1])

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
            cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, epochs=20, steps_per_epoch=20)
            return {"optimizer": optimizer, "lr_scheduler": cycle, "interval": "step"}

    return Model(), loader(*masks(), size=16), {"trainer": L.Trainer(max_epochs=20, logger=False)}


@faulty("SCHEDULE-COLLAPSED")
def a_tenth_after_each_epoch() -> Built:
    """StepLR whose step is one epoch, for fifty epochs."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.model = Seq2Seq()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.model(batch[0], batch[1][:, :-1]).mT, batch[1][:, 1:], ignore_index=0)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=2e-3)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)]

    return Model(), loader(*captions()), {"trainer": L.Trainer(max_epochs=50, logger=False)}


@faulty("LR-HIGH", "NO-WARMUP", "PROBE-DIVERGES")
def captions_at_a_half() -> Built:
    class Captioner(Lit):
        lr = 0.5

        def __init__(self) -> None:
            super().__init__()
            self.model = Seq2Seq()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.model(batch[0], batch[1][:, :-1]).mT, batch[1][:, 1:], ignore_index=0)

    return Captioner(), loader(*captions())


@faulty("LR-LOW")
def fine_tuning_rate_from_nothing() -> Built:
    """A rate copied from a page on fine-tuning, with two zeros too many."""

    class Captioner(Lit):
        lr = 2e-7

        def __init__(self) -> None:
            super().__init__()
            self.model = Seq2Seq()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.model(batch[0], batch[1][:, :-1]).mT, batch[1][:, 1:], ignore_index=0)

    return Captioner(), loader(*captions())


@faulty("EPS-HIGH")
def eps_where_the_decay_belongs() -> Built:
    """``Adam(params, 1e-3, (0.9, 0.999), 0.1)``: the fourth argument is ε."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.unet = Unet()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.binary_cross_entropy_with_logits(self.unet(batch[0])[:, 0], batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 1e-3, (0.9, 0.999), 0.1)

    return Model(), loader(*masks(), size=16)


@faulty("CLIP-ALWAYS")
def values_clipped_to_nothing() -> Built:
    """``gradient_clip_val`` was tuned for the norm, and the algorithm is "value"."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(6, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.mse_loss(self.net(batch[0]).squeeze(-1), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    trainer = L.Trainer(max_epochs=20, logger=False, gradient_clip_val=1e-5, gradient_clip_algorithm="value")
    return Model(), loader(*curve()), {"trainer": trainer}


@faulty("BATCHNORM-BATCH")
def batches_of_one_series() -> Built:
    """Memory allows for one at a time; gradients are accumulated, and BatchNorm sees one sample's single value."""

    def data() -> Any:
        x = series(320)
        return torch.utils.data.TensorDataset(x[:, :-1], (x[:, -1] > 0).long())

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.norm, self.head = nn.GRU(1, 24, batch_first=True), nn.BatchNorm1d(24), nn.Linear(24, 2)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            _, last = self.cell(batch[0][..., None])
            return F.cross_entropy(self.head(self.norm(last[-1])), batch[1])

    return Model(), Module(data, size=2), {"trainer": L.Trainer(max_epochs=3, accumulate_grad_batches=8, logger=False)}
