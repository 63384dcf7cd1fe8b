"""The sixth round's healthy cases of odd batches, two nets, and steps by hand."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader

from tests.benchmarks.preflight.data import chains, clusters, generator, loader, pictures, rows
from tests.benchmarks.preflight.newcomers_parts import Stream
from tests.benchmarks.preflight.outsiders_parts import (
    ByHand,
    Lit,
    Unet,
    masks,
    tracks,
)
from tests.benchmarks.preflight.parts import Built, convnet, perceptron
from tests.benchmarks.preflight.register import healthy


@healthy
def packed_sequences() -> Built:
    """A stream of sequences of many lengths, padded by ``collate_fn`` and packed for the LSTM."""

    def collate(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor, Tensor]:
        sequences, kinds = zip(*samples, strict=True)
        lengths = torch.tensor([len(s) for s in sequences])
        return pad_sequence(list(sequences), batch_first=True), lengths, torch.tensor(kinds)

    class Reader(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTM(5, 24, batch_first=True, bidirectional=True), nn.Linear(48, 3)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, lengths, kinds = batch
            packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
            _, (last, _) = self.cell(packed)
            return F.cross_entropy(self.head(torch.cat([last[0], last[1]], -1)), kinds)

    return Reader(), DataLoader(Stream(lambda: iter(list(tracks()))), batch_size=16, collate_fn=collate)


@healthy
def speech_in_a_stack_of_convolutions() -> Built:
    """CTC over (time, batch, class), lengths shortened by the strides."""

    class Speech(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.front = nn.Sequential(nn.Conv1d(6, 32, 3, 2, 1), nn.BatchNorm1d(32), nn.ReLU())
            self.cell, self.head = nn.GRU(32, 24, bidirectional=True), nn.Linear(48, 8)
            self.ctc = nn.CTCLoss(zero_infinity=True)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            h = self.front(batch["sound"].transpose(1, 2)).permute(2, 0, 1)
            told = self.head(self.cell(h)[0]).log_softmax(-1)
            return self.ctc(told, batch["text"], (batch["frames"] + 1) // 2, batch["letters"])

    g = generator()
    text = torch.randint(1, 8, (320, 4), generator=g)
    sound = torch.eye(8)[text].repeat_interleave(8, 1)[..., :6] + 0.3 * torch.randn(320, 32, 6, generator=g)
    frames, letters = torch.full((320,), 32), torch.full((320,), 4)
    return Speech(), rows(sound=sound, text=text, frames=frames, letters=letters, size=16)


@healthy
def boxes_as_torchvision_gives_them() -> Built:
    """Lists of pictures of several sizes and of dicts of boxes; the net returns a dict of losses."""

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
            self.heat, self.size = nn.Conv2d(16, 1, 1), nn.Conv2d(16, 2, 1)
            nn.init.constant_(self.heat.bias, -3.0)

        def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
            heats, sizes = [], []
            for image, target in zip(images, targets, strict=True):
                h = self.body(image[None])
                wanted = torch.zeros_like(h[:, :1])
                middle = ((target["boxes"][:, :2] + target["boxes"][:, 2:]) / 8).long().clamp_max(h.shape[-1] - 1)
                wanted[0, 0, middle[:, 1], middle[:, 0]] = 1.0
                heats.append(F.binary_cross_entropy_with_logits(self.heat(h), wanted, pos_weight=torch.tensor(5.0)))
                told = self.size(h)[0, :, middle[:, 1], middle[:, 0]].T
                sizes.append(F.l1_loss(told, (target["boxes"][:, 2:] - target["boxes"][:, :2]) / 8))
            return {"heat": torch.stack(heats).mean(), "size": torch.stack(sizes).mean()}

    def scene(g: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        side = int(torch.randint(5, 8, (1,), generator=g)) * 4
        corner = torch.randint(0, side - 9, (2,), generator=g)
        span = torch.randint(4, 9, (2,), generator=g)
        image = 0.3 * torch.randn(1, side, side, generator=g)
        image[:, corner[1] : corner[1] + span[1], corner[0] : corner[0] + span[0]] += 1.0
        return image, {"boxes": torch.cat([corner, corner + span]).float()[None], "labels": torch.ones(1, dtype=torch.long)}

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.model = Detector()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            losses = self.model(*batch)
            self.log_dict({f"loss_{name}": value for name, value in losses.items()})
            return sum(losses.values())  # type: ignore[return-value]

    g = generator()
    data = [scene(g) for _ in range(200)]
    collate = lambda samples: tuple(map(list, zip(*samples, strict=True)))  # noqa: E731
    return Model(), DataLoader(data, batch_size=8, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]


@healthy
def deep_supervision_and_void() -> Built:
    """Two maps, the coarse one resized and weighed by 0.4; the border is 255 and does not count."""

    class Segmenter(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.unet, self.aux = Unet(2), nn.Sequential(nn.Conv2d(1, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))
            self.criterion = nn.CrossEntropyLoss(ignore_index=255, weight=torch.tensor([0.5, 1.5]))

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
            image, mask = batch["image"], batch["mask"]
            coarse = F.interpolate(self.aux(image), mask.shape[-2:], mode="bilinear", align_corners=False)
            main = self.unet(image)
            return {"loss": self.criterion(main, mask) + 0.4 * self.criterion(coarse, mask), "logits": main.detach()}

    x, y = masks()
    y = F.pad(y[:, 1:-1, 1:-1].long(), (1, 1, 1, 1), value=255)
    return Segmenter(), rows(image=x, mask=y, size=8)


@healthy
def labelled_and_unlabelled_side_by_side() -> Built:
    """Mean teacher (Tarvainen and Valpola 2017) on a CombinedLoader; the slow copy stays in eval mode."""

    class MeanTeacher(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.student = convnet(norm=True)
            self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()

        def on_train_start(self) -> None:
            self.teacher.eval()

        def on_train_batch_end(self, *_: Any) -> None:
            for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                slow.data.lerp_(fast.data, 0.05)

        def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
            x, y = batch["labelled"]
            bare = batch["bare"][0]
            with torch.no_grad():
                wanted = self.teacher(bare + 0.1 * torch.randn_like(bare)).softmax(-1)
            told = self.student(bare + 0.1 * torch.randn_like(bare)).softmax(-1)
            return F.cross_entropy(self.student(x), y) + 0.5 * F.mse_loss(told, wanted)

    x, y = pictures()
    return MeanTeacher(), CombinedLoader({"labelled": loader(x[:320], y[:320]), "bare": loader(x[320:])}, "max_size_cycle")


class _Sample(NamedTuple):
    """What a batch is."""

    features: Tensor
    kind: Tensor
    weight: Tensor


@healthy
def named_tuple_with_weights() -> Built:
    """Each sample counts for as much as it is said to."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(12, 4)

        def training_step(self, batch: _Sample, batch_idx: int) -> Tensor:
            each = F.cross_entropy(self.net(batch.features), batch.kind, reduction="none")
            return (each * batch.weight).sum() / batch.weight.sum()

    x, y = clusters()
    weight = 0.5 + torch.rand(len(y), generator=generator())
    data = [_Sample(*row) for row in zip(x, y, weight, strict=True)]
    return Model(), DataLoader(data, batch_size=32, shuffle=True)  # type: ignore[arg-type]


@healthy
def trained_against_an_adversary() -> Built:
    """FGSM (Goodfellow et al. 2015): the batch is moved along the gradient of its own loss first."""

    class Robust(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = convnet()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            near = x.clone().requires_grad_(True)
            (slope,) = torch.autograd.grad(F.cross_entropy(self.net(near), y), near)
            return 0.5 * F.cross_entropy(self.net(x), y) + 0.5 * F.cross_entropy(self.net(x + 0.05 * slope.sign()), y)

    return Robust(), loader(*pictures())


@healthy
def sharpness_aware_by_hand() -> Built:
    """SAM (Foret et al. 2021): up, a second gradient, back, and then the step."""

    class Sam(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(12, 4)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            opt = self.optimizers()
            self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]))
            size = torch.stack([p.grad.norm() for p in self.net.parameters()]).norm()
            moved = [0.05 * p.grad / (size + 1e-12) for p in self.net.parameters()]
            with torch.no_grad():
                for p, by in zip(self.net.parameters(), moved, strict=True):
                    p.add_(by)
            opt.zero_grad()
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            self.manual_backward(loss)
            with torch.no_grad():
                for p, by in zip(self.net.parameters(), moved, strict=True):
                    p.sub_(by)
            opt.step()
            opt.zero_grad()
            self.log("loss", loss)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    return Sam(), loader(*clusters())


@healthy
def schedule_called_by_hand() -> Built:
    """Two optimizers, one schedule, stepped inside the step; sparse gradients for the table (SparseAdam)."""

    class Model(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.body = nn.EmbeddingBag(24, 16, sparse=True), perceptron(16, 2)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            sparse, dense = self.optimizers()
            words, y = batch
            sparse.zero_grad()
            dense.zero_grad()
            self.manual_backward(F.cross_entropy(self.body(self.table(words)), y))
            sparse.step()
            dense.step()
            self.lr_schedulers().step()

        def configure_optimizers(self) -> Any:
            dense = torch.optim.AdamW(self.body.parameters(), lr=2e-3)
            cosine = torch.optim.lr_scheduler.CosineAnnealingLR(dense, 600)
            return [torch.optim.SparseAdam(self.table.parameters(), lr=2e-3), dense], [cosine]

    words = chains()
    y = (words.float().mean(1) > words.float().mean()).long()
    return Model(), loader(words, y), {"trainer": L.Trainer(max_epochs=40, logger=False)}
