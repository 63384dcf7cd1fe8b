"""The twelfth round's healthy cases: nets of timm and torchvision that tell pictures apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.benchmarks.preflight.data import loader, pictures
from tests.benchmarks.preflight.parts import Built
from tests.benchmarks.preflight.register import healthy
from tests.benchmarks.preflight.settlers_parts import (
    Loss,
    normalised,
    photos,
    resnet,
    run_of,
    transformer,
)
from tests.benchmarks.preflight.wayfarers_parts import Supervised


@healthy
def resnet_of_torchvision() -> Built:
    """Last norms of blocks at zero, SGD at 0.1 with momentum and decay, cosine by epoch, smoothed labels."""

    class Resnet(Supervised):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
            return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)]

    return Resnet(resnet(), nn.CrossEntropyLoss(label_smoothing=0.1)), loader(*normalised()), run_of(30)


@healthy
def mobilenet_with_inverted_residuals() -> Built:
    """Depthwise convolutions, ReLU6, a linear bottleneck, dropout before the classifier."""

    class Inverted(nn.Module):
        def __init__(self, width: int, wide: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(inplace=True),
                nn.Conv2d(wide, wide, 3, 1, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(inplace=True),
                nn.Conv2d(wide, width, 1, bias=False), nn.BatchNorm2d(width),
            )  # fmt: skip

        def forward(self, x: Tensor) -> Tensor:
            return x + self.body(x)

    stem = [nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True)]
    last = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 4)]
    net = nn.Sequential(*stem, Inverted(8, 32), Inverted(8, 32), *last)
    return Supervised(net, nn.CrossEntropyLoss()), loader(*normalised())


class DropPath(nn.Module):
    """Leaves out a sample's whole branch in training (Huang et al. 2016)."""

    def __init__(self, branch: nn.Module, share: float) -> None:
        super().__init__()
        self.branch, self.share = branch, share

    def forward(self, x: Tensor) -> Tensor:
        """What is kept is scaled up."""
        h = self.branch(x)
        if self.training:
            h = h * torch.empty(len(x), *[1] * (x.dim() - 1)).bernoulli_(1 - self.share) / (1 - self.share)
        return x + h


class Excite(nn.Module):
    """Squeeze and excitation (Hu et al. 2018)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, width // 4, 1), nn.Conv2d(width // 4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Channels weighed by a sigmoid."""
        return x * self.up(F.silu(self.down(x.mean((2, 3), keepdim=True)))).sigmoid()


@healthy
def efficientnet_with_dropped_paths() -> Built:
    """SiLU, squeeze and excitation, stochastic depth; RMSprop as in the paper's code."""

    class Efficient(Supervised):
        def configure_optimizers(self) -> Any:
            return torch.optim.RMSprop(self.parameters(), lr=2e-3, alpha=0.9, eps=1e-3, momentum=0.9, weight_decay=1e-5)

    def block() -> DropPath:
        convs = [nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False), nn.BatchNorm2d(16, eps=1e-3), nn.SiLU(inplace=True)]
        return DropPath(nn.Sequential(*convs, Excite(16), nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16)), 0.2)

    stem = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.SiLU(inplace=True)]
    net = nn.Sequential(*stem, block(), block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
    return Efficient(net, nn.CrossEntropyLoss()), loader(*normalised())


@healthy
def second_classifier_while_training() -> Built:
    """GoogLeNet: a tuple of two outputs in training, one output in evaluation."""

    class Inception(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
            self.second = nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU())
            self.aux, self.fc = nn.Linear(16, 4), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Any:
            h = self.first(x)
            scores = self.fc(self.second(h).mean((2, 3)))
            return (scores, self.aux(h.mean((2, 3)))) if self.training else scores

    def loss(net: nn.Module, batch: Any) -> Tensor:
        scores, aux = net(batch[0])
        return F.cross_entropy(scores, batch[1]) + 0.3 * F.cross_entropy(aux, batch[1])

    return Loss(Inception(), loss), loader(*normalised())


@healthy
def mixer_of_patches() -> Built:
    """MLP-Mixer: tokens are mixed by a transposition within each sample."""

    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 32, 4, 4)
            self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(3))
            self.tokens = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
            self.channels = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
            self.head = nn.Linear(32, 4)
            nn.init.zeros_(self.head.weight)

        def forward(self, x: Tensor) -> Tensor:
            x = self.patch(x).flatten(2).transpose(1, 2)
            x = x + self.tokens(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
            x = x + self.channels(self.norms[1](x))
            return self.head(self.norms[2](x).mean(1))

    return Supervised(Mixer(), nn.CrossEntropyLoss()), loader(*normalised())


@healthy
def shifted_windows() -> Built:
    """Swin: attention within windows of 2 × 2, rolled by one in the second block; windows go into the batch's axis."""

    class Windows(nn.Module):
        def __init__(self, shift: int) -> None:
            super().__init__()
            self.norm, self.shift = nn.LayerNorm(32), shift
            self.attend = nn.MultiheadAttention(32, 4, batch_first=True)
            self.bias = nn.Parameter(torch.empty(4, 4))
            nn.init.trunc_normal_(self.bias, std=0.02)

        def forward(self, x: Tensor) -> Tensor:
            n = len(x)
            h = self.norm(x).roll((-self.shift, -self.shift), (1, 2))
            h = h.view(n, 2, 2, 2, 2, 32).permute(0, 1, 3, 2, 4, 5).reshape(n * 4, 4, 32)
            h = self.attend(h, h, h, attn_mask=self.bias, need_weights=False)[0]
            h = h.view(n, 2, 2, 2, 2, 32).permute(0, 1, 3, 2, 4, 5).reshape(n, 4, 4, 32)
            return x + h.roll((self.shift, self.shift), (1, 2))

    class Swin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.head = nn.Conv2d(3, 32, 4, 4), nn.Linear(32, 4)
            self.blocks = nn.Sequential(Windows(0), Windows(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.blocks(self.patch(x).permute(0, 2, 3, 1)).mean((1, 2)))

    return Supervised(Swin(), nn.CrossEntropyLoss()), loader(*normalised())


@healthy
def vit_of_timm_with_warmup() -> Built:
    """A class token and places by a truncated normal, pre-norm, AdamW with groups, linear warmup, then cosine."""

    class Vit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch_embed = nn.Conv2d(3, 32, 4, 4)
            self.cls_token, self.pos_embed = nn.Parameter(torch.zeros(1, 1, 32)), nn.Parameter(torch.zeros(1, 17, 32))
            self.blocks, self.norm = transformer(norm_first=True, activation="gelu", dropout=0.1), nn.LayerNorm(32)
            self.head = nn.Linear(32, 4)
            for parameter in (self.cls_token, self.pos_embed, self.head.weight):
                nn.init.trunc_normal_(parameter, std=0.02)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.patch_embed(x).flatten(2).mT
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], 1) + self.pos_embed
            return self.head(self.norm(self.blocks(x))[:, 0])

    class Tuned(Supervised):
        def configure_optimizers(self) -> Any:
            plain = [p for p in self.parameters() if p.dim() < 2]
            groups = [{"params": [p for p in self.parameters() if p.dim() >= 2]}, {"params": plain, "weight_decay": 0.0}]
            optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.05)
            rise = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=30)
            fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 420)
            both = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, fall], [30])
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": both, "interval": "step"}}

    return Tuned(Vit(), nn.CrossEntropyLoss()), loader(*normalised()), run_of(30)


@healthy
def binary_loss_over_mixed_classes() -> Built:
    """timm's ResNet recipe: BCE of logits against one-hot labels, mixed by Mixup in ``on_after_batch_transfer``."""

    class Mixed(Supervised):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            x, y = batch
            share = torch.distributions.Beta(0.8, 0.8).sample()
            hot = F.one_hot(y, 4).float()
            return share * x + (1 - share) * x.flip(0), share * hot + (1 - share) * hot.flip(0)

    return Mixed(resnet(), nn.BCEWithLogitsLoss()), loader(*normalised())


@healthy
def photos_scaled_in_the_collate() -> Built:
    """Bytes come from the dataset; the collate divides by 255 and takes off the mean; file names are in the batch."""

    def collate(samples: list[Any]) -> dict[str, Any]:
        x = torch.stack([s[0] for s in samples]).float() / 255
        return {
            "pixel_values": (x - 0.5) / 0.25,
            "labels": torch.stack([s[1] for s in samples]),
            "file": [f"{i}.jpg" for i in range(len(samples))],
        }

    def loss(net: nn.Module, batch: dict[str, Any]) -> Tensor:
        return F.cross_entropy(net(batch["pixel_values"]), batch["labels"])

    data = list(zip(*photos(), strict=True))
    return Loss(resnet(), loss), DataLoader(data, batch_size=32, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]


@healthy
def transformer_that_turns_its_pictures() -> Built:
    """PyTorch's tutorial on spatial transformers: the last weight is 0, its bias the identity."""

    class Stn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.where = nn.Sequential(nn.Conv2d(1, 8, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(128, 16))
            self.theta = nn.Linear(16, 6)
            nn.init.zeros_(self.theta.weight)
            self.theta.bias.data.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]))
            self.conv, self.head = nn.Conv2d(1, 16, 3), nn.Linear(16 * 25, 4)

        def forward(self, x: Tensor) -> Tensor:
            theta = self.theta(self.where(x).relu()).view(-1, 2, 3)
            x = F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)
            h = F.max_pool2d(F.relu(self.conv(x)), 2).flatten(1)
            return F.log_softmax(self.head(F.dropout(h, training=self.training)), dim=1)

    return Supervised(Stn(), F.nll_loss), loader(*pictures())
