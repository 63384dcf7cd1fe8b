"""DivergenceMonitor in real runs: silent on a healthy one, and right about a sick one."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_adam.callbacks import DivergenceMonitor
from tests.digits import Digits, digits_loader, trainer


def rules_found(module: Digits, **options: object) -> list[str]:
    """Train with the monitor; the codes of what it found."""
    monitor = DivergenceMonitor()
    trainer(**{"max_steps": 120, "callbacks": [monitor], **options}).fit(module, digits_loader())
    return [finding.rule for finding in monitor.findings]


class Late(Callback):
    """Adds a monitor when its run has begun."""

    def __init__(self, monitor: DivergenceMonitor) -> None:
        self.monitor = monitor

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """In the fifth batch."""
        if trainer.global_step == 5:
            trainer.callbacks.append(self.monitor)  # type: ignore[attr-defined]


def test_a_monitor_that_is_added_in_mid_run_listens_from_then_on() -> None:
    """Lightning tells it of no beginning."""
    monitor = DivergenceMonitor()
    trainer(max_steps=25, callbacks=[Late(monitor)]).fit(Digits(poison=(20,)), digits_loader())

    assert [(finding.rule, finding.step) for finding in monitor.findings] == [("NON-FINITE", 20)]


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "adamw8bit"])
def test_healthy_run_gives_no_finding(optimizer: str) -> None:
    """A run that learns well is not alarmed about."""
    assert rules_found(Digits(optimizer=optimizer)) == []


def test_nan_loss_is_found_where_it_began() -> None:
    """A NaN in the loss at step 40 is the first thing named, once."""
    assert rules_found(Digits(poison=(40,))) == ["NON-FINITE"]


def test_nan_loss_under_a_scaler_is_found_although_the_step_is_skipped() -> None:
    """The GradScaler saves the weights, and the user still learns of the NaN."""
    plugin = MixedPrecision("16-mixed", device="cpu", scaler=torch.amp.GradScaler("cpu", init_scale=16.0))

    assert rules_found(Digits(poison=(40,)), plugins=[plugin]) == ["NON-FINITE"]


def test_message_names_step_batch_and_kind(caplog: pytest.LogCaptureFixture) -> None:
    """The console line says what, where and when, and what to do; it comes once."""
    with caplog.at_level(logging.WARNING, logger="lightning_adam"):
        rules_found(Digits(poison=(40,)))

    lines = [r.getMessage() for r in caplog.records if r.name == "lightning_adam"]
    assert len(lines) == 1
    assert lines[0].startswith("[NON-FINITE] step 40: the loss became NaN or Inf first (batch 12)")
    assert "look at this batch" in lines[0]


def test_missing_warmup_is_found() -> None:
    """A large rate from the first step on moves weights by more than they are."""
    assert rules_found(Digits(lr=0.03, warmup=0))[0] == "NO-WARMUP"


def test_hopeless_rate_is_found() -> None:
    """At lr=1 the learning rate itself is named, warmup or not."""
    assert rules_found(Digits(lr=1.0))[0] == "LR-HIGH"


def test_bad_batch_is_found() -> None:
    """One batch of a thousandfold loss."""
    assert rules_found(Digits(poison=(80,), poison_factor=1000.0))[0] == "BAD-BATCH"


def test_recurring_heavy_gradients_are_found() -> None:
    """Three such batches."""
    assert "GRAD-EXPLODING" in rules_found(Digits(poison=(60, 80, 100), poison_factor=1000.0))


def test_findings_are_in_tensorboard(tmp_path: Path) -> None:
    """The counter, the table of all findings, and the machine-readable events."""
    logger = TensorBoardLogger(tmp_path, name="", version="run")
    rules_found(Digits(poison=(40,)), logger=logger, log_every_n_steps=10)

    events = EventAccumulator(logger.log_dir).Reload()
    totals = {e.step: e.value for e in events.Scalars("adam/findings_total")}
    assert (totals[9], totals[40], totals[119]) == (0.0, 1.0, 1.0)
    stored = json.loads(events.Tensors("adam_events")[0].tensor_proto.string_val[0])
    assert stored[0]["rule"] == "NON-FINITE"
    assert math.isnan(stored[0]["evidence"]["loss"])
    table = events.Tensors("adam/findings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "**NON-FINITE**" in table


def test_resumed_run_remembers(tmp_path: Path) -> None:
    """Findings and history survive a checkpoint, which Lightning loads with weights_only."""
    first = DivergenceMonitor()
    half = trainer(max_steps=56, callbacks=[first])
    half.fit(Digits(poison=(40,), poison_factor=1000.0, total_steps=112), digits_loader())
    half.save_checkpoint(tmp_path / "half.ckpt")
    second = DivergenceMonitor()
    rest = trainer(max_steps=112, callbacks=[second])
    rest.fit(Digits(total_steps=112), digits_loader(), ckpt_path=tmp_path / "half.ckpt")

    assert [f.rule for f in second.findings] == [f.rule for f in first.findings]
    assert second.findings[0].step == 40
    assert second.state_dict()["diagnoses"][0]["history"]["count"] == 112
