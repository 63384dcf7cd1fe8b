"""la.watch: the monitors in a plain loop say what they say under a Trainer, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import lightning_adam as la
from lightning_adam.callbacks import DivergenceMonitor, OptimizerMonitor
from lightning_adam.diagnosis import Finding
from tests.digits import Digits, digits_loader, trainer

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
        tag: [(e.step, _content(e)) for e in read[kind](tag)]
        for kind in read
        for tag in tags[kind]
        if tag.startswith("adam")
    }


def _content(event: Any) -> Any:
    for name in ("value", "encoded_image_string", "histogram_value"):
        if hasattr(event, name):
            return repr(getattr(event, name))
    return event.tensor_proto.SerializeToString()


def under_a_trainer(folder: Path, module: Digits, **options: Any) -> list[Finding]:
    """Train it; the findings."""
    monitor = DivergenceMonitor()
    logger = TensorBoardLogger(folder, name="", version="trainer")
    callbacks = [OptimizerMonitor(), monitor]
    trainer(max_steps=STEPS, log_every_n_steps=EVERY, logger=logger, callbacks=callbacks, **options).fit(
        module, digits_loader()
    )
    assert monitor.failures == set()
    return monitor.findings


def in_a_loop(folder: Path, module: Digits, accumulate: int = 1, scaler: Any = None, **options: Any) -> list[Finding]:
    """The same training by hand."""
    optimizer = module.make_optimizer()
    log_dir = folder / "loop"
    with la.watch(
        module,
        optimizer,
        log_dir=log_dir,
        total_steps=STEPS,
        steps_per_epoch=28 // accumulate,
        every_n_steps=EVERY,
        accumulation=accumulate,
        scaler=scaler,
        **options,
    ) as watch:
        taken, drawn = 0, 0
        for index, batch in batches():
            with torch.autocast("cpu", torch.float16, enabled=scaler is not None):
                loss = module.training_step(batch, index) / accumulate
            loss = loss if scaler is None else scaler.scale(loss)
            watch.loss(loss, batch=batch, batch_index=index).backward()
            drawn += 1
            if drawn % accumulate and index != 27:
                continue
            drawn = 0
            _step(optimizer, scaler)
            optimizer.zero_grad()
            taken += 1
            if taken == STEPS:
                break
    assert watch.failures == set()
    return watch.findings


def _step(optimizer: Any, scaler: Any) -> None:
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()


class ByHand(Digits):
    """Digits whose optimizer can be made without a trainer."""

    def make_optimizer(self) -> Any:
        """As ``configure_optimizers`` under a Trainer of STEPS steps."""
        return la.configure_optimizers(self, **{"lr": 3e-3, "total_steps": STEPS, **self.options})["optimizer"]


CASES: dict[str, tuple[dict[str, Any], int, bool]] = {
    "healthy": ({}, 1, False),
    "a NaN": ({"poison": (40,)}, 1, False),
    "a rate too high": ({"lr": 1.0, "warmup": 0}, 1, False),
    "accumulated": ({}, 4, False),
    "fp16": ({"fused": False}, 1, True),
    "no Adam": ({"optimizer": "lion", "lr": 1e-3}, 1, False),
    "16-bit state": ({"optimizer": "adamw8bit"}, 1, False),
}


@pytest.mark.parametrize("case", CASES)
def test_a_plain_loop_writes_what_a_trainer_writes(case: str, tmp_path: Path) -> None:
    """Equal tags, equal values at equal steps, equal findings."""
    options, accumulate, half = CASES[case]
    extra: dict[str, Any] = {"accumulate_grad_batches": accumulate}
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0) if half else None
    if half:
        plugin = MixedPrecision("16-mixed", device="cpu", scaler=torch.amp.GradScaler("cpu", init_scale=16.0))
        extra["plugins"] = [plugin]
    found = under_a_trainer(tmp_path, ByHand(**options), **extra)
    again = in_a_loop(tmp_path, ByHand(**options), accumulate, scaler)

    assert repr(again) == repr(found)
    trained, looped = events(tmp_path / "trainer"), events(tmp_path / "loop")
    assert set(looped) == set(trained)
    assert {tag for tag in trained if looped[tag] != trained[tag]} == set()
