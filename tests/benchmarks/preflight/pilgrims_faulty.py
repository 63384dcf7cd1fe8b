"""A tenth round of faulty cases, written before the ninth was mended, by one who has not read the checks: data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset

from tests.benchmarks.preflight.data import curve, generator, loader, rows
from tests.benchmarks.preflight.outsiders_parts import Lit
from tests.benchmarks.preflight.parts import Built, perceptron
from tests.benchmarks.preflight.pilgrims_parts import (
    beats,
    boards,
    cooked,
    fields,
    flat_conv,
    hands,
)
from tests.benchmarks.preflight.register import faulty


class Beats(Lit):
    """Three kinds of heartbeats, by cross entropy."""

    def __init__(self) -> None:
        super().__init__()
        self.net = flat_conv()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Of a pair."""
        return F.cross_entropy(self.net(batch[0]), batch[1])


@faulty("DATA-NONFINITE")
def roots_of_differences() -> Built:
    """``collate_fn`` takes square roots to tame the peaks, and half of a standardised lead is below 0."""

    def collate(samples: list[Any]) -> list[Tensor]:
        return [torch.stack([x for x, _ in samples]).sqrt(), torch.stack([y for _, y in samples])]

    pairs = list(zip(*beats(), strict=True))
    return Beats(), DataLoader(pairs, batch_size=32, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]


@faulty("INPUT-SCALE")
def reflectances_times_ten_thousand() -> Built:
    """Sentinel-2 is delivered as whole numbers up to 10,000; a patch's crop, with its place on the map beside it."""

    class Crops(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Sequential(nn.Conv2d(6, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.head = nn.Linear(18, 5)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.head(torch.cat([self.conv(batch["bands"]), batch["place"]], 1)), batch["crop"])

    x, crop = fields()
    place = torch.rand(len(x), 2, generator=generator())
    return Crops(), rows(bands=(3000 + 600 * x).clamp(min=0).round(), place=place, crop=crop, size=16)


@faulty("TARGET-SCALE")
def micrometres_in_metres() -> Built:
    """How far a membrane bends: a few millionths of a metre."""

    class Membrane(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.criterion = perceptron(6, 1), nn.MSELoss()

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return self.criterion(self.net(batch["loads"]).squeeze(1), batch["bends"])

    x, y = curve()
    return Membrane(), rows(loads=x, bends=2e-6 * y)


@faulty("SORTED")
def buffer_shorter_than_a_shard() -> Built:
    """Shards hold one kind each; a buffer of 64 samples shuffles only within a kind."""

    class Shards(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            x, y = beats()
            held: list[int] = []
            g = generator()
            for place in y.argsort().tolist():
                held.append(place)
                if len(held) == 64:
                    chosen = held.pop(int(torch.randint(0, 64, (1,), generator=g)))
                    yield x[chosen], y[chosen]

    return Beats(), DataLoader(Shards(), batch_size=32)


@faulty("ONE-LABEL")
def kitchens_spelt_otherwise() -> Built:
    """``kitchen == "Thai"``, and the table has "thai": no dish is."""

    class Dishes(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.head = nn.EmbeddingBag(50, 24), nn.Linear(24, 1)

        def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
            thai = torch.tensor([float(kitchen == "Thai") for kitchen in batch["spelt"]])
            score = self.head(self.bag(batch["ingredients"], batch["begins"])).squeeze(-1)
            return F.binary_cross_entropy_with_logits(score, thai)

    spelling = ("thai", "french", "greek", "peruvian")
    data = cooked()
    plain = data.collate_fn
    data = DataLoader(
        data.dataset,
        batch_size=32,
        shuffle=True,
        collate_fn=lambda dishes: {**plain(dishes), "spelt": [spelling[kitchen] for _, kitchen in dishes]},
    )
    return Dishes(), data


@faulty("LABEL-RANGE")
def margins_of_nothing_and_one() -> Built:
    """``SoftMarginLoss`` wants 1 and -1; where the label is 0 the loss does not depend on the score."""

    class Early(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.criterion = flat_conv(1), nn.SoftMarginLoss()

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return self.criterion(self.net(batch["lead"])[:, 0], batch["early"])

    x, kind = beats()
    return Early(), rows(lead=x, early=(kind == 1).float())


@faulty("IGNORED")
def anchors_that_match_nothing() -> Built:
    """Boxes in pixels, anchors between 0 and 1: no anchor is near a box, and what is not near is ignored."""

    class Anchors(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), perceptron(25 * 2, 3 * 25))
            self.register_buffer("anchors", torch.cartesian_prod(torch.linspace(0, 1, 5), torch.linspace(0, 1, 5)))

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            far = (batch["centre"][:, None] - self.anchors).abs().amax(-1)
            wanted = torch.where(far < 0.2, batch["kind"][:, None], -100)
            each = F.cross_entropy(self.net(batch["picture"]).view(-1, 3, 25), wanted, reduction="sum")
            return each / (wanted != -100).sum().clamp(min=1)

    b = boards()
    centre = 20 + 60 * torch.rand(640, 2, generator=generator())
    return Anchors(), rows(picture=b["stones"], centre=centre, kind=1 + (b["won"] > 0).long())


@faulty("PADDING-COUNTS")
def cards_after_the_last() -> Built:
    """Hands of two to six cards in rows of six; the sorter is taught 0 for "no card" with all the rest."""

    class Sorter(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(21, 32, padding_idx=0), nn.Linear(32, 21)
            layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
            self.places, self.encoder = nn.Parameter(0.1 * torch.randn(6, 32)), nn.TransformerEncoder(layer, 1)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            hidden = batch["dealt"] == 0
            h = self.encoder(self.table(batch["dealt"]) + self.places, src_key_padding_mask=hidden)
            return F.cross_entropy(self.head(h).flatten(0, 1), batch["sorted"].flatten())

    dealt, _ = hands()
    counts = torch.randint(2, 5, (len(dealt), 1), generator=generator())
    there = torch.arange(6) < counts
    ordered = dealt.masked_fill(~there, 99).sort(1).values
    return Sorter(), rows(dealt=dealt * there, sorted=ordered.masked_fill(ordered == 99, 0))


@faulty("DUPLICATES")
def windows_of_one_place() -> Built:
    """A window begins at ``index // stride`` where ``index * stride`` was meant: a few places, again and again."""

    class Windows(Dataset[tuple[Tensor, Tensor]]):
        def __init__(self) -> None:
            self.signal = torch.sin(0.3 * torch.arange(6500)) + 0.2 * torch.randn(6500, generator=generator())

        def __len__(self) -> int:
            return 640

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            start = index // 100
            return self.signal[start : start + 32], self.signal[start + 32]

    class Forecaster(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(32, 1)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return F.mse_loss(self.net(batch[0])[:, 0], batch[1])

    return Forecaster(), DataLoader(Windows(), batch_size=32, shuffle=True)


@faulty("TARGET-IS-INPUT")
def all_columns_of_the_batch() -> Built:
    """The step concatenates whatever the dict holds; the label is a column like the others."""

    class Table(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(7, 1)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            x = torch.cat(list(batch.values()), 1)
            return F.mse_loss(self.net(x), batch["yield"])

    x, y = curve()
    return Table(), rows(soil=x[:, :3], weather=x[:, 3:], **{"yield": y[:, None]})


@faulty("NO-SIGNAL")
def two_permutations() -> Built:
    """Inputs and labels are shuffled each by a permutation of its own."""

    class Crops(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(6, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

    x, crop = fields()
    g = generator(3)
    return Crops(), loader(x[torch.randperm(len(x), generator=g)], crop[torch.randperm(len(x), generator=g)])
