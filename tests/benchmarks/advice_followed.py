"""Follows the printed advice once, as a user would: ``python -m tests.benchmarks.advice_followed``.

Runs through a real Trainer, on tasks that are not in the corpus, with one wrong argument each: the first finding that says
what to change is applied to ``la.configure_optimizers`` as it stands, and the run is trained again.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch
from sklearn.datasets import load_digits, make_friedman1
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

import lightning_adam as la
from lightning_adam.callbacks import DivergenceMonitor
from tests.benchmarks.divergence.running import quiet

STEPS, BATCH, LAST = 200, 32, 25
ENOUGH = 0.8
"""Of the gap between the wrong run and the right one."""
HARM = 0.2
"""Of the way that the right run goes."""
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Task:
    """A network, its data and its loss."""

    net: Callable[[], nn.Module]
    data: Callable[[], tuple[Tensor, Tensor]]
    loss: Loss


class Columns(nn.Module):
    """A transformer over the columns of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.place = nn.Linear(8, 32), nn.Parameter(0.02 * torch.randn(8, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.body, self.out = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of ten digits."""
        scores: Tensor = self.out(self.body(self.into(x[:, 0]) + self.place).mean(1))
        return scores


class Sums(nn.Module):
    """A recurrent network that reads a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = nn.GRU(1, 32, batch_first=True), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        """One number."""
        number: Tensor = self.out(self.body(x)[0][:, -1])[:, 0]
        return number


def _digits() -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16 - 0.3, torch.tensor(labels)


def _friedman() -> tuple[Tensor, Tensor]:
    x, y = make_friedman1(1500, random_state=0)
    return torch.tensor(x - 0.5, dtype=torch.float32) * 3.4, torch.tensor((y - y.mean()) / y.std(), dtype=torch.float32)


def _sequences() -> tuple[Tensor, Tensor]:
    x = torch.randn(1500, 12, 1, generator=Generator().manual_seed(3))
    return x, x[:, -6:, 0].sum(1) / math.sqrt(6)


def _column(net: nn.Module) -> nn.Module:
    return nn.Sequential(net, nn.Flatten(0))


TASKS: dict[str, Task] = {
    "convolutions": Task(
        lambda: nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(), nn.Flatten(), nn.Linear(512, 10),
        ), _digits, cross_entropy,
    ),
    "table": Task(
        lambda: _column(nn.Sequential(nn.Linear(10, 64), nn.Tanh(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))),
        _friedman, mse_loss,
    ),
    "transformer": Task(Columns, _digits, cross_entropy),
    "sequences": Task(Sums, _sequences, mse_loss),
}  # fmt: skip
RATES = {"adamw": 3e-3, "sgd": 0.05, "lion": 3e-4, "rmsprop": 1e-3}
"""Usual ones; none was searched for."""
PLAIN: dict[str, Any] = {"schedule": "constant", "warmup": 0, "clip": None}
WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "rate × 30": ("adamw", {"lr": 30.0}),
    "rate × 300": ("adamw", {"lr": 300.0}),
    "rate ÷ 100": ("adamw", {"lr": 0.01}),
    "SGD's rate × 100": ("sgd", {"lr": 100.0}),
    "SGD's rate ÷ 100": ("sgd", {"lr": 0.01}),
    "Lion's rate × 30": ("lion", {"lr": 30.0}),
    "RMSprop's rate ÷ 100": ("rmsprop", {"lr": 0.01}),
    "betas swapped": ("adamw", {"betas": (0.999, 0.9)}),
    "eps=1e-2": ("adamw", {"eps": 1e-2}),
    "clip=1e-3": ("sgd", {"clip": 1e-3}),
    "weight_decay=100": ("adamw", {"weight_decay": 100.0}),
    "momentum=0.999": ("sgd", {"momentum": 0.999}),
}
"""An optimizer, and what is wrong: a rate is a multiple of the usual one."""
CASES: tuple[tuple[str, str], ...] = (
    *((task, mistake) for task in TASKS for mistake in ("rate × 300", "rate ÷ 100")),
    ("transformer", "rate × 30"),
    ("convolutions", "SGD's rate × 100"), ("table", "SGD's rate × 100"), ("table", "SGD's rate ÷ 100"),
    ("transformer", "Lion's rate × 30"), ("sequences", "RMSprop's rate ÷ 100"), ("table", "betas swapped"),
    ("transformer", "eps=1e-2"), ("convolutions", "eps=1e-2"), ("sequences", "clip=1e-3"),
    ("convolutions", "weight_decay=100"), ("sequences", "momentum=0.999"),
)  # fmt: skip


class Learner(L.LightningModule):
    """A task with arguments of the helper."""

    def __init__(self, task: Task, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.net, self.task, self.arguments, self.losses = task.net(), task, arguments, list[float]()

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss, which is kept."""
        loss = self.task.loss(self.net(batch[0]), batch[1])
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self) -> Any:
        """As a user writes it."""
        return la.configure_optimizers(self, **self.arguments)


@dataclass(frozen=True)
class Followed:
    """What came of one piece of advice; losses are medians of the first or last steps, infinite where not finite."""

    start: float
    right: float
    wrong: float
    mended: float
    told: str

    @property
    def is_harmed(self) -> bool:
        """Whether what is wrong does harm: it costs a fifth of what the right run learns, as in the corpus."""
        return self.wrong > self.right + HARM * (self.start - self.right)

    @property
    def is_mended(self) -> bool:
        """Four fifths of the gap."""
        return self.mended <= self.wrong - ENOUGH * (self.wrong - self.right)


def follow(task: str, mistake: str) -> Followed:
    """Train as it should be, with the mistake, and with what the first finding says to change."""
    optimizer, wrong = WRONG[mistake]
    right: dict[str, Any] = {**PLAIN, "optimizer": optimizer, "lr": RATES[optimizer]}
    given = right | wrong | {"lr": RATES[optimizer] * wrong.get("lr", 1.0)}
    good, start, _ = train(TASKS[task], right)
    bad, _, monitor = train(TASKS[task], given)
    advised = [f for f in monitor.findings if f.severity != "info" and f.changes]
    if not advised:
        return Followed(start, good, min(bad, start), math.inf, "nothing to change")
    mended, _, _ = train(TASKS[task], given | dict(advised[0].changes))
    return Followed(start, good, min(bad, start), mended, f"{advised[0].rule} {dict(advised[0].changes)}")


def train(task: Task, arguments: dict[str, Any]) -> tuple[float, float, DivergenceMonitor]:
    """Where the loss ended, where it began, and who watched."""
    torch.manual_seed(0)
    module, monitor, order = Learner(task, arguments), DivergenceMonitor(), Generator().manual_seed(1)
    loader = DataLoader(TensorDataset(*task.data()), BATCH, shuffle=True, drop_last=True, generator=order)
    trainer = L.Trainer(
        accelerator="cpu", max_steps=STEPS, max_epochs=-1, callbacks=[monitor], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with quiet():
        trainer.fit(module, loader)
    losses = np.where(np.isfinite(module.losses), module.losses, np.inf)
    return float(np.median(losses[-LAST:])), float(np.median(losses[:3])), monitor


def followed(only: str = "") -> Iterator[tuple[str, Followed]]:
    """Each case in turn."""
    for task, mistake in CASES:
        if only in f"{task}: {mistake}":
            yield f"{task}: {mistake}", follow(task, mistake)


def main() -> None:
    """A line each, and how many recover."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.advice_followed", description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    only: str = parser.parse_args().only
    harmed: list[bool] = []
    for case, end in followed(only):
        harmed += [end.is_mended] if end.is_harmed else []
        word = "no harm " if not end.is_harmed else "mended  " if end.is_mended else "NOT     "
        print(f"{word}{case}: {end.told}; {end.wrong:.3g} -> {end.mended:.3g}, right {end.right:.3g}", flush=True)
    print(f"{sum(harmed)} of {len(harmed)} wrong runs recover {ENOUGH:.0%} of what they lost")


if __name__ == "__main__":
    main()
