"""The sixteenth round's healthy models that learn from few examples, or from another net."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.benchmarks.preflight.data import loader
from tests.benchmarks.preflight.nomads_parts import pretrained
from tests.benchmarks.preflight.parts import Built
from tests.benchmarks.preflight.register import healthy
from tests.benchmarks.preflight.sojourners_healthy import Glyphs, drawings
from tests.benchmarks.preflight.sojourners_parts import (
    System,
    glyphs,
    scaled,
    small_net,
)


@healthy
def episodes_of_few_examples() -> Built:
    """Each batch is a task: two examples of each class, and six questions (Snell et al. 2017)."""

    class Prototypes(System):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = small_net(32)

        def compute(self, batch: Any) -> Tensor:
            support, asked, y = batch["support"], batch["asked"], batch["y"]
            centres = self.encoder(support.flatten(0, 1)).view(6, 2, -1).mean(1)
            return F.cross_entropy(-torch.cdist(self.encoder(asked), centres).square() / 32, y)

    x, y = glyphs(900)
    x, of = scaled(x), [torch.nonzero(y == k)[:, 0] for k in range(6)]
    tasks = []
    for k in range(40):
        rest = torch.cat([o[3 * k % 90 : 3 * k % 90 + 3] for o in of]).view(6, 3)
        tasks.append({"support": x[rest[:, :2]], "asked": x[rest[:, 2]], "y": torch.arange(6)})
    return Prototypes(), DataLoader(tasks, batch_size=None, shuffle=True)  # type: ignore[arg-type]


@healthy
def student_of_a_larger_net() -> Built:
    """A trained teacher, held in ``eval()`` without gradients; temperature 3 (Hinton et al. 2015)."""
    x, y = glyphs()

    class Student(Glyphs):
        def __init__(self) -> None:
            super().__init__(small_net(width=8))
            self.teacher = pretrained(small_net(width=16), scaled(x), y, steps=40).eval().requires_grad_(False)

        def train(self, mode: bool = True) -> Any:
            super().train(mode)
            self.teacher.eval()
            return self

        def compute(self, batch: Any) -> Tensor:
            own, taught = self(batch[0]), self.teacher(batch[0])
            soft = F.kl_div((own / 3).log_softmax(-1), (taught / 3).softmax(-1), reduction="batchmean")
            return 9 * soft + 0.5 * self.criterion(own, batch[1])

    return Student(), drawings()


@healthy
def labels_by_a_slower_copy_of_itself() -> Built:
    """A mean teacher (Tarvainen & Valpola 2017): a tenth is labelled (the others are -1), the rest agrees with it."""

    class Mean(Glyphs):
        def __init__(self) -> None:
            super().__init__()
            self.slow = copy.deepcopy(self.net).requires_grad_(False)

        def compute(self, batch: Any) -> Tensor:
            x, y = batch
            own, taught = self(x), self.slow(x + 0.1 * torch.randn_like(x))
            named = F.cross_entropy(own, y, ignore_index=-1)
            return named + F.mse_loss(own.softmax(-1), taught.softmax(-1))

        def on_train_batch_end(self, *_: Any) -> None:
            for slow, quick in zip(self.slow.parameters(), self.net.parameters(), strict=True):
                slow.data.lerp_(quick.data, 0.05)

    x, y = glyphs()
    return Mean(), loader(scaled(x), torch.where(torch.arange(len(y)) % 4 == 0, y, -1))
