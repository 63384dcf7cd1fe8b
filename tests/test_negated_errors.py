"""An error with a minus before it is read off the first loss, and told at once; what may be negative itself is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Normal
from torch.nn import functional as F
from torch.optim import Adam

import lightning_adam as la
from lightning_adam.preflight.negated import is_negated_error

ROWS, PLACES = 32, 3
TARGETS = torch.randn(ROWS, PLACES, generator=torch.Generator().manual_seed(0))
SHARES, CLASSES = TARGETS.sigmoid(), torch.arange(ROWS) % PLACES
ERRORS: dict[str, Callable[[Tensor], Tensor]] = {
    "squares": lambda y: F.mse_loss(y, TARGETS),
    "squares by hand": lambda y: ((y - TARGETS) ** 2).mean(),
    "root of squares": lambda y: F.mse_loss(y, TARGETS).sqrt(),
    "distances": lambda y: F.l1_loss(y, TARGETS),
    "lengths": lambda y: (y - TARGETS).norm(dim=1).mean(),
    "masked": lambda y: ((y - TARGETS).square() * SHARES).sum() / SHARES.sum(),
    "halved": lambda y: 0.5 * F.mse_loss(y, TARGETS),
    "of two parts": lambda y: F.mse_loss(y, TARGETS) + F.l1_loss(y, SHARES),
    "classes": lambda y: F.cross_entropy(y, CLASSES),
    "classes of places": lambda y: F.cross_entropy(y[:, :, None].expand(-1, -1, 5), CLASSES[:, None].expand(-1, 5)),
    "bits": lambda y: F.binary_cross_entropy_with_logits(y, SHARES),
    "hinge": lambda y: (1 - y).clamp(min=0).mean(),
}
OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "likelihood": lambda y: -Normal(y, 0.1).log_prob(TARGETS).mean(),
    "log-probability": lambda y: -F.log_softmax(y, 1)[:, 0].mean(),
    "likeness": lambda y: -F.cosine_similarity(y, TARGETS).mean(),
    "reward": lambda y: -(y.log_softmax(1)[:, 0] * TARGETS[:, 0]).mean(),
    "entropy": lambda y: -Categorical(logits=y).entropy().mean(),
    "bound": lambda y: -(-F.mse_loss(y, TARGETS) - y.exp().mean()),
    "spread": lambda y: -y.var(),
    "critic": lambda y: -y.mean(),
    "distance of two outputs": lambda y: -F.mse_loss(y, y.flip(0)),
    "power": lambda y: -y.square().sum(1).mean(),
    "activation": lambda y: -y.relu()[:, 1].mean(),
    "distance of outputs": lambda y: -(F.normalize(y, dim=1) - F.normalize(y.flip(0), dim=1)).norm(dim=1).mean(),
    "scores as if they were logarithms": lambda y: -F.nll_loss(y, CLASSES),
}
MINUS: dict[str, Callable[[Tensor], Tensor]] = {
    "minus": lambda loss: -loss,
    "times -1": lambda loss: -1 * loss,
    "of four batches": lambda loss: -loss / 4,
    "of one batch": lambda loss: -loss / 1,
}  # as Lightning divides every loss


def output() -> Tensor:
    torch.manual_seed(0)
    result: Tensor = nn.Linear(4, PLACES)(torch.randn(ROWS, 4))
    return result


@pytest.mark.parametrize("minus", MINUS)
@pytest.mark.parametrize("error", ERRORS)
def test_an_error_with_a_minus_is_seen_and_without_it_is_none(error: str, minus: str) -> None:
    assert is_negated_error(MINUS[minus](ERRORS[error](output())))
    assert not is_negated_error(ERRORS[error](output()))


@pytest.mark.parametrize("other", OTHERS)
def test_what_may_be_negative_is_no_error(other: str) -> None:
    assert not is_negated_error(OTHERS[other](output()))


@pytest.mark.parametrize(("sign", "rules"), [(-1.0, [("WRONG-SIGN", 0)]), (1.0, [])])
def test_a_run_that_climbs_is_told_at_its_first_step(sign: float, rules: list[tuple[str, int]]) -> None:
    torch.manual_seed(0)
    net, weights = nn.Linear(4, PLACES), torch.randn(4, PLACES)
    optimizer = Adam(net.parameters(), 1e-2)
    with la.watch(net, optimizer, total_steps=100) as watch:
        for _ in range(100):
            x = torch.randn(ROWS, 4)
            optimizer.zero_grad()
            watch.loss(sign * F.mse_loss(net(x), x @ weights)).backward()
            optimizer.step()

    assert [(f.rule, f.step) for f in watch.findings if f.severity != "info"] == rules
