"""What la.watch is handed as a loss, and what a plain loop is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import lightning_adam as la
from tests.watched_loops import batches, digits_net, loss_of


def loop(hand_over: Any, steps: int = 12) -> la.integrations.Watch:
    """A few steps; ``hand_over`` gets the watch and each loss."""
    net = digits_net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    with la.watch(net, optimizer) as watch:
        for (_, batch), _ in zip(batches(), range(steps), strict=False):
            optimizer.zero_grad()
            loss = loss_of(net, batch)
            hand_over(watch, loss)
            loss.backward()
            optimizer.step()
    return watch


def test_a_loss_may_be_handed_over_as_a_number() -> None:
    """Nothing is lost but what only its graph shows; the number comes back."""
    told: list[float] = []
    watch = loop(lambda watch, loss: told.append(watch.loss(loss.item())))

    assert not watch.failures
    assert watch.state_dict()["monitor"]["diagnoses"][0]["history"]["losses"] == pytest.approx(told, rel=1e-5)


@pytest.mark.parametrize("wrong", [SimpleNamespace(loss=torch.tensor(1.0)), {"loss": torch.tensor(1.0)}])
def test_what_is_no_loss_is_refused(wrong: Any) -> None:
    """A model's whole output, of which the message says where its loss is."""
    meant = "outputs.loss" if hasattr(wrong, "loss") else "loss"
    with pytest.raises(la.ConfigError, match=rf"watch\.loss\({meant}\)\.backward"):
        loop(lambda watch, loss: watch.loss(wrong))


def test_a_loop_that_hands_over_no_loss_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Once; one that does is told nothing."""
    loop(lambda watch, loss: None)
    assert capsys.readouterr().err.count("watch.loss(loss).backward() in place of loss.backward()") == 1

    def hand_over(watch: la.integrations.Watch, loss: Tensor) -> None:
        watch.loss(loss)

    loop(hand_over)
    assert "in place of" not in capsys.readouterr().err
