"""The fifteenth round's healthy models of pictures and shapes: new nets, trained ones, pairs, and without labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from tests.benchmarks.preflight.data import generator, loader
from tests.benchmarks.preflight.nomads_parts import Data, pretrained, resnet
from tests.benchmarks.preflight.parts import Built
from tests.benchmarks.preflight.register import healthy
from tests.benchmarks.preflight.strays_parts import (
    Segmenter,
    Task,
    Vit,
    backbone,
    mlp,
    normalised,
    photos,
    scenes,
    shapes,
)


def stripes(**options: Any) -> DataLoader[Any]:
    """The photographs, normalised."""
    x, y = photos()
    return loader(normalised(x), y, **options)


@healthy
def transformer_of_patches_with_mixup() -> Built:
    """Pictures and labels are mixed in the step; labels are smoothed."""

    class Mixed(Task):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.criterion = Vit(), nn.CrossEntropyLoss(label_smoothing=0.1)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def loss(self, batch: Any) -> Tensor:
            x, y = batch
            share, other = float(torch.distributions.Beta(0.4, 0.4).sample()), torch.randperm(len(x))
            output = self(share * x + (1 - share) * x[other])
            return share * self.criterion(output, y) + (1 - share) * self.criterion(output, y[other])

    return Mixed(), stripes()


@healthy
def residual_net_with_one_cycle() -> Built:
    """SGD with Nesterov's momentum up to 0.05, the last norms of the blocks at zero, one cycle by the step."""

    class Residual(Task):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(3, 1, 1), resnet(5))
            for name, module in self.net.named_modules():
                if name.endswith("norm2"):
                    nn.init.zeros_(module.weight)  # type: ignore[arg-type]

        def loss(self, batch: Any) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
            cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=self.trainer.estimated_stepping_batches)
            return [optimizer], [{"scheduler": cycle, "interval": "step"}]

    return Residual(), stripes()


@healthy
def features_of_a_trained_net_without_gradients() -> Built:
    """The trained body is in ``eval()`` under ``no_grad``; its head is new."""
    x, y = photos()
    body = pretrained(nn.Sequential(backbone(), nn.Linear(32, 5)), normalised(x), y, steps=60)[0]  # type: ignore[index]

    class Probe(Task):
        def __init__(self) -> None:
            super().__init__()
            self.feature_extractor, self.classifier = body, nn.Linear(32, 5)
            self.feature_extractor.eval()

        def forward(self, x: Tensor) -> Tensor:
            self.feature_extractor.eval()
            with torch.no_grad():
                features = self.feature_extractor(x)
            return self.classifier(features)

        def loss(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

    return Probe(), loader(normalised(x), y)


@healthy
def body_slowly_and_head_quickly() -> Built:
    """Two groups, the trained body at a hundredth of the head's rate, its norms frozen in ``eval()``."""
    x, y = photos()
    body = pretrained(nn.Sequential(backbone(), nn.Linear(32, 5)), normalised(x), y, steps=60)[0]  # type: ignore[index]

    class FineTuned(Task):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = body, mlp(32, 32, 5)

        def train(self, mode: bool = True) -> Any:
            super().train(mode)
            for module in self.body.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval().requires_grad_(False)
            return self

        def loss(self, batch: Any) -> Tensor:
            return F.cross_entropy(self.head(self.body(batch[0])), batch[1])

        def configure_optimizers(self) -> Any:
            body = [p for p in self.body.parameters() if p.requires_grad]
            return torch.optim.AdamW([{"params": body, "lr": 1e-5}, {"params": self.head.parameters()}], lr=1e-3)

    return FineTuned(), loader(normalised(x), y)


@healthy
def rare_class_by_a_sampler() -> Built:
    """One of twenty is of the second class; a sampler shows both as often."""
    x, y = photos()
    rare = (y == 0) & (torch.rand(len(y), generator=generator()) < 0.25)
    weights = torch.where(rare, 1 / rare.float().mean(), 1 / (~rare).float().mean())
    keep = rare | (y != 0)

    class Rare(Task):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(backbone(), nn.Linear(32, 1))

        def loss(self, batch: Any) -> Tensor:
            return F.binary_cross_entropy_with_logits(self.net(batch[0]).squeeze(1), batch[1].float())

    data = TensorDataset(normalised(x)[keep], rare[keep].long())
    return Rare(), DataLoader(data, 32, sampler=WeightedRandomSampler(weights[keep].tolist(), 512))


@healthy
def overlap_and_entropy_of_masks() -> Built:
    """A Dice loss of a softmax plus cross entropy of the logits, one picture in eight validated."""
    x, y = scenes()

    class Both(Task):
        def __init__(self) -> None:
            super().__init__()
            self.model = Segmenter()

        def loss(self, batch: Any) -> Tensor:
            x, y = batch
            logits = self.model(x)
            p, t = logits.softmax(1), F.one_hot(y, 3).permute(0, 3, 1, 2).float()
            dice = (2 * (p * t).sum((0, 2, 3)) + 1) / ((p + t).sum((0, 2, 3)) + 1)
            return F.cross_entropy(logits, y) + 1 - dice.mean()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val/loss", self.loss(batch))

    return Both(), Data(loader(x[:280], y[:280], size=16), loader(x[280:], y[280:], size=16, shuffle=False))


@healthy
def border_pixels_are_left_out() -> Built:
    """255 stands at the borders, as in Pascal VOC, and is ``ignore_index``; an auxiliary head counts 0.4."""
    x, y = scenes()
    edge = F.max_pool2d(y[:, None].float(), 3, 1, 1)[:, 0].long() != y
    y = y.masked_fill(edge, 255)

    class Aux(Task):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.aux = Segmenter(), nn.Conv2d(32, 3, 1)
            self.criterion = nn.CrossEntropyLoss(ignore_index=255)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            coarse = self.model.down(self.model.inc(x))
            return {"out": self.model(x), "aux": F.interpolate(self.aux(coarse), scale_factor=2, mode="bilinear")}

        def loss(self, batch: Any) -> Tensor:
            output = self(batch[0])
            return self.criterion(output["out"], batch[1]) + 0.4 * self.criterion(output["aux"], batch[1])

    return Aux(), loader(x, y, size=16)


@healthy
def focal_loss_with_a_prior() -> Built:
    """Few pixels are bright; the last bias starts at the log-odds of one per cent, as RetinaNet's."""
    x, y = scenes()

    class Focal(Task):
        def __init__(self) -> None:
            super().__init__()
            self.model = Segmenter(1)
            nn.init.constant_(self.model.outc.bias, -4.595)  # type: ignore[arg-type]

        def loss(self, batch: Any) -> Tensor:
            x, y = batch
            logits, t = self.model(x).squeeze(1), (y == 1).float()
            plain = F.binary_cross_entropy_with_logits(logits, t, reduction="none")
            p = torch.sigmoid(logits)
            missed = p * (1 - t) + (1 - p) * t
            return ((0.25 * t + 0.75 * (1 - t)) * missed**2 * plain).sum() / t.sum().clamp(min=1)

    return Focal(), loader(x, y, size=16)


@healthy
def clouds_with_a_transform_at_the_identity() -> Built:
    """PointNet: the net that turns the points starts with zero weights and the identity as its bias."""

    class Turn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.points, self.fc = nn.Sequential(nn.Conv1d(3, 32, 1), nn.ReLU()), nn.Linear(32, 9)
            nn.init.zeros_(self.fc.weight)
            self.fc.bias.data.copy_(torch.eye(3).flatten())

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.points(x).amax(2)).view(-1, 3, 3) @ x

    class PointNet(Task):
        def __init__(self) -> None:
            super().__init__()
            self.turn = Turn()
            self.points = nn.Sequential(nn.Conv1d(3, 32, 1), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 64, 1), nn.ReLU())
            self.head = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 3))

        def loss(self, batch: Any) -> Tensor:
            x = batch[0].transpose(1, 2)
            return F.nll_loss(F.log_softmax(self.head(self.points(self.turn(x)).amax(2)), dim=1), batch[1])

    return PointNet(), loader(*shapes())


@healthy
def losses_in_a_dict_as_of_torchvision() -> Built:
    """The model takes pictures and targets (lists), and gives a dict of losses."""
    x, y = scenes()
    where = torch.stack([(y == 1).float().flatten(1).argmax(1) // 16, (y == 1).float().flatten(1).argmax(1) % 16], 1)
    targets = [{"boxes": (w / 16)[None].float(), "labels": torch.ones(1, dtype=torch.long)} for w in where]

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())
            self.box, self.score = nn.Linear(32 * 64, 2), nn.Conv2d(32, 1, 1)

        def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
            features = self.backbone(torch.stack(images))
            aim = torch.cat([t["boxes"] for t in targets])
            cell = (aim[:, 0] * 8).long() * 8 + (aim[:, 1] * 8).long()
            return {
                "loss_box_reg": F.smooth_l1_loss(self.box(features.flatten(1)), aim),
                "loss_objectness": F.cross_entropy(self.score(features).flatten(1), cell),
            }

    class Detection(Task):
        def __init__(self) -> None:
            super().__init__()
            self.model = Detector()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            images, targets = batch
            losses = self.model(images, targets)
            self.log_dict(losses)
            return {"loss": sum(losses.values())}

    data = list(zip(x, targets, strict=True))
    return Detection(), DataLoader(data, 16, shuffle=True, collate_fn=lambda rows: tuple(zip(*rows, strict=True)))  # type: ignore[arg-type]


@healthy
def taught_by_a_trained_net() -> Built:
    """A small net learns what a larger one says at a temperature of four, and the labels."""
    x, y = photos()
    big = pretrained(nn.Sequential(backbone(64), nn.Linear(64, 5)), normalised(x), y, steps=60)

    class Distilled(Task):
        def __init__(self) -> None:
            super().__init__()
            self.teacher, self.student = big.eval().requires_grad_(False), nn.Sequential(backbone(16), nn.Linear(16, 5))

        def on_train_epoch_start(self) -> None:
            self.teacher.eval()

        def loss(self, batch: Any) -> Tensor:
            x, y = batch
            with torch.no_grad():
                soft = F.softmax(self.teacher(x) / 4, dim=1)
            scores = self.student(x)
            kl = F.kl_div(F.log_softmax(scores / 4, dim=1), soft, reduction="batchmean") * 16
            return 0.7 * kl + 0.3 * F.cross_entropy(scores, y)

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.student.parameters(), lr=2e-3)

    return Distilled(), loader(normalised(x), y)
