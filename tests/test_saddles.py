"""Runs that begin near a saddle: the loss stands for most of the run, while gradients and weights grow."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lightning_adam as la

USERS, STEPS = 60, 300


def factorised(rate: float, size: float) -> tuple[set[str], float]:
    """Codes of the alarms, and the last loss, of ratings by users' and items' embeddings that begin near zero."""
    torch.manual_seed(0)
    ratings = torch.randn(USERS, 3) @ torch.randn(3, USERS) / 3**0.5
    net = nn.ModuleList([nn.Embedding(USERS, 6), nn.Embedding(USERS, 6)])
    for table in net:
        nn.init.normal_(table.weight, 0, size)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9)
    with la.watch(net, optimizer, total_steps=STEPS) as watch:
        for _ in range(STEPS):
            user, item = torch.randint(0, USERS, (2, 512))
            loss = F.mse_loss((net[0](user) * net[1](item)).sum(1), ratings[user, item])
            optimizer.zero_grad()
            watch.loss(loss, batch=(user, item, ratings[user, item])).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return {f.rule for f in watch.findings if f.severity != "info"}, loss.item()


@pytest.mark.parametrize(("rate", "size"), [(0.25, 1e-3), (0.3, 1e-4)])
def test_a_loss_that_stands_while_gradients_grow_is_no_alarm(rate: float, size: float) -> None:
    told, last = factorised(rate, size)

    assert (told, last < 0.5) == (set(), True)


def test_at_a_rate_that_will_not_leave_the_saddle_something_is_told() -> None:
    told, last = factorised(0.002, 1e-3)

    assert told and last > 0.9
