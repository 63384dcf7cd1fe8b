"""What only a GPU can show; skipped where there is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim import Optimizer

from lightning_adam.callbacks import DivergenceMonitor, OptimizerMonitor
from tests.digits import Digits, digits_loader, trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


class Guarded(DivergenceMonitor):
    """Where no pass over all tensors is due, any wait for the device is an error."""

    light_steps = 0

    def _after_step(self, index: int, optimizer: Optimizer) -> None:
        light = not self._watches[index]._measured
        self.light_steps += light
        torch.cuda.set_sync_debug_mode("error" if light else "default")
        super()._after_step(index, optimizer)
        torch.cuda.set_sync_debug_mode("default")


def test_light_steps_do_not_wait_for_the_device() -> None:
    """No synchronisation in a step that does not measure; what arrives late is still judged."""
    monitor = Guarded()
    options: dict[str, Any] = {"max_steps": 60, "accelerator": "gpu", "callbacks": [monitor]}
    trainer(**options).fit(Digits(lr=3e-3), digits_loader())

    assert monitor.light_steps >= 40
    assert monitor.__dict__.get("_failed", set()) == set()
    assert monitor.findings == []


def test_weights_are_bit_for_bit_those_without_monitors() -> None:
    """On the GPU too."""
    bare, watched = Digits(), Digits()
    trainer(max_steps=15, accelerator="gpu").fit(bare, digits_loader())
    trainer(max_steps=15, accelerator="gpu", callbacks=[OptimizerMonitor(1), DivergenceMonitor()]).fit(
        watched, digits_loader()
    )

    assert all(torch.equal(one, other) for one, other in zip(bare.parameters(), watched.parameters(), strict=True))
