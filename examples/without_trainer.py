"""The same optimizer, schedule, clipping and monitors without a Trainer: a plain loop, Fabric, Accelerate.

    python examples/without_trainer.py

The learning rate moves on and the gradients are clipped inside ``optimizer.step()``; the monitors see its steps by
themselves, and are handed each loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import lightning as L
import torch
from torch import Tensor, nn

import lightning_adam as la

CONFIG = la.OptimizerConfig("adamw", lr=3e-3, schedule="cosine", warmup=0.1, total_steps=200, clip=1.0)


def batches(steps: int, size: int = 64) -> Iterator[tuple[Tensor, Tensor]]:
    """Ten patterns of 8 x 8 pixels, seen through noise, and which of them it is."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(10, 64, generator=generator)
    for _ in range(steps):
        labels = torch.randint(10, (size,), generator=generator)
        yield patterns[labels] + 0.5 * torch.randn(size, 64, generator=generator), labels


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
    loops = [train_plainly, train_with_fabric, *([train_with_accelerate] if find_spec("accelerate") else [])]
    for train in loops:
        losses, findings = train(log_dir=Path("runs") / train.__name__)
        print(f"{train.__name__:<24}loss {losses[0]:.3f} -> {losses[-1]:.3f}, findings: {[f.rule for f in findings]}")
