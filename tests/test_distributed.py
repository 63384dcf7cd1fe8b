"""Two gloo processes on the CPU: every clipping rule is right under DDP and FSDP2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy

import lightning_adam as la
from tests.digits import Digits
from tests.run_distributed import RULES

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, torch.Tensor]]]:
    """Final weights by strategy and rule; each strategy in a process of its own, as its launcher starts the script again."""
    folder = tmp_path_factory.mktemp("distributed")
    for kind in ("single", "ddp", "fsdp2"):
        command = [sys.executable, "-m", "tests.run_distributed", kind, str(folder / f"{kind}.pt")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=240, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    return {kind: torch.load(folder / f"{kind}.pt") for kind in ("single", "ddp", "fsdp2")}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_clipping_is_that_of_one_process(kind: str, rule: str, weights: Any) -> None:
    """The same batches on both ranks: after twelve clipped steps the weights are those of one process."""
    for name, want in weights["single"][rule].items():
        torch.testing.assert_close(weights[kind][rule][name], want, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["single", "ddp", "fsdp2"])
def test_divergence_monitor_works_there(kind: str, weights: Any) -> None:
    """None of its methods has failed (a failing one warns and lets the training go on)."""
    assert weights[kind]["failed"] == []


def test_eight_bit_state_is_refused_under_fsdp2() -> None:
    """bitsandbytes cannot shard its state: said when the optimizer is configured."""
    module = Digits(optimizer="adamw8bit", total_steps=10)
    module._trainer = L.Trainer(accelerator="cpu", devices=1, strategy=ModelParallelStrategy(), logger=False)

    with pytest.raises(la.ConfigError, match="cannot shard 8-bit state"):
        module.configure_optimizers()
