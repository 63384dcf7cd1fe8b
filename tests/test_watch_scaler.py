"""la.watch under a gradient scaler: losses without its scale, and every step that it leaves out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import lightning_adam as la
from tests.digits import digits_loader
from tests.watched_loops import batches, digits_net, loss_of, signals


@pytest.mark.parametrize("hand_over_scaled", [True, False])
def test_a_loss_may_be_handed_over_scaled_or_not(hand_over_scaled: bool, tmp_path: Path) -> None:
    """The signal is the loss itself; the gradient norm is without the scale, and the scale is a signal."""
    net = digits_net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    losses = []
    with la.watch(net, optimizer, log_dir=tmp_path, scaler=scaler) as watch:
        for (_, batch), _ in zip(batches(), range(12), strict=False):
            optimizer.zero_grad()
            loss = loss_of(net, batch)
            losses.append(loss.item())
            scaled = scaler.scale(loss) if hand_over_scaled else scaler.scale(watch.loss(loss))
            (watch.loss(scaled) if hand_over_scaled else scaled).backward()
            scaler.step(optimizer)
            scaler.update()

    steps = signals(tmp_path)
    assert [step.loss for step in steps] == pytest.approx(losses, rel=1e-5)
    assert steps[0].gradient_norm < 10
    assert steps[0].scale == 1024.0


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_that_the_scaler_leaves_out_is_told(fused: bool, tmp_path: Path) -> None:
    """It is a step of the log's axis, its loss is its own, and the next step's loss is not mixed with it."""
    net = digits_net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    losses = []
    with la.watch(net, optimizer, log_dir=tmp_path, scaler=scaler) as watch:
        for (_, batch), step in zip(batches(), range(12), strict=False):
            optimizer.zero_grad()
            loss = loss_of(net, batch) * (math.inf if step == 5 else 1.0)
            losses.append(loss.item())
            watch.loss(scaler.scale(loss)).backward()
            scaler.step(optimizer)
            scaler.update()

    steps = signals(tmp_path)
    assert [step.step for step in steps] == list(range(12))
    assert [step.step for step in steps if step.skipped] == [5]
    assert [step.loss for step in steps] == pytest.approx(losses, rel=1e-5)


def test_skips_are_counted_once_where_the_loop_clips_by_hand(tmp_path: Path) -> None:
    """Also the last step's, which no loss follows."""
    net = digits_net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, foreach=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    with la.watch(net, optimizer, log_dir=tmp_path, scaler=scaler, every_n_steps=1) as watch:
        for (_, batch), step in zip(batches(), range(12), strict=False):
            optimizer.zero_grad()
            loss = loss_of(net, batch) * (math.inf if step in (5, 11) else 1.0)
            watch.loss(scaler.scale(loss)).backward()
            scaler.unscale_(optimizer)
            watch.before_clipping()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()

    assert [(step.step, step.skipped) for step in signals(tmp_path)] == [(k, k in (5, 11)) for k in range(12)]
    totals = EventAccumulator(str(tmp_path)).Reload().Scalars("adam.amp/skipped_steps_total")
    assert totals[-1].value == 2


@pytest.mark.parametrize("combine", [lambda s, loss: s(loss) / 2, lambda s, loss: sum(s([loss, loss])) / 4])
def test_a_scaled_loss_is_known_though_it_is_divided_or_summed_afterwards(combine: Any, tmp_path: Path) -> None:
    """Scaling need not be the last operation."""
    net = digits_net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    batch = next(iter(digits_loader()))
    with la.watch(net, optimizer, log_dir=tmp_path, scaler=scaler) as watch:
        loss = loss_of(net, batch)
        watch.loss(combine(scaler.scale, loss)).backward()
        scaler.step(optimizer)

    assert signals(tmp_path)[0].loss == pytest.approx(loss.item() / 2, rel=1e-5)
