"""What alarmed, or got the wrong name, in runs that nobody had tuned on: each kind beside the fault that it looks like."""

from __future__ import annotations

import math
from dataclasses import replace

import lightning as L
import pytest
import torch
from lion_pytorch import Lion
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lightning_adam.callbacks import DivergenceMonitor
from lightning_adam.diagnosis import NonFinite, RunSignals, StepSignals
from lightning_adam.moments.steps import decay_is_decoupled
from lightning_adam.monitoring import Record
from tests.healthy_run import RUN, Change, both, diagnose, healthy, heavy, light

CHANCE = math.log(10)


def codes(change: Change, run: RunSignals = RUN) -> dict[str, str]:
    """The severities of what is found, by their codes."""
    return {f.rule: f.severity for f in diagnose([change(s) for s in healthy()], run)}


@pytest.mark.parametrize(("share", "found"), [(1.0, True), (0.0, False)])
def test_zero_weights_that_get_gradients_are_no_dead_start(share: float, found: bool) -> None:
    """Of a linear model, or of a patch on a network that stays as it is."""
    told = codes(heavy(until=9, zero_gradients=share), replace(RUN, zero_tensors=3))

    assert ("NO-LEARNING" in told) == found


@pytest.mark.parametrize(("given", "found"), [(1.0, False), (0.0, True)])
def test_a_batch_of_zeros_that_the_model_does_not_read_is_no_constant_input(given: float, found: bool) -> None:
    """An environment's states, or a graph that the module holds, under a loader that only counts."""
    constant = both(heavy(input_change=0.0, input_max=0.0), heavy(until=5, layer_rms=given), light(loss=CHANCE))

    assert ("INPUT-CONSTANT" in codes(constant)) == found


@pytest.mark.parametrize(("tensors", "severity"), [(1, "info"), (6, "warning")])
def test_one_label_is_the_aim_of_a_patch(tensors: int, severity: str) -> None:
    """One tensor is learnt, so that a network takes everything for one class."""
    told = codes(heavy(target_classes=1.0, target_label=3.0), replace(RUN, tensors=tensors, one_class=True))

    assert told == {"ONE-LABEL": severity}


def test_a_first_loss_that_raw_inputs_make_infinite_is_the_inputs_doing() -> None:
    broken = both(heavy(layer_rms=300.0), light(0, 1, loss=math.inf, gradient_norm=math.nan, non_finite=NonFinite("loss")))

    assert codes(broken) == {"INPUT-SCALE": "critical"}


def test_sorted_data_are_seen_over_the_batches_where_a_class_ends() -> None:
    def of_a_sorted_table(s: StepSignals) -> StepSignals:
        return heavy(target_classes=2.0 if s.step % 4 == 3 else 1.0, target_label=float(s.step // 4))(s)

    assert "SORTED" in codes(of_a_sorted_table)


def test_lions_decay_shrinks_the_weights_and_is_no_part_of_the_gradient() -> None:
    optimizer = Lion(nn.Linear(3, 2).parameters(), lr=1e-4, weight_decay=0.1)

    assert decay_is_decoupled(optimizer, optimizer.param_groups[0])


class Duel(L.LightningModule):
    """Two networks that step in turn, by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.first, self.second = nn.Linear(4, 1), nn.Linear(4, 1)

    def training_step(self, batch: Tensor, index: int) -> None:
        for optimizer, net in zip(self.optimizers(), (self.first, self.second), strict=True):  # type: ignore[arg-type]
            optimizer.zero_grad()
            self.manual_backward(F.mse_loss(net(batch)[:, 0], batch.sum(1)))
            optimizer.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(net.parameters(), 1e-3) for net in (self.first, self.second)]


class Recorder(DivergenceMonitor):
    """Keeps what the run is known to be."""

    total_steps = math.nan

    def on_record(self, position: int, record: Record) -> None:
        if isinstance(record, RunSignals):
            self.total_steps = record.total_steps


@pytest.mark.parametrize(("length", "total"), [({"max_steps": 12}, 6.0), ({"max_epochs": 1}, 8.0)])
def test_max_steps_of_two_optimizers_are_half_as_many_batches(length: dict[str, int], total: float) -> None:
    """Lightning counts each optimizer's step: a run that was thought twice as long never came to its late rules."""
    monitor = Recorder()
    trainer = L.Trainer(**length, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                        enable_model_summary=False, callbacks=[monitor])  # fmt: skip
    trainer.fit(Duel(), DataLoader(torch.randn(32, 4), batch_size=4))

    assert monitor.total_steps == total
