"""The twelfth round's healthy cases, continued: segmentation, detection, sounds, generative models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from tests.benchmarks.preflight.data import loader, pictures, rows
from tests.benchmarks.preflight.outsiders_parts import Lit, Unet, masks
from tests.benchmarks.preflight.parts import Built, perceptron
from tests.benchmarks.preflight.register import healthy
from tests.benchmarks.preflight.settlers_parts import (
    Loss,
    commands,
    photos,
    pixelcnn,
    run_of,
    spectrograms,
    transformer,
)
from tests.benchmarks.preflight.wayfarers_parts import Supervised, streets, utterances


@healthy
def fully_convolutional_with_aux() -> Built:
    """torchvision's FCN: a dict of "out" and "aux", the second at 0.4, a void frame, bilinear scaling."""

    class Fcn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
            self.deep = nn.Sequential(nn.Conv2d(16, 32, 3, 1, 2, dilation=2, bias=False), nn.BatchNorm2d(32), nn.ReLU())
            self.classifier, self.aux = nn.Conv2d(32, 3, 1), nn.Conv2d(16, 3, 1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            h = self.body(x)
            maps = {"out": self.classifier(self.deep(h)), "aux": self.aux(h)}
            size = x.shape[-2:]
            return {k: F.interpolate(v, size=size, mode="bilinear", align_corners=False) for k, v in maps.items()}

    def loss(net: nn.Module, batch: Any) -> Tensor:
        told = net(batch[0])
        each = {k: F.cross_entropy(v, batch[1], ignore_index=255) for k, v in told.items()}
        return each["out"] + 0.4 * each["aux"]

    return Loss(Fcn(), loss), loader(*streets(), size=16)


@healthy
def segmenter_of_transformers() -> Built:
    """A tiny Segformer: labels at full size, scores at a quarter, 255 is void."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    sizes = {"hidden_sizes": [16, 32], "num_attention_heads": [1, 2], "depths": [1, 1], "sr_ratios": [2, 1]}
    rest = {"num_encoder_blocks": 2, "patch_sizes": [3, 3], "strides": [2, 2], "mlp_ratios": [2, 2]}
    net = SegformerForSemanticSegmentation(
        SegformerConfig(**sizes, **rest, decoder_hidden_size=32, num_labels=3, semantic_loss_ignore_index=255)
    )
    x, mask = streets()
    return Loss(net, lambda net, batch: net(**batch).loss), rows(pixel_values=x, labels=mask, size=16)


@healthy
def volumes_with_group_norm() -> Built:
    """A small 3D net of MONAI's kind: GroupNorm, PReLU, Dice beside BCE, two volumes in a batch."""

    def loss(net: nn.Module, batch: Any) -> Tensor:
        scores = net(batch[0])
        p = scores.sigmoid()
        overlap = (2 * (p * batch[1]).sum((2, 3, 4)) + 1) / (p.sum((2, 3, 4)) + batch[1].sum((2, 3, 4)) + 1)
        return F.binary_cross_entropy_with_logits(scores, batch[1]) + 1 - overlap.mean()

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv3d(inputs, outputs, 3, padding=1), nn.GroupNorm(4, outputs), nn.PReLU()]

    x, inside = masks(160)
    slices = torch.stack([x[:, 0], x[:, 0].roll(1, 0)], 1)[:, None, :, ::2, ::2]
    there = torch.stack([inside, inside.roll(1, 0)], 1)[:, None, :, ::2, ::2]
    return Loss(nn.Sequential(*block(1, 8), *block(8, 8), nn.Conv3d(8, 1, 1)), loss), loader(slices, there, size=2)


def focal(scores: Tensor, there: Tensor) -> Tensor:
    """Of torchvision (Lin et al. 2017): over all places, divided by how many are positive."""
    p = scores.sigmoid()
    off = F.binary_cross_entropy_with_logits(scores, there, reduction="none")
    right = p * there + (1 - p) * (1 - there)
    return ((0.25 * there + 0.75 * (1 - there)) * (1 - right) ** 2 * off).sum() / there.sum().clamp_min(1)


@healthy
def retina_with_a_prior() -> Built:
    """The classifier's bias is -log(99), so that at first one place in a hundred is thought an object."""

    class Retina(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())
            self.cls, self.box = nn.Conv2d(32, 1, 3, padding=1), nn.Conv2d(32, 4, 3, padding=1)
            for conv in (self.cls, self.box):
                nn.init.normal_(conv.weight, std=0.01)
                nn.init.zeros_(conv.bias)
            nn.init.constant_(self.cls.bias, -4.595)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = self.body(x)
            return self.cls(h), self.box(h)

    class Detects(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.model = Retina()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, inside = batch
            there = (F.avg_pool2d(inside[:, None], 4) > 0.9).float()
            scores, boxes = self.model(x)
            aim = F.adaptive_avg_pool2d(x, 4).expand(-1, 4, -1, -1)
            near = (there * F.smooth_l1_loss(boxes, aim, reduction="none")).sum() / there.sum().clamp_min(1)
            losses = {"classification": focal(scores, there), "bbox_regression": near}
            self.log_dict(losses)
            return sum(losses.values())

    return Detects(), loader(*masks(), size=16)


@healthy
def centres_as_gaussian_spots() -> Built:
    """CenterNet: the penalty-reduced focal loss of heat maps, bias -2.19."""

    class Centre(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = Unet(1)
            nn.init.constant_(self.net.head.bias, -2.19)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            p = self.net(batch["image"]).squeeze(1).sigmoid().clamp(1e-4, 1 - 1e-4)
            peak = (batch["heat"] == 1).float()
            hit = ((1 - p) ** 2 * p.log() * peak).sum()
            miss = ((1 - batch["heat"]) ** 4 * p**2 * (1 - p).log() * (1 - peak)).sum()
            return -(hit + miss) / peak.sum().clamp_min(1)

    x, inside = masks()
    place = torch.arange(16).float()
    middle = [(inside.sum(3 - d) * place).sum(1) / inside.sum((1, 2)) for d in (1, 2)]
    far = [(place - m.round()[:, None]).square() for m in middle]
    return Centre(), rows(image=x, heat=torch.exp(-(far[0][:, :, None] + far[1][:, None]) / 4), size=16)


@healthy
def waveforms_through_m5() -> Built:
    """torchaudio's command tutorial: raw waves, strided convolutions with BatchNorm, log-shares and NLL, StepLR."""

    class M5(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv1d(1, 16, 16, 4), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(2),
                nn.Conv1d(16, 32, 3), nn.BatchNorm1d(32), nn.ReLU(),
            )  # fmt: skip
            self.fc1 = nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.body(x)
            return F.log_softmax(self.fc1(F.avg_pool1d(h, h.shape[-1]).permute(0, 2, 1)), dim=2)

    class Commands(Supervised):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=0.01, weight_decay=1e-4)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=20, gamma=0.1)]

    def loss(told: Tensor, y: Tensor) -> Tensor:
        return F.nll_loss(told.squeeze(1), y)

    return Commands(M5(), loss), loader(*commands()), run_of(40)


@healthy
def decibels_normalised_in_the_net() -> Built:
    """A BatchNorm over decibels is the net's first layer, as in PANNs."""
    net = nn.Sequential(
        nn.BatchNorm2d(1), nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 3),
    )  # fmt: skip
    return Supervised(net, nn.CrossEntropyLoss()), loader(*spectrograms())


@healthy
def conformer_by_ctc() -> Built:
    """Gated depthwise convolutions beside attention whose padding is masked, CTC over shares in (time, batch, letter)."""

    class Conformer(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.body, self.head = nn.Linear(8, 32), transformer(layers=1, norm_first=True), nn.Linear(32, 7)
            self.wide, self.depth, self.narrow = (
                nn.Linear(32, 64),
                nn.Conv1d(32, 32, 5, padding=2, groups=32),
                nn.Linear(32, 32),
            )
            self.norm = nn.LayerNorm(32)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            blank = torch.arange(batch["frames"].shape[1]) >= batch["long"][:, None]
            h = self.body(self.into(batch["frames"]), src_key_padding_mask=blank)
            gated = F.glu(self.wide(self.norm(h)), -1).masked_fill(blank[..., None], 0.0)
            h = h + self.narrow(F.silu(self.depth(gated.mT).mT))
            shares = self.head(h).log_softmax(-1).transpose(0, 1)
            return F.ctc_loss(shares, batch["letters"], batch["long"], batch["spelt"])

    return Conformer(), utterances()


@healthy
def wavenet_of_quantised_sound() -> Built:
    """Mu-law classes of the next sample: weight-normed, dilated, padded on the left, gated."""

    class Wavenet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(32, 24), nn.Conv1d(24, 32, 1)
            self.gates = nn.ModuleList(weight_norm(nn.Conv1d(24, 48, 2, dilation=d)) for d in (1, 2, 4))

        def forward(self, x: Tensor) -> Tensor:
            h = self.table(x).mT
            for gate in self.gates:
                a, b = gate(F.pad(h, (gate.dilation[0], 0))).chunk(2, 1)
                h = h + a.tanh() * b.sigmoid()
            return self.head(h.relu())

    def loss(net: nn.Module, batch: Any) -> Tensor:
        x = batch[0].squeeze(1)[:, :64]
        squeezed = x.sign() * torch.log1p(31 * x.abs()) / torch.log(torch.tensor(32.0))
        classes = ((squeezed + 1) / 2 * 31 + 0.5).long()
        return F.cross_entropy(net(classes[:, :-1]), classes[:, 1:])

    return Loss(Wavenet(), loss), loader(*commands())


@healthy
def pixels_one_after_another() -> Built:
    """PixelCNN with a mask of kind A in the first layer; the target is the picture itself."""

    def loss(net: nn.Module, batch: Any) -> Tensor:
        x = (batch[0] > 0).float()
        return F.binary_cross_entropy_with_logits(net(x), x)

    return Loss(pixelcnn(), loss), loader(*pictures())


@healthy
def convolutions_back_to_minus_one_and_one() -> Built:
    """DCGAN's scaling: pictures between -1 and 1, a decoder of transposed convolutions that ends in tanh."""
    net = nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.LeakyReLU(0.2), nn.Conv2d(16, 8, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(8, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip
    x, y = photos()
    return Loss(net, lambda net, batch: F.mse_loss(net(batch[0]), batch[0])), loader(x.float() / 127.5 - 1, y)


@healthy
def velocities_of_a_guided_diffusion() -> Built:
    """The velocity is the target; the class is dropped for one sample in ten; times by a small perceptron of sines."""

    class Guided(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.time, self.kind = perceptron(8, 16, 32, nn.SiLU), nn.Embedding(5, 16)
            self.into, self.mid = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
            self.norm, self.out = nn.GroupNorm(4, 16), nn.Conv2d(16, 1, 3, padding=1)
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            t, noise = torch.rand(len(x)), torch.randn_like(x)
            a, b = torch.cos(t * 1.57)[:, None, None, None], torch.sin(t * 1.57)[:, None, None, None]
            waves = t[:, None] * 2.0 ** torch.arange(4)
            kind = torch.where(torch.rand(len(x)) < 0.1, 4, y)
            told = self.time(torch.cat([waves.sin(), waves.cos()], 1)) + self.kind(kind)
            h = self.into(a * x + b * noise)
            h = h + self.mid(F.silu(self.norm(h) + told[:, :, None, None]))
            return F.mse_loss(self.out(F.silu(h)), a * noise - b * x)

    return Guided(), loader(*pictures())
