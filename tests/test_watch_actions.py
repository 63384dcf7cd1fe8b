"""la.watch acts in a plain loop: it stops, rolls back, skips a step, lowers the rate."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lightning_adam as la
from tests.watched_loops import batches, digits_net, loss_of


def sick(watch_options: dict[str, Any], folder: Path) -> tuple[nn.Module, la.integrations.Watch]:
    """A NaN loss at step 40 of 80; a loop that looks at should_stop."""
    net = digits_net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    with la.watch(net, optimizer, log_dir=folder, **watch_options) as watch:
        for (_, batch), step in zip(batches(), range(80), strict=False):
            optimizer.zero_grad()
            watch.loss(loss_of(net, batch) * (math.nan if step == 40 else 1.0)).backward()
            optimizer.step()
            if watch.should_stop:
                break
    return net, watch


def test_stop_asks_the_loop_to_end(tmp_path: Path) -> None:
    """It saves weights and moments first."""
    _, watch = sick({"on_divergence": "stop"}, tmp_path)

    saved = torch.load(tmp_path / "adam_stopped_step_41.pt", weights_only=True)
    assert saved["step"] == 41
    assert set(saved["module"]) == set(digits_net().state_dict())
    assert "stop: asked the loop to stop at step 41" in watch.summary()


@pytest.mark.parametrize("action", ["rollback", "skip_step"])
def test_an_action_saves_the_weights(action: str, tmp_path: Path) -> None:
    """In the step that has the NaN; the weights are finite to the end."""
    net, watch = sick({"on_divergence": action}, tmp_path)

    assert all(bool(torch.isfinite(p).all()) for p in net.parameters())
    assert next((f.evidence["action"], f.step) for f in watch.findings if "action" in f.evidence) == (action, 40)


def test_raise_on_raises_out_of_the_step(tmp_path: Path) -> None:
    """For tests and CI."""
    with pytest.raises(RuntimeError, match=r"\[NON-FINITE\] step 40"):
        sick({"raise_on": "critical"}, tmp_path)


def test_a_lowered_rate_stays_low_under_a_scheduler_of_torchs(tmp_path: Path) -> None:
    """The watch is told of it."""
    net = digits_net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    with la.watch(net, optimizer, schedulers=scheduler, on_divergence="reduce_lr", max_actions=1) as watch:
        for (_, batch), _ in zip(batches(), range(10), strict=False):
            optimizer.zero_grad()
            watch.loss(loss_of(net, batch)).backward()
            optimizer.step()
            scheduler.step()

    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.3)


def test_one_nan_is_answered_by_one_rollback() -> None:
    """The state counts fewer updates after it: that is no lost state."""
    net = digits_net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    with la.watch(net, optimizer, on_divergence="rollback") as watch:
        for (_, batch), step in zip(batches(), range(130), strict=False):
            optimizer.zero_grad()
            watch.loss(loss_of(net, batch) * (math.nan if step == 60 else 1.0)).backward()
            optimizer.step()

    assert [f.step for f in watch.findings if "action" in f.evidence] == [60]
    assert [f.rule for f in watch.findings if f.severity == "critical"] == ["NON-FINITE"]


def test_rollback_goes_back_behind_no_group_that_was_added() -> None:
    """A state that lacks it would not load: the next one that has it is kept at once."""
    net = digits_net()
    optimizer = torch.optim.AdamW(net[0].parameters(), lr=1e-3)
    with la.watch(net, optimizer, on_divergence="rollback") as watch:
        for (_, batch), step in zip(batches(), range(80), strict=False):
            if step == 30:
                optimizer.add_param_group({"params": list(net[2].parameters())})
            optimizer.zero_grad()
            watch.loss(loss_of(net, batch) * (math.nan if step == 45 else 1.0)).backward()
            optimizer.step()

    assert all(bool(torch.isfinite(p).all()) for p in net.parameters())
    assert "weights and moments of step 30" in watch.summary()


def test_after_closing_it_says_whether_it_stopped_and_what_failed(tmp_path: Path) -> None:
    """A loop may look at it after the ``with``."""
    _, watch = sick({"on_divergence": "stop"}, tmp_path)

    assert watch.should_stop
    assert watch.failures == set()
