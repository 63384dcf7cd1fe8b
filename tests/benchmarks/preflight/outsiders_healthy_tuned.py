"""The sixth round's healthy cases that are fine-tuned, ranked, or of odd parts."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.benchmarks.preflight.data import chains, clusters, curve, generator, loader, pictures, rows, waves
from tests.benchmarks.preflight.newcomers_parts import Module
from tests.benchmarks.preflight.outsiders_parts import (
    Lit,
    LowRank,
    Seq2Seq,
    captions,
    masks,
)
from tests.benchmarks.preflight.parts import Attention, Built, convnet, perceptron
from tests.benchmarks.preflight.register import healthy


@healthy
def adapters_and_a_new_head() -> Built:
    """LoRA in a frozen reader; the head is trained in full, and only what is trained is in the optimizer."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.inputs, self.blocks = nn.Linear(3, 24), nn.ModuleList(Attention(24, causal=False) for _ in range(2))
            self.requires_grad_(False)
            for block in self.blocks:
                block.qkv = LowRank(block.qkv)
            self.head = nn.Linear(24, 4)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            h = self.inputs(batch[0])
            for block in self.blocks:
                h = block(h)
            return F.cross_entropy(self.head(h.mean(1)), batch[1])

    return Model(), loader(*waves())


@healthy
def linear_probe() -> Built:
    """A frozen backbone in eval mode under no_grad, and one linear layer."""

    class Probe(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = convnet(64, norm=True).requires_grad_(False).eval()
            self.head = nn.Linear(64, 4)

        def train(self, mode: bool = True) -> Probe:
            super().train(mode)
            self.backbone.eval()
            return self

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            with torch.no_grad():
                seen = self.backbone(batch[0])
            return F.cross_entropy(self.head(seen), batch[1])

    return Probe(), loader(*pictures())


@healthy
def head_that_begins_at_nothing() -> Built:
    """A zero head, and convolutions that begin at zero beside a frozen net (ControlNet, Zhang et al. 2023)."""

    class Control(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.frozen = nn.Conv2d(1, 8, 3, padding=1).requires_grad_(False)
            self.hint, self.zero, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 1, 1)
            for p in self.zero.parameters():
                nn.init.zeros_(p)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            h = F.relu(self.frozen(batch[0]) + self.zero(F.relu(self.hint(batch[0]))))
            return F.binary_cross_entropy_with_logits(self.head(h)[:, 0], batch[1])

    return Control(), loader(*masks(), size=16)


@healthy
def batch_of_a_tokenizer() -> Built:
    """A UserDict, as Hugging Face's BatchEncoding is, with a mask that leaves padding out of the mean."""

    class Encoding(UserDict):  # type: ignore[type-arg]
        def to(self, device: Any, non_blocking: bool = False) -> Encoding:
            return Encoding({name: value.to(device) for name, value in self.items()})

    def collate(samples: list[tuple[Tensor, Tensor]]) -> Encoding:
        words, labels = (torch.stack(part) for part in zip(*samples, strict=True))
        return Encoding({"input_ids": words, "attention_mask": (words != 0).long(), "labels": labels})

    class Reader(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.block, self.head = (
                nn.Embedding(25, 24, padding_idx=0),
                Attention(24, causal=False),
                nn.Linear(24, 2),
            )

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            counted = batch["attention_mask"][..., None]
            h = self.block(self.table(batch["input_ids"])) * counted
            return F.cross_entropy(self.head(h.sum(1) / counted.sum(1)), batch["labels"])

    words = chains() + 1
    y = (words.float().mean(1) > words.float().mean()).long()
    words = words.masked_fill(torch.arange(17) >= torch.randint(5, 17, (480, 1), generator=generator()), 0)
    data = list(zip(words, y, strict=True))
    return Reader(), DataLoader(data, batch_size=16, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]


@healthy
def stars_from_one_to_five() -> Built:
    """Matrix factorisation of raw ratings; the bias starts at their mean."""

    class Ratings(Lit):
        lr = 5e-3

        def __init__(self) -> None:
            super().__init__()
            self.users, self.items = nn.Embedding(60, 8), nn.Embedding(80, 8)
            self.of_user, self.of_item, self.all = nn.Embedding(60, 1), nn.Embedding(80, 1), nn.Parameter(torch.tensor(3.4))
            for table in (self.users, self.items, self.of_user, self.of_item):
                nn.init.normal_(table.weight, std=0.05)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            user, item, stars = batch
            alike = (self.users(user) * self.items(item)).sum(1)
            return F.mse_loss(self.all + self.of_user(user)[:, 0] + self.of_item(item)[:, 0] + alike, stars)

    g = generator()
    user, item = torch.randint(0, 60, (1920,), generator=g), torch.randint(0, 80, (1920,), generator=g)
    liked = torch.randn(60, generator=g)[user] + torch.randn(80, generator=g)[item]
    return Ratings(), loader(user, item, (3.4 + liked).round().clamp(1, 5), size=64)


@healthy
def claims_by_deviance() -> Built:
    """Tweedie's deviance by hand: most claims are 0, the others are large; the net tells their logarithm."""

    class Claims(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(6, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, cost = batch
            told = self.net(x).squeeze(-1)
            power = 1.5
            return (-cost * torch.exp((1 - power) * told) / (1 - power) + torch.exp((2 - power) * told) / (2 - power)).mean()

    x, y = curve()
    cost = torch.where(y > 0.5, torch.exp(y), torch.zeros(()))
    return Claims(), loader(x, cost)


@healthy
def points_without_order() -> Built:
    """PointNet (Qi et al. 2017): the same layers for each point, and the largest of each feature."""

    class PointNet(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.turn, self.point = (
                nn.Linear(3, 9),
                nn.Sequential(nn.Conv1d(3, 32, 1), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 64, 1)),
            )
            self.head = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 3))
            nn.init.zeros_(self.turn.weight)
            self.turn.bias.data.copy_(torch.eye(3).flatten())

        def forward(self, points: Tensor) -> Tensor:
            turned = points @ self.turn(points.mean(1)).view(-1, 3, 3)
            return self.head(self.point(turned.transpose(1, 2)).amax(-1))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

    g = generator()
    kind = torch.randint(0, 3, (480,), generator=g)
    shape = torch.tensor([[1.0, 1.0, 0.2], [1.0, 0.3, 0.3], [0.7, 0.7, 0.7]])
    return PointNet(), loader(torch.randn(480, 40, 3, generator=g) * shape[kind][:, None], kind, size=24)


@healthy
def links_told_from_no_links() -> Built:
    """A graph's own edges against as many drawn at random, the whole graph at each step."""

    class Links(Lit):
        lr = 5e-3

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(12, 32), nn.Linear(32, 16)

        def embed(self, x: Tensor, edges: Tensor) -> Tensor:
            for layer in (self.first, self.second):
                near = torch.zeros_like(x).index_add(0, edges[1], x[edges[0]])
                x = layer(near / torch.bincount(edges[1], minlength=len(x)).clamp_min(1)[:, None] + x)
                x = F.relu(x) if layer is self.first else x
            return x

        def training_step(self, graph: dict[str, Tensor], batch_idx: int) -> Tensor:
            h = self.embed(graph["x"], graph["edge_index"])
            none = torch.randint(0, len(h), graph["edge_index"].shape, device=h.device)
            scores = [(h[ends[0]] * h[ends[1]]).sum(-1) for ends in (graph["edge_index"], none)]
            truth = torch.cat([torch.ones_like(scores[0]), torch.zeros_like(scores[1])])
            return F.binary_cross_entropy_with_logits(torch.cat(scores), truth)

    x, y = clusters(200)
    ends = torch.randint(0, 200, (2, 3000), generator=generator())
    graph = {"x": x, "edge_index": ends[:, y[ends[0]] == y[ends[1]]]}
    return Links(), DataLoader([graph], batch_size=None)  # type: ignore[arg-type]


@healthy
def sharper_by_shuffled_pixels() -> Built:
    """Super-resolution beside a resized picture (PixelShuffle, Shi et al. 2016), by Charbonnier's loss."""

    class Sharper(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 3, padding=1), nn.PixelShuffle(2)
            )

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            sharp = batch[1][:, None]
            small = F.avg_pool2d(sharp, 2)
            told = self.net(small) + F.interpolate(small, scale_factor=2, mode="bicubic")
            return torch.sqrt((told - sharp).square() + 1e-6).mean()

    return Sharper(), loader(*masks(), size=16)


@healthy
def lazy_layers_and_no_forward() -> Built:
    """Widths are known after the first batch; the data come from a datamodule."""

    class Lazy(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.LazyConv2d(8, 3, padding=1), nn.LazyBatchNorm2d(), nn.LazyLinear(4)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            h = F.max_pool2d(F.relu(self.norm(self.conv(batch[0]))), 3)
            return F.cross_entropy(self.head(h.flatten(1)), batch[1])

    return Lazy(), Module(lambda: torch.utils.data.TensorDataset(*pictures()))


@healthy
def cycles_by_the_step() -> Built:
    """OneCycle over the steps that the trainer will do, and a clip of the norm."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.model = Seq2Seq()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.model(batch[0], batch[1][:, :-1]).mT, batch[1][:, 1:], ignore_index=0)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
            steps = int(self.trainer.estimated_stepping_batches)
            cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    return Model(), loader(*captions()), {"trainer": L.Trainer(max_epochs=20, logger=False, gradient_clip_val=1.0)}


@healthy
def hours_as_indices() -> Built:
    """Raw hours and weekdays go through tables; one number beside them is standardised; rides are told in logarithms."""

    class Rides(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.hour, self.day, self.body = nn.Embedding(24, 6), nn.Embedding(7, 3), perceptron(10, 1)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            h = torch.cat([self.hour(batch["hour"]), self.day(batch["day"]), batch["warmth"][:, None]], 1)
            return F.mse_loss(self.body(h).squeeze(-1), torch.log1p(batch["rides"]))

    g = generator()
    hour, day = torch.randint(0, 24, (960,), generator=g), torch.randint(0, 7, (960,), generator=g)
    warmth = torch.randn(960, generator=g)
    rides = torch.poisson(torch.exp(3 + torch.sin(hour / 3.8) + 0.3 * warmth - 0.4 * (day > 4)), generator=g)
    return Rides(), rows(hour=hour, day=day, warmth=warmth, rides=rides)
