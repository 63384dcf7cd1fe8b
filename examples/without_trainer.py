"""The same optimizer, schedule, clipping and monitors without a Trainer: a plain loop, Fabric, Accelerate.

    python examples/without_trainer.py

The learning rate moves on and the gradients are clipped inside ``optimizer.step()``; the monitors see its steps by
themselves, and are handed each loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import lightning_adam as la

CONFIG = la.OptimizerConfig("adamw", lr=3e-3, schedule="cosine", warmup=0.1, total_steps=200, clip=1.0)


def batches(steps: int, size: int = 64) -> Iterator[tuple[Tensor, Tensor]]:
    """Random batches of scikit-learn's digits."""
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        chosen = torch.randint(len(labels), (size,), generator=generator)
        yield images[chosen], labels[chosen]


def model() -> nn.Sequential:
    """A small classifier, always the same."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def train_plainly(steps: int = 200, log_dir: Path | None = None) -> tuple[list[float], list[la.Finding]]:
    """A plain loop; the losses, and what was found."""
    net = model()
    optimizer = la.configure_optimizers(net, CONFIG)["optimizer"]
    losses = []
    with la.watch(net, optimizer, log_dir=log_dir, total_steps=steps) as watch:
        for images, labels in batches(steps):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(images), labels)
            watch.loss(loss).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
    return losses, watch.findings


def train_with_fabric(steps: int = 200, log_dir: Path | None = None) -> tuple[list[float], list[la.Finding]]:
    """The same under Fabric, which moves model and data to its devices and precision."""
    fabric = L.Fabric(accelerator="cpu", devices=1)
    net = model()
    net, optimizer = fabric.setup(net, la.configure_optimizers(net, CONFIG)["optimizer"])
    losses = []
    with la.watch(net, optimizer, log_dir=log_dir, total_steps=steps) as watch:
        for images, labels in batches(steps):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(images), labels)
            fabric.backward(watch.loss(loss))
            optimizer.step()
            losses.append(loss.item())
    return losses, watch.findings


def train_with_accelerate(steps: int = 200, log_dir: Path | None = None) -> tuple[list[float], list[la.Finding]]:
    """The same under Hugging Face's Accelerate."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    net = model()
    net, optimizer = accelerator.prepare(net, la.configure_optimizers(net, CONFIG)["optimizer"])
    losses = []
    with la.watch(net, optimizer, log_dir=log_dir, total_steps=steps) as watch:
        for images, labels in batches(steps):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(images), labels)
            accelerator.backward(watch.loss(loss))
            optimizer.step()
            losses.append(loss.item())
    return losses, watch.findings


if __name__ == "__main__":
    for train in (train_plainly, train_with_fabric, train_with_accelerate):
        losses, findings = train(log_dir=Path("runs") / train.__name__)
        print(f"{train.__name__:<24}loss {losses[0]:.3f} -> {losses[-1]:.3f}, findings: {[f.rule for f in findings]}")
