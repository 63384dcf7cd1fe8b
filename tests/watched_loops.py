"""Plain loops for la.watch, and what they left in an event file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

import lightning_adam as la
from lightning_adam.diagnosis import RunSignals, StepSignals, decode
from tests.digits import Digits, digits_loader

STEPS, EVERY = 60, 10


def batches() -> Iterator[tuple[int, Any]]:
    """Epoch after epoch, as a Trainer draws them."""
    while True:
        yield from enumerate(digits_loader())


def events(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    """Everything of ours in an event file: scalars, histograms, tensors and pictures by tag."""
    found = EventAccumulator(
        str(folder), size_guidance=dict.fromkeys(("scalars", "tensors", "images", "histograms"), 0)
    ).Reload()
    read: dict[str, Any] = {"scalars": found.Scalars, "tensors": found.Tensors, "images": found.Images}
    read["histograms"] = found.Histograms
    tags = found.Tags()
    return {
        tag: [(e.step, _records(e) if tag == "adam_signals" else _content(e)) for e in read[kind](tag)]
        for kind in read
        for tag in tags[kind]
        if tag.startswith("adam")
    }


def _records(event: Any) -> list[str]:
    """Of the rules' signals, but for who trains."""
    records = decode(event.tensor_proto.string_val[0])
    return [repr(replace(r, mode="") if isinstance(r, RunSignals) else r) for r in records]


def _content(event: Any) -> Any:
    for name in ("value", "encoded_image_string", "histogram_value"):
        if hasattr(event, name):
            return repr(getattr(event, name))
    return event.tensor_proto.SerializeToString()


class ByHand(Digits):
    """Digits whose optimizer can be made without a trainer."""

    def make_optimizer(self) -> Any:
        """As ``configure_optimizers`` under a Trainer of STEPS steps."""
        return la.configure_optimizers(self, **{"lr": 3e-3, "total_steps": STEPS, **self.options})["optimizer"]


def digits_net() -> nn.Sequential:
    """A small classifier, always the same."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def loss_of(net: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy."""
    return nn.functional.cross_entropy(net(batch[0]), batch[1])


def signals(folder: Path, prefix: str = "adam") -> list[StepSignals]:
    """What the rules saw."""
    found = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload().Tensors(f"{prefix}_signals")
    records = [record for event in found for record in decode(event.tensor_proto.string_val[0])]
    return [record for record in records if isinstance(record, StepSignals)]
