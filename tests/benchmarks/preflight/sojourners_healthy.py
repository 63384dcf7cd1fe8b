"""The sixteenth round's healthy models of pictures: classes, masks, boxes, depth, clips, points, few examples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, WeightedRandomSampler, default_collate
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from tests.benchmarks.preflight.data import loader, rows
from tests.benchmarks.preflight.nomads_parts import Data, pretrained
from tests.benchmarks.preflight.parts import Built
from tests.benchmarks.preflight.register import healthy
from tests.benchmarks.preflight.sojourners_parts import (
    Hourglass,
    System,
    batches,
    blobs,
    clips,
    clouds,
    glyphs,
    scaled,
    small_net,
)


def drawings(**options: Any) -> DataLoader[Any]:
    """The glyphs, scaled."""
    x, y = glyphs()
    return loader(scaled(x), y, **options)


class Glyphs(System):
    """A classifier with metrics, as the template of a course has it."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net, self.criterion = net or small_net(), nn.CrossEntropyLoss()
        self.accuracy, self.f1 = MulticlassAccuracy(6), MulticlassF1Score(6)

    def forward(self, x: Tensor) -> Tensor:
        """Scores."""
        return self.net(x)

    def compute(self, batch: Any) -> Tensor:
        """Cross entropy."""
        x, y = batch
        return self.criterion(self(x), y)


@healthy
def classifier_that_logs_metrics_of_its_own() -> Built:
    """Accuracy and F1 are updated in the step; there is a validation loader."""

    class Measured(Glyphs):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            logits = self(x)
            loss = self.criterion(logits, y)
            self.accuracy(logits.softmax(-1), y)
            self.f1(logits.argmax(-1), y)
            self.log_dict({"loss": loss, "acc": self.accuracy, "f1": self.f1}, on_step=False, on_epoch=True)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val", self.compute(batch))

    x, y = glyphs()
    return Measured(), Data(loader(scaled(x[:480]), y[:480]), loader(scaled(x[480:]), y[480:], shuffle=False))


@healthy
def bytes_scaled_inside_the_net() -> Built:
    """The loader gives bytes; ``forward`` divides them. SGD with momentum and a cosine by the epoch."""

    class FromBytes(Glyphs):
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.float().div(127.5).sub(1))

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
            return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)]

    return FromBytes(), loader(*glyphs())


@healthy
def cutmix_in_the_collate() -> Built:
    """Half of each picture comes from another one; labels are shares."""

    def mix(samples: list[Any]) -> Any:
        x, y = default_collate(samples)
        order, shares = torch.randperm(len(x)), F.one_hot(y, 6).float()
        cut = int(torch.randint(3, 11, ()))
        x = torch.cat([x[..., :cut], x[order][..., cut:]], -1)
        return x, shares * cut / 14 + shares[order] * (1 - cut / 14)

    x, y = glyphs()
    return Glyphs(), batches(list(zip(scaled(x), y, strict=True)), collate_fn=mix)


@healthy
def rare_classes_drawn_more_often() -> Built:
    """Nine tenths are of two classes; a sampler evens them out."""
    x, y = glyphs(1200)
    keep = (y < 2) | (torch.arange(len(y)) % 8 == 0)
    x, y = scaled(x[keep]), y[keep]
    weight = 1 / torch.bincount(y).float()[y]
    samples = list(zip(x, y, strict=True))
    return Glyphs(), batches(samples, shuffle=False, sampler=WeightedRandomSampler(weight.tolist(), len(y)))


@healthy
def compiled_net_with_brain_floats() -> Built:
    """The net is compiled (eagerly), and runs in bfloat16."""

    class Compiled(Glyphs):
        def __init__(self) -> None:
            super().__init__(torch.compile(small_net(), backend="eager"))  # type: ignore[arg-type]

        def compute(self, batch: Any) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                logits = self(batch[0])
            return self.criterion(logits.float(), batch[1])

    return Compiled(), drawings()


class Mixer(nn.Module):
    """Patches as tokens, mixed over places and then over channels."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, 2)
        self.blocks = nn.ModuleList(nn.ModuleDict(self._parts(width)) for _ in range(3))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 6)

    @staticmethod
    def _parts(width: int) -> dict[str, nn.Module]:
        places, channels = (nn.Sequential(nn.Linear(n, 64), nn.GELU(), nn.Linear(64, n)) for n in (49, width))
        return {"n1": nn.LayerNorm(width), "places": places, "n2": nn.LayerNorm(width), "channels": channels}

    def _block(self, x: Tensor, block: Any) -> Tensor:
        x = x + block["places"](block["n1"](x).mT).mT
        return x + block["channels"](block["n2"](x))

    def forward(self, x: Tensor) -> Tensor:
        """Scores; each block is computed again on the way back."""
        x = self.patches(x).flatten(2).mT
        for block in self.blocks:
            x = checkpoint(self._block, x, block, use_reentrant=False)
        return self.head(self.norm(x.mean(1)))


@healthy
def mixer_that_computes_its_blocks_again() -> Built:
    """Gradient checkpointing; labels smoothed."""
    module = Glyphs(Mixer())
    module.criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    return module, drawings()


@healthy
def sizes_found_by_the_first_batch() -> Built:
    """Lazy layers."""
    net = nn.Sequential(nn.LazyConv2d(16, 3, padding=1), nn.LazyBatchNorm2d(), nn.ReLU(), nn.MaxPool2d(4))
    return Glyphs(nn.Sequential(net, nn.Flatten(), nn.LazyLinear(6))), drawings()


class LowRank(nn.Module):
    """A frozen linear layer, and a product of two thin ones that begins at nought."""

    def __init__(self, layer: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.lora_a = nn.Parameter(torch.randn(rank, layer.in_features) / layer.in_features**0.5)
        self.lora_b = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """What was, and what is learnt."""
        return self.layer(x) + 2.0 * (x @ self.lora_a.T @ self.lora_b.T)


@healthy
def low_rank_layers_in_a_frozen_net() -> Built:
    """All is frozen but the adapters; the classes have changed places since."""
    x, y = glyphs()
    net = nn.Sequential(nn.Flatten(), nn.Linear(196, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 6))
    pretrained(net, scaled(x), y, steps=60)
    for name in ("1", "3", "5"):
        setattr(net, name, LowRank(getattr(net, name)))
    module = Glyphs(net)
    module.learning_rate = 5e-3
    return module, loader(scaled(x), (y + 1) % 6)


class Masks(System):
    """One class of pixels: binary cross entropy and one minus Dice, dict batches."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Hourglass()

    def forward(self, image: Tensor) -> Tensor:
        """A logit for each pixel."""
        return self.model(image).squeeze(1)

    @staticmethod
    def dice(p: Tensor, t: Tensor) -> Tensor:
        """One minus the overlap."""
        return 1 - (2 * (p * t).sum((1, 2)) + 1) / (p.sum((1, 2)) + t.sum((1, 2)) + 1)

    def compute(self, batch: Any) -> Tensor:
        """Both, evenly."""
        logits, mask = self(batch["image"]), batch["mask"].float()
        return F.binary_cross_entropy_with_logits(logits, mask) + self.dice(logits.sigmoid(), mask).mean()


@healthy
def masks_by_overlap_and_entropy() -> Built:
    """The thing covers about a tenth of each picture."""
    data = blobs()
    return Masks(), rows(image=data["image"], mask=data["mask"])


@healthy
def masks_with_a_border_that_does_not_count() -> Built:
    """Two classes, focal, the frame of each picture is 255."""

    class Focal(Masks):
        def __init__(self) -> None:
            super().__init__()
            self.model = Hourglass(2)

        def compute(self, batch: Any) -> Tensor:
            each = F.cross_entropy(self.model(batch["image"]), batch["mask"], reduction="none", ignore_index=255)
            valid = batch["mask"] != 255
            return (((1 - (-each).exp()) ** 2) * each)[valid].mean()

    data = blobs()
    mask = data["mask"].clone()
    mask[:, 0], mask[:, -1] = 255, 255
    return Focal(), rows(image=data["image"], mask=mask)


class Boxes(System):
    """A heat map of centres, and a size; targets are a list of dicts, as torchvision's."""

    def __init__(self) -> None:
        super().__init__()
        self.neck, self.heat, self.size = Hourglass(16), nn.Conv2d(16, 1, 1), nn.Conv2d(16, 2, 1)
        nn.init.constant_(self.heat.bias, -3.0)  # type: ignore[arg-type]

    @staticmethod
    def peaks(targets: list[dict[str, Tensor]]) -> Tensor:
        """A bump at each centre."""
        at = torch.stack([t["boxes"][0, :2] for t in targets]) * 16
        r, c = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
        near = (r - at[:, 0, None, None].floor()) ** 2 + (c - at[:, 1, None, None].floor()) ** 2
        return torch.exp(-near / 2)

    def compute(self, batch: Any) -> Tensor:
        """Focal over the map (Zhou et al. 2019, eq. 1) and L1 at the centres."""
        images, targets = batch
        x = F.silu(self.neck(torch.stack(images)))
        heat, goal = self.heat(x)[:, 0].sigmoid().clamp(1e-4, 1 - 1e-4), self.peaks(targets)
        hit = goal == 1
        lost = -torch.where(hit, (1 - heat) ** 2 * heat.log(), (1 - goal) ** 4 * heat**2 * (1 - heat).log())
        sizes = torch.stack([t["boxes"][0, 2:] for t in targets])
        at = self.size(x).permute(0, 2, 3, 1)[hit]
        return lost.sum() / hit.sum() + F.l1_loss(at, sizes)


@healthy
def centres_and_sizes_from_lists() -> Built:
    """Pictures and targets are tuples."""
    data = blobs()
    samples = [
        (image, {"boxes": box[None], "labels": torch.ones(1, dtype=torch.long)})
        for image, box in zip(data["image"], data["box"], strict=True)
    ]
    return Boxes(), batches(samples, 16, collate_fn=lambda pairs: tuple(zip(*pairs, strict=True)))


@healthy
def depth_up_to_a_scale() -> Built:
    """The scale-invariant loss of Eigen et al. 2014, eq. 4, of a log depth."""

    class Depth(System):
        def __init__(self) -> None:
            super().__init__()
            self.net = Hourglass()

        def compute(self, batch: Any) -> Tensor:
            d = self.net(batch["image"])[:, 0] - batch["depth"].log()
            return (d.square().mean((1, 2)) - 0.5 * d.mean((1, 2)).square()).mean()

    data = blobs()
    return Depth(), rows(image=data["image"], depth=data["depth"])


@healthy
def pictures_made_sharper() -> Built:
    """From 8 to 16 pixels; what is learnt is added to the bicubic one. Charbonnier."""

    class Sharper(System):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(3, 24, 3, 1, 1), nn.PReLU(), nn.Conv2d(24, 12, 3, 1, 1), nn.PixelShuffle(2))
            nn.init.trunc_normal_(self.net[2].weight, std=0.01)

        def forward(self, low: Tensor) -> Tensor:
            return F.interpolate(low, scale_factor=2, mode="bicubic") + self.net(low)

        def compute(self, batch: Any) -> Tensor:
            return ((self(batch["low"]) - batch["high"]).square() + 1e-6).sqrt().mean()

    high = blobs()["image"]
    return Sharper(), rows(low=F.avg_pool2d(high, 2), high=high)


@healthy
def clips_by_three_dimensions() -> Built:
    """Convolutions over time and place."""
    conv = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d((1, 2, 2)))
    head = nn.Sequential(nn.Conv3d(8, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d((2, 2, 2)), nn.Flatten())
    return Glyphs(nn.Sequential(conv, head, nn.Linear(128, 4))), loader(*clips(), size=20)


class Points(nn.Module):
    """Each point alone, then the largest of all."""

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.Sequential(nn.Conv1d(3, 32, 1), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 64, 1))
        self.head = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Scores."""
        return self.head(self.each(x.transpose(1, 2)).amax(-1))


@healthy
def points_and_the_largest_of_each() -> Built:
    """Moved and stretched at random as they are read."""

    def read(samples: list[Any]) -> Any:
        x, y = default_collate(samples)
        return x * (0.8 + 0.4 * torch.rand(len(x), 1, 1)) + 0.05 * torch.randn(len(x), 1, 3), y

    return Glyphs(Points()), batches(list(zip(*clouds(), strict=True)), collate_fn=read)
