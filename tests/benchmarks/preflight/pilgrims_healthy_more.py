"""The tenth round's healthy cases, continued: what is trained, how it begins, and by which optimizer."""

from __future__ import annotations

import copy
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.benchmarks.preflight.data import curve, generator, loader, pictures, rows, waves
from tests.benchmarks.preflight.outsiders_parts import ByHand, Lit, series
from tests.benchmarks.preflight.parts import Built, convnet, perceptron
from tests.benchmarks.preflight.pilgrims_parts import beats, boards, cooked, fields, flat_conv
from tests.benchmarks.preflight.register import healthy


@healthy
def reservoir_and_what_reads_it() -> Built:
    """An echo state network (Jaeger 2001): recurrent weights are a buffer for ever, the readout alone learns."""

    class Echo(Lit):
        lr = 1e-2

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("into", torch.randn(3, 48))
            recurrent = torch.randn(48, 48)
            self.register_buffer("recurrent", 0.9 * recurrent / torch.linalg.eigvals(recurrent).abs().max())
            self.head = nn.Linear(48, 4)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            state = torch.zeros(len(batch[0]), 48)
            for x in batch[0].unbind(1):
                state = 0.5 * state + 0.5 * torch.tanh(0.5 * x @ self.into + state @ self.recurrent)
            return F.cross_entropy(self.head(state), batch[1])

    return Echo(), loader(*waves())


@healthy
def low_ranks_on_frozen_layers() -> Built:
    """LoRA (Hu et al. 2022) by hand: one factor begins at 0, so that the other's first gradient is 0."""

    class Lora(nn.Module):
        def __init__(self, linear: nn.Linear) -> None:
            super().__init__()
            self.linear = linear.requires_grad_(False)
            self.down = nn.Parameter(torch.randn(linear.in_features, 4) / linear.in_features**0.5)
            self.up = nn.Parameter(torch.zeros(4, linear.out_features))

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x) + x @ self.down @ self.up

    class Adapted(Lit):
        lr = 1e-2

        def __init__(self) -> None:
            super().__init__()
            net = perceptron(50, 25)
            self.net = nn.Sequential(*(Lora(m) if isinstance(m, nn.Linear) else m for m in net))

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch["stones"].flatten(1)), batch["tried"])

    return Adapted(), rows(**boards())


@healthy
def two_experts_of_four() -> Built:
    """Noisy top-k gating (Shazeer et al. 2017): noise in training only, and a loss that spreads the load over the batch."""

    class Mixture(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.experts = nn.Linear(6, 4), nn.ModuleList(perceptron(6, 1, 24) for _ in range(4))

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            x, y = batch
            raw = self.gate(x)
            noisy = raw + 0.3 * torch.randn_like(raw) if self.training else raw
            best, chosen = noisy.topk(2, dim=1)
            each = torch.cat([expert(x) for expert in self.experts], 1)
            load = raw.softmax(1).mean(0)
            told = (best.softmax(1) * each.gather(1, chosen)).sum(1)
            return F.mse_loss(told, y) + 0.01 * 4 * load.square().sum()

    return Mixture(), loader(*curve())


@healthy
def one_picture_at_a_time() -> Built:
    """Batches of one, GroupNorm, and gradients of eight batches in one step."""

    class Crops(Lit):
        lr = 3e-3

        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv2d(6, 16, 3), nn.GroupNorm(4, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)
            )

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

    return Crops(), loader(*fields(), size=1), {"trainer": L.Trainer(max_epochs=5, accumulate_grad_batches=8, logger=False)}


@healthy
def bytes_made_small_on_the_way() -> Built:
    """Whole numbers up to 255 leave the loader; a hook of Lightning's divides them before the step."""

    class Crops(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(6, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return (batch[0].float() - 127.5) / 40.0, batch[1]

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

    x, crop = fields()
    return Crops(), loader((127.5 + 40 * x).clamp(0, 255).to(torch.uint8), crop)


@healthy
def next_sample_of_a_wave() -> Built:
    """WaveNet (van den Oord et al. 2016) in small: padding on the left alone, 32 classes of loudness, all times at once."""

    class Wave(Lit):
        lr = 3e-3

        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(32, 24), nn.Conv1d(24, 32, 1)
            self.convs = nn.ModuleList(nn.Conv1d(24, 48, 2, dilation=2**k) for k in range(3))

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            h = self.table(batch[0][:, :-1]).transpose(1, 2)
            for k, conv in enumerate(self.convs):
                signal, gate = conv(F.pad(h, (2**k, 0))).chunk(2, 1)
                h = h + signal.tanh() * gate.sigmoid()
            return F.cross_entropy(self.out(h), batch[0][:, 1:])

    return Wave(), loader(((series() + 2.0) * 8.0).long().clamp(0, 31))


@healthy
def one_day_after_another() -> Built:
    """Windows in the order of time, unshuffled: what happens next changes sign many times within a batch."""

    class Tomorrow(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(16, 1)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return F.huber_loss(self.net(batch[0]), batch[1])

    t = torch.arange(1300)
    signal = torch.sin(0.8 * t) + 0.5 * torch.sin(2.1 * t) + 0.1 * torch.randn(1300, generator=generator())
    windows = signal.unfold(0, 17, 1)
    return Tomorrow(), loader(windows[:, :16], windows[:, 16:], shuffle=False)


@healthy
def fitted_by_lbfgs() -> Built:
    """Logistic regression by LBFGS, which calls its closure several times in a step."""

    class Logistic(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 1)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            x, y = batch
            ridge = 1e-3 * self.linear.weight.square().sum()
            return F.binary_cross_entropy_with_logits(self.linear(x)[:, 0], (y > 0).float()) + ridge

        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), lr=0.5, max_iter=5)

    return Logistic(), loader(*curve(), size=320)


@healthy
def slow_generator_beside_the_fast_one() -> Built:
    """A hinge GAN whose generator is averaged for use; the average is in no optimizer and gets no gradient."""

    class Gan(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.g, self.d = perceptron(8, 64), perceptron(64, 1, act=nn.LeakyReLU)
            self.average = copy.deepcopy(self.g).requires_grad_(False)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
            opt_g, opt_d = self.optimizers()
            real, noise = batch[0].flatten(1), torch.randn(len(batch[0]), 8)
            fake = self.g(noise)
            opt_d.zero_grad()
            self.manual_backward(F.relu(1 - self.d(real)).mean() + F.relu(1 + self.d(fake.detach())).mean())
            opt_d.step()
            opt_g.zero_grad()
            self.manual_backward(-self.d(fake).mean())
            opt_g.step()
            for slow, fast in zip(self.average.parameters(), self.g.parameters(), strict=True):
                slow.data.lerp_(fast.data, 0.02)

        def configure_optimizers(self) -> Any:
            return [torch.optim.Adam(net.parameters(), 3e-4, betas=(0.0, 0.99)) for net in (self.g, self.d)]

    return Gan(), loader(beats()[0])


@healthy
def layers_left_out_at_random() -> Built:
    """Stochastic depth (Huang et al. 2016) by the mode, and the last scale of each branch begins at 0."""

    class Deep(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.out = nn.Linear(50, 48), nn.Linear(48, 25)
            self.branches = nn.ModuleList(nn.Sequential(nn.LayerNorm(48), nn.Linear(48, 48), nn.GELU()) for _ in range(8))
            self.scales = nn.Parameter(torch.zeros(8, 48))

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            h = self.into(batch["stones"].flatten(1))
            for depth, (branch, scale) in enumerate(zip(self.branches, self.scales, strict=True)):
                stays = torch.rand(len(h), 1) > 0.03 * depth if self.training else torch.ones(len(h), 1)
                h = h + stays * scale * branch(h)
            return F.cross_entropy(self.out(h), batch["tried"])

    return Deep(), rows(**boards())


@healthy
def residual_net_of_transformers() -> Built:
    """``ResNetForImageClassification`` by its config, called with labels; SGD with Nesterov's momentum and decay."""
    from transformers import ResNetConfig, ResNetForImageClassification

    class Pictures(Lit):
        def __init__(self) -> None:
            super().__init__()
            sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
            self.model = ResNetForImageClassification(ResNetConfig(num_channels=1, num_labels=4, **sizes))

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return self.model(**batch).loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)

    x, y = pictures(side=16)
    return Pictures(), rows(pixel_values=x, labels=y)


@healthy
def waits_for_a_plateau() -> Built:
    """ReduceLROnPlateau watches what is logged; ε of 1e-6 and β₂ of 0.95, as for 16 bits."""

    class Dishes(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.net = nn.EmbeddingBag(50, 24), nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 4))

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            loss = F.cross_entropy(self.net(self.bag(batch["ingredients"], batch["begins"])), batch["kitchen"])
            self.log("train_loss", loss, on_epoch=True, on_step=False, batch_size=32)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), 5e-3, betas=(0.9, 0.95), eps=1e-6)
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=3)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "train_loss"}}

    return Dishes(), cooked(), {"trainer": L.Trainer(max_epochs=10, logger=False)}


@healthy
def beats_cut_anew_each_time() -> Built:
    """The same few leads again and again, each moved and made louder by chance within the dataset."""

    def cut(samples: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        moved = [
            torch.roll(x, int(torch.randint(-4, 5, (1,))), -1) * (0.8 + 0.4 * torch.rand(1)) + 0.05 * torch.randn_like(x)
            for x, _ in samples
        ]
        return [torch.stack(moved), torch.stack([kind for _, kind in samples])]

    class Beats(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = flat_conv()

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

    few = list(zip(*beats(80), strict=True)) * 8
    return Beats(), DataLoader(few, batch_size=32, shuffle=True, collate_fn=cut)  # type: ignore[arg-type]


@healthy
def student_of_a_frozen_teacher_in_eval() -> Built:
    """Features are matched, not answers: cosines of two nets, one of them frozen and in eval mode on purpose."""

    class Matched(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.teacher, self.student = convnet(16, norm=True).eval().requires_grad_(False), convnet(16)

        def train(self, mode: bool = True) -> Matched:
            super().train(mode)
            self.teacher.eval()
            return self

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            with torch.no_grad():
                wanted = self.teacher(batch[0])
            return 1 - F.cosine_similarity(self.student(batch[0]), wanted, dim=1).mean()

    return Matched(), loader(*pictures())
