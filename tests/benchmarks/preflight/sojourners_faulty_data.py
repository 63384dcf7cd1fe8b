"""The sixteenth round's faults of the data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.benchmarks.preflight.data import generator, loader, rows
from tests.benchmarks.preflight.nomads_parts import Made, in_order
from tests.benchmarks.preflight.parts import Built
from tests.benchmarks.preflight.register import faulty
from tests.benchmarks.preflight.sojourners_healthy import Boxes, Glyphs, Masks
from tests.benchmarks.preflight.sojourners_healthy_equations import Values
from tests.benchmarks.preflight.sojourners_healthy_sequences import Gauges, Patches, Tagger, Writer, tagged
from tests.benchmarks.preflight.sojourners_healthy_tables import Claims
from tests.benchmarks.preflight.sojourners_parts import (
    System,
    batches,
    blobs,
    clients,
    demand,
    dense,
    gauges,
    glyphs,
    letters,
    replay,
    scaled,
)


class Sizes(System):
    """A claim's size from five columns."""

    def __init__(self) -> None:
        super().__init__()
        self.net = dense(5, 48, 48, 1, act=nn.ReLU)

    def compute(self, batch: Any) -> Tensor:
        """Mean square."""
        return F.mse_loss(self.net(batch["x"]).squeeze(-1), batch["amount"])

    def configure_optimizers(self) -> Any:
        """As in a first lesson."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


@faulty("DATA-NONFINITE")
def standardised_by_a_spread_of_nought() -> Built:
    """A column is the same everywhere: (x - mean) / std."""
    data = clients()
    data["x"][:, 3] = 7.0
    data["x"] = (data["x"] - data["x"].mean(0)) / data["x"].std(0)
    return Sizes(), rows(**data)


@faulty("DATA-NONFINITE")
def gauge_that_was_off_now_and_then() -> Built:
    """A gap in a series was read as infinity."""
    x, y = gauges()
    x[torch.arange(0, len(x), 9), 5, 2] = float("inf")
    return Gauges(), loader(x, y)


@faulty("INPUT-SCALE")
def seconds_since_seventy_as_a_column() -> Built:
    """Unix time among standardised columns."""
    data = clients()
    data["x"][:, 2] = 1.7e9 + 3e7 * torch.rand(len(data["x"]), generator=generator())
    return Sizes(), rows(**data)


@faulty("INPUT-SCALE")
def normalised_without_dividing_by_255() -> Built:
    """``Normalize(0.1307, 0.3081)`` of bytes, into a net without norms."""
    x, y = glyphs()
    net = nn.Sequential(nn.Flatten(), *dense(196, 64, 64, 6, act=nn.ReLU))
    return Glyphs(net), loader((x.float() - 0.1307) / 0.3081, y)


@faulty("INPUT-SCALE", "INPUT-CONSTANT")
def scaled_by_the_tensor_and_by_hand() -> Built:
    """``ToTensor`` and again by hand."""
    x, y = glyphs()
    net = nn.Sequential(nn.Flatten(), *dense(196, 64, 64, 6, act=nn.ReLU))
    return Glyphs(net), loader(x.float() / 255 / 255, y)


@faulty("TARGET-SCALE", "INPUT-SCALE")
def payments_in_cents() -> Built:
    """Targets of some millions, mean square."""
    data = clients()
    data["amount"] = (4e6 + 1.5e6 * data["amount"]).round()
    return Sizes(), rows(**data)


@faulty("INPUT-CONSTANT")
def pictures_that_could_not_be_read() -> Built:
    """``except OSError: return torch.zeros(...)``: the folder is wrong."""
    _, y = glyphs()
    return Glyphs(), DataLoader(Made(lambda k: (torch.zeros(1, 14, 14), y[k])), 32, shuffle=True)


@faulty("SORTED")
def one_folder_after_another() -> Built:
    """As ``ImageFolder`` lists them; nobody shuffles."""
    x, y = glyphs()
    order = y.argsort()
    return Glyphs(), in_order(scaled(x)[order], y[order])


@faulty("ONE-LABEL")
def claims_cut_to_integers() -> Built:
    """Probabilities as ``long``: all nought."""
    data = clients()
    data["claim"] = (0.98 * torch.sigmoid(data["x"][:, 0])).long().float()
    return Claims(), rows(**data)


@faulty("IMBALANCE")
def claims_once_in_two_hundred() -> Built:
    """No weights, no sampler."""
    data = clients(2400)
    keep = (data["claim"] == 0) | (torch.arange(2400) % 120 == 0)
    return Claims(), rows(**{name: column[keep] for name, column in data.items()})


@faulty("LABEL-RANGE")
def classes_counted_from_one() -> Built:
    """Six classes, 1 to 6."""
    x, y = glyphs()
    return Glyphs(), loader(scaled(x), y + 1)


@faulty("LABEL-RANGE")
def masks_as_bytes_of_a_png() -> Built:
    """Nought and 255 into the binary cross entropy."""
    data = blobs()
    return Masks(), rows(image=data["image"], mask=255 * data["mask"])


@faulty("LABEL-RANGE")
def far_pairs_as_nought() -> Built:
    """``CosineEmbeddingLoss`` wants 1 and -1; a pair of 0 costs nothing."""

    class Cosine(System):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.criterion = dense(4, 32, 16), nn.CosineEmbeddingLoss(0.2)

        def compute(self, batch: Any) -> Tensor:
            a, b, same = batch
            return self.criterion(self.encoder(a.mean(1)), self.encoder(b.mean(1)), same)

    x, y = gauges()
    return Cosine(), loader(x[:240], x[240:], (y[:240] == y[240:]).float())


@faulty("LABEL-RANGE")
def soft_margins_of_nought_and_one() -> Built:
    """``SoftMarginLoss`` of targets that are 0 and 1."""

    class Margin(Claims):
        def compute(self, batch: Any) -> Tensor:
            return F.soft_margin_loss(self(batch).squeeze(-1), batch["claim"])

    return Margin(), rows(**clients())


@faulty("IGNORED")
def mask_of_labels_turned_round() -> Built:
    """Words are -100, filling is not; most sentences are full."""
    data = letters()
    ids, mask = data["input_ids"], data["attention_mask"]
    mask = torch.ones_like(mask)
    labels = ids.masked_fill(mask == 1, -100)
    return Writer(), rows(input_ids=ids, attention_mask=mask, labels=labels)


@faulty("IGNORED")
def no_label_at_all_for_tags() -> Built:
    """Word pieces were aligned with the wrong offsets: all -100."""
    data = tagged()
    data["tags"] = torch.full_like(data["tags"], -100)
    return Tagger(), rows(**data)


@faulty("PADDING-COUNTS")
def filling_as_words_to_foretell() -> Built:
    """``labels = input_ids.clone()``."""
    data = letters()
    short = data["attention_mask"] * (torch.arange(16) < 9)
    ids = data["input_ids"] * short
    return Writer(), rows(input_ids=ids, attention_mask=short, labels=ids)


@faulty("PADDING-COUNTS")
def tags_of_filling_are_a_class() -> Built:
    """Filled with tag 0, nothing is ignored."""
    data = tagged()
    data["lengths"] = data["lengths"] // 2
    there = torch.arange(16) < data["lengths"][:, None]
    data["ids"], data["tags"] = data["ids"] * there, data["tags"].clamp_min(0) * there
    return Tagger(), rows(**data)


@faulty("DUPLICATES")
def index_that_is_forgotten() -> Built:
    """``self.x[0]`` where ``self.x[index]`` was meant."""
    x, y = glyphs()
    return Glyphs(), DataLoader(Made(lambda k: (scaled(x[:1])[0], y[0])), 32, shuffle=True)


@faulty("DUPLICATES")
def eight_pictures_again_and_again() -> Built:
    """``index % 8`` was left from a trial."""
    x, y = glyphs()
    return Glyphs(), DataLoader(Made(lambda k: (scaled(x)[k % 8], y[k % 8])), 32, shuffle=True)


@faulty("TARGET-IS-INPUT")
def size_is_among_its_columns() -> Built:
    """The table was not cut."""
    data = clients()
    data["x"][:, 4] = data["amount"]
    return Sizes(), rows(**data)


@faulty("TARGET-IS-INPUT")
def future_window_begins_too_early() -> Built:
    """What comes is cut from what was."""
    past, _ = demand()
    return Patches(), loader(past, past[:, -8:])


@faulty("BATCHNORM-BATCH")
def boxes_one_at_a_time() -> Built:
    """A batch of one for memory's sake, batch norms everywhere."""
    data = blobs()
    module = Boxes()
    module.neck.enter[1], module.neck.deep[1] = nn.BatchNorm2d(16), nn.BatchNorm2d(32)
    samples = [(image, {"boxes": box[None]}) for image, box in zip(data["image"], data["box"], strict=True)]
    return module, batches(samples, 1, collate_fn=lambda pairs: tuple(zip(*pairs, strict=True)))


@faulty("NO-SIGNAL", "CANNOT-OVERFIT")
def labels_shuffled_and_pictures_not() -> Built:
    """``train_test_split`` was called twice, once for each."""
    x, y = glyphs()
    return Glyphs(), loader(scaled(x), y[torch.randperm(len(y), generator=generator())])


@faulty("NO-SIGNAL")
def columns_of_another_table() -> Built:
    """Joined by position after one was sorted by its size."""
    data = clients()
    data["claim"] = data["claim"][data["amount"].argsort()[torch.randperm(960, generator=generator())]]
    data["amount"] = data["amount"][torch.randperm(960, generator=generator(1))]
    return Sizes(), rows(**data)


@faulty("TARGET-SCALE")
def rewards_in_points() -> Built:
    """Thousands of points, never scaled; plain squares and SGD."""

    class Points(Values):
        def compute(self, batch: Any) -> Tensor:
            with torch.no_grad():
                goal = self.goal(batch)
            return F.mse_loss(self.q(batch["state"]).gather(1, batch["action"][:, None])[:, 0], goal)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.q.parameters(), 0.01)

    data = replay()
    data["reward"] = 2000 + 900 * data["reward"]
    return Points(), rows(**data)
