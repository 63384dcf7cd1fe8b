"""The fourteenth round's healthy cases of pictures, and of how data come."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, WeightedRandomSampler

import lightning_adam as la
from tests.benchmarks.preflight.data import clusters, curve, generator, loader, pictures, rows
from tests.benchmarks.preflight.drifters_parts import (
    Steps,
    dense,
    digits,
    lenet,
    of,
    run_of,
    wines,
)
from tests.benchmarks.preflight.nomads_parts import Data, Made, Stream, in_order, pretrained, resnet
from tests.benchmarks.preflight.outsiders_parts import ByHand, Lit, Unet, masks
from tests.benchmarks.preflight.parts import Built, Learner, perceptron
from tests.benchmarks.preflight.register import healthy


@healthy
def smoothed_and_weighted() -> Built:
    """Label smoothing and weights for the classes at once."""
    loss = nn.CrossEntropyLoss(weight=torch.linspace(0.5, 1.5, 10), label_smoothing=0.1)
    return Learner(lenet(), loss), loader(*digits())


@healthy
def log_softmax_before_cross_entropy() -> Built:
    """Twice is the same as once."""
    return Learner(lenet(last=nn.LogSoftmax(1)), F.cross_entropy), loader(*digits())


class Probe(Lit):
    """A linear layer behind a backbone that is frozen, in eval mode, and under ``no_grad``."""

    def __init__(self) -> None:
        super().__init__()
        x, y = pictures()
        net = pretrained(nn.Sequential(nn.Flatten(), nn.Linear(144, 48), nn.ReLU(), nn.Linear(48, 4)), x, y)
        self.backbone = nn.Sequential(*list(net)[:3]).requires_grad_(False).eval()  # type: ignore[call-overload]
        self.head = nn.Linear(48, 4)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Features, then the head."""
        x, y = batch
        self.backbone.eval()
        with torch.no_grad():
            features = self.backbone(x)
        return F.cross_entropy(self.head(features), y)


@healthy
def head_on_a_backbone_under_no_grad() -> Built:
    """Only the head is trained."""
    return Probe(), loader(*pictures())


@healthy
def tanh_for_minus_one_to_one() -> Built:
    """A tanh at the end, targets scaled into its range."""
    x, y = curve()
    return Learner(dense(6, 48, 48, 1, last=nn.Tanh()), lambda o, t: F.mse_loss(o[:, 0], t)), loader(x, y / y.abs().max())


class Bytes(Lit):
    """Pixels come as bytes; mean and deviation are buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(0.305))
        self.register_buffer("std", torch.tensor(0.376))
        self.net = lenet()

    def forward(self, x: Tensor) -> Tensor:
        """Normalised here."""
        return self.net((x.float() / 255 - self.mean) / self.std)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross entropy."""
        return F.cross_entropy(self(batch["image"]), batch["label"])


@healthy
def bytes_normalised_inside() -> Built:
    """The loader gives uint8, as torchvision's decoders do."""
    x, y = digits()
    return Bytes(), rows(image=(x * 255).to(torch.uint8), label=y)


@healthy
def batch_norm_first_on_raw_columns() -> Built:
    """A batch norm before the first layer takes care of the scales."""
    return Learner(nn.Sequential(nn.BatchNorm1d(13), *perceptron(13, 3)), F.cross_entropy), loader(*wines(), size=16)


@healthy
def batch_norm_in_batches_of_four() -> Built:
    """Small batches, SGD."""
    return Learner(resnet(4), F.cross_entropy, of(torch.optim.SGD, lr=0.01, momentum=0.9)), loader(*pictures(), size=4)


@healthy
def validation_data_in_order_of_class() -> Built:
    """Only the training data have to be shuffled."""
    x, y = digits()
    order = y[1200:].argsort()
    return Learner(resnet(), F.cross_entropy), Data(loader(x[:1200], y[:1200]), in_order(x[1200:][order], y[1200:][order]))


@healthy
def stream_with_a_buffer() -> Built:
    """An iterable dataset that draws what it yields."""

    def make() -> Any:
        g = torch.Generator().manual_seed(int(torch.randint(0, 2**31, (1,))))
        while True:
            x = torch.randn(5, generator=g)
            yield {"x": x, "y": torch.sin(2 * x[0]) + x[1] * x[2]}

    def loss(module: Any, batch: Any) -> Tensor:
        return F.mse_loss(module.net(batch["x"]).squeeze(-1), batch["y"])

    return Steps(loss, net=perceptron(5, 1)), DataLoader(Stream(make), batch_size=64), {"trainer": run_steps(2000)}


def run_steps(n: int) -> Any:
    """A trainer of so many steps."""
    return run_of(-1, max_steps=n)["trainer"]


class Lazy(Lit):
    """Built where Lightning wants it."""

    def configure_model(self) -> None:
        """Once."""
        if hasattr(self, "net"):
            return
        self.net = nn.Sequential(
            nn.LazyConv2d(8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(32), nn.ReLU(), nn.LazyLinear(10)
        )
        self.net(torch.zeros(1, 1, 8, 8))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross entropy."""
        return F.cross_entropy(self.net(batch[0]), batch[1])


@healthy
def lazy_layers_in_configure_model() -> Built:
    """The layers exist after ``configure_model``."""
    return Lazy(), loader(*digits())


@healthy
def rare_class_drawn_more_often() -> Built:
    """One in thirty, and a sampler that evens it out."""
    g = generator()
    y = (torch.rand(960, generator=g) < 0.033).long()
    x = torch.randn(960, 10, generator=g) + 1.2 * y[:, None]
    sampler = WeightedRandomSampler((1.0 / y.bincount()[y]).tolist(), 960, generator=g)
    data = DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=32, sampler=sampler)
    return Learner(perceptron(10, 2), F.cross_entropy), data


@healthy
def two_heads_and_their_uncertainty() -> Built:
    """A class and a number from one encoder, each loss weighted by a learnt variance (Kendall et al. 2018)."""
    x, y = clusters()
    size = x[:, 0] * x[:, 1]

    def loss(module: Any, batch: Any) -> Tensor:
        x, y, size = batch
        h = module.encoder(x)
        first, second = F.cross_entropy(module.kind(h), y), F.mse_loss(module.size(h)[:, 0], size)
        s = module.log_var
        return torch.exp(-s[0]) * first + 0.5 * torch.exp(-s[1]) * second + 0.5 * s.sum()

    parts = {"encoder": dense(12, 48, 48, last=nn.ReLU()), "kind": nn.Linear(48, 4), "size": nn.Linear(48, 1)}
    return Steps(loss, log_var=nn.Parameter(torch.zeros(2)), **parts), loader(x, y, (size - size.mean()) / size.std())


class Accumulating(ByHand):
    """Four batches to a step, by hand, and a schedule by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.net = resnet()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss is divided by four."""
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.manual_backward(loss / 4)
        if (batch_idx + 1) % 4 == 0:
            self.clip_gradients(optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        return loss

    def configure_optimizers(self) -> Any:
        """A cosine over all steps."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=2e-3)
        return [optimizer], [lr_scheduler.CosineAnnealingLR(optimizer, 280)]


@healthy
def steps_of_four_batches_by_hand() -> Built:
    """As Lightning's documentation has it."""
    return Accumulating(), loader(*digits(), size=16), run_of(10)


@healthy
def mixed_up() -> Built:
    """Mixup: two targets, one weight for both (Zhang et al. 2018)."""

    def loss(module: Any, batch: Any) -> Tensor:
        x, y = batch
        share = float(torch.distributions.Beta(0.2, 0.2).sample())
        other = torch.randperm(len(x))
        output = module.net(share * x + (1 - share) * x[other])
        return share * F.cross_entropy(output, y) + (1 - share) * F.cross_entropy(output, y[other])

    return Steps(loss, net=resnet()), loader(*digits())


@healthy
def taught_by_a_frozen_teacher() -> Built:
    """Distillation at a temperature of 4 (Hinton et al. 2015)."""
    x, y = digits()
    teacher = pretrained(lenet(), x, y).requires_grad_(False).eval()

    def loss(module: Any, batch: Any) -> Tensor:
        x, y = batch
        output = module.student(x)
        with torch.no_grad():
            soft = F.softmax(module.teacher(x) / 4, 1)
        kd = F.kl_div(F.log_softmax(output / 4, 1), soft, reduction="batchmean") * 16
        return 0.3 * F.cross_entropy(output, y) + 0.7 * kd

    return Steps(loss, student=dense(64, 32, 10), teacher=teacher), loader(x, y)


@healthy
def dice_and_cross_entropy_with_void() -> Built:
    """Pixels of 255 count for neither loss."""
    x, y = masks()
    y[:, 0] = 255

    def loss(output: Tensor, y: Tensor) -> Tensor:
        valid, y = (y != 255)[:, None], y[:, None].clamp_max(1)
        p = torch.sigmoid(output) * valid
        dice = 1 - (2 * (p * y).sum() + 1) / (p.sum() + (y * valid).sum() + 1)
        return dice + F.binary_cross_entropy_with_logits(output[valid], y[valid])

    return Learner(Unet(), loss), loader(x, y, size=16)


@healthy
def made_anew_for_each_index() -> Built:
    """A dataset that draws a noisy picture for each index."""
    patterns = torch.randn(4, 1, 12, 12, generator=generator())

    def make(index: int) -> tuple[Tensor, int]:
        return patterns[index % 4] + 0.7 * torch.randn(1, 12, 12), index % 4

    return Learner(resnet(4), F.cross_entropy), DataLoader(Made(make), batch_size=32, shuffle=True, drop_last=True)


class Helped(Lit):
    """The helper with the things that people add."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Dropout(0.2), nn.Flatten(), *dense(64, 64, 64, 10)[1:])

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """A dict with the loss and more."""
        output = self.net(batch[0])
        return {"loss": F.cross_entropy(output, batch[1]), "accuracy": (output.argmax(1) == batch[1]).float().mean()}

    def configure_optimizers(self) -> Any:
        """Muon's cousin of everyday."""
        return la.configure_optimizers(self, "nadam", lr=1e-3, schedule="cosine", warmup="1ep", clip=1.0)


@healthy
def helper_with_a_warmup_of_one_epoch() -> Built:
    """Twenty epochs."""
    return Helped(), loader(*digits()), run_of(20, accumulate_grad_batches=2)
