"""What the same answer to every example would cost: read off the first loss, and what a loss that stays there means."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import lightning_adam as la
from lightning_adam.preflight.cheap import FirstStep
from lightning_adam.preflight.constant_answers import costs_of_constant_answers
from lightning_adam.preflight.graph import step_of

VALUES = np.random.default_rng(0).gamma(2.0, size=(256, 5)) * np.arange(1, 6) + np.arange(5)
MARKS = (np.random.default_rng(1).random((256, 5)) < np.arange(1, 6) / 8).astype(float)
CLASSES = (np.random.default_rng(2).random((256, 6)) < np.arange(1, 7) / 8).astype(int)


def entropy(shares: np.ndarray) -> np.ndarray:
    """Of the last axis, in nats."""
    return -(shares * np.log(shares)).sum(-1)


def of_two(share: np.ndarray) -> np.ndarray:
    return entropy(np.stack([share, 1 - share], -1))


def soft(answer: float, target: np.ndarray) -> float:
    """Huber's loss of width 2, of one answer."""
    distance = np.abs(target - answer)
    return float(np.where(distance < 2, distance**2 / 2, 2 * (distance - 1)).mean())


def least_soft(target: np.ndarray) -> float:
    return float(minimize_scalar(soft, args=(target,)).fun)


SHARES = np.random.default_rng(3).dirichlet(np.arange(1, 7), 256)
SOFT = least_soft(VALUES), float(np.mean([least_soft(column) for column in VALUES.T])) * 256 / 255
SQUARES = VALUES.var(), VALUES.var(0, ddof=1).mean()
DISTANCES = np.abs(VALUES - np.median(VALUES)).mean(), np.abs(VALUES - np.median(VALUES, 0)).mean()
BITS = of_two(MARKS.mean()), of_two(MARKS.mean(0)).mean()
SOME_IGNORED = torch.tensor([[0, 1, 255]]).repeat(32, 1)
NATS = of_two(CLASSES.mean()), of_two(CLASSES.mean(0)).mean()
LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], np.ndarray, tuple[float, float]]] = {
    "mse": (F.mse_loss, VALUES, SQUARES),
    "mse, summed": (lambda y, t: F.mse_loss(y, t, reduction="sum"), VALUES, tuple(s * VALUES.size for s in SQUARES)),
    "mse, summed over each example": (
        lambda y, t: F.mse_loss(y, t, reduction="none").sum(1).mean(),
        VALUES,
        tuple(5 * s for s in SQUARES),
    ),
    "l1": (F.l1_loss, VALUES, DISTANCES),
    "smooth l1": (lambda y, t: F.smooth_l1_loss(y, t, beta=2.0), VALUES, tuple(h / 2.0 for h in SOFT)),
    "huber": (lambda y, t: F.huber_loss(y, t, delta=2.0), VALUES, SOFT),
    "shares": (lambda y, t: F.cross_entropy(y, t), SHARES, (entropy(SHARES.mean(0)), entropy(SHARES.mean(0)))),
    "logits": (F.binary_cross_entropy_with_logits, MARKS, BITS),
    "probabilities": (lambda y, t: F.binary_cross_entropy(y.sigmoid(), t), MARKS, BITS),
    "classes": (lambda y, t: F.cross_entropy(torch.stack([y, -y], 1), t.long()), CLASSES, NATS),
}
"""With the cost of one answer for all, and of one for each place, by formula, in float64."""


@pytest.mark.parametrize("name", LOSSES)
def test_costs_of_constant_answers_are_read_off_the_call(name: str) -> None:
    """While the step is recorded, as a callback does; ``l1_loss`` leaves no target in the graph."""
    loss_of, target, expected = LOSSES[name]
    given, targets = nn.Linear(3, target.shape[1])(torch.zeros(256, 3)), torch.tensor(target, dtype=torch.float32)
    first = FirstStep()
    first.begin([given, targets])
    loss = loss_of(given, targets)

    assert costs_of_constant_answers(first.end(), loss) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ("l1", "shares")])
def test_costs_of_constant_answers_are_read_off_the_graph(name: str) -> None:
    """Where nobody was watching, as in a plain loop; shares are multiplied by hand there."""
    loss_of, target, expected = LOSSES[name]
    loss = loss_of(nn.Linear(3, target.shape[1])(torch.zeros(256, 3)), torch.tensor(target, dtype=torch.float32))

    assert costs_of_constant_answers(step_of(loss), loss) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    "loss_of",
    [
        lambda y: F.cross_entropy(y, torch.arange(32) % 5),
        lambda y: F.mse_loss(y[:4], torch.randn(4, 5)),
        lambda y: 100 * F.mse_loss(y, torch.randn(32, 5)),
        lambda y: F.mse_loss(y, torch.randn(32, 5)) + y.exp().sum(),
        lambda y: F.mse_loss(y, torch.zeros(32, 5)),
        lambda y: F.cross_entropy(y.unflatten(1, (5, 1)).expand(-1, -1, 3), torch.full((32, 3), -100)),
        lambda y: F.cross_entropy(y.unflatten(1, (5, 1)).expand(-1, -1, 3), SOME_IGNORED, ignore_index=255),
        lambda y: F.cross_entropy(y[:, :1, None] * torch.ones(20, 3), torch.randint(20, (32, 3))),
        lambda y: y.square().mean(),
    ],
    ids=["a class each", "few", "weighted", "a small part", "no spread", "ignored", "some ignored", "words", "no target"],
)
def test_what_is_not_known_is_not_guessed(loss_of: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    loss = loss_of(nn.Linear(8, 5)(torch.randn(32, 8)))

    assert costs_of_constant_answers(step_of(loss), loss) == ()


class Autoencoder(nn.Module):
    """A variational one, of pictures of digits."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 16))
        self.decoder, self.weight = nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 64)), weight

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.encoder(x).chunk(2, 1)
        codes = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1).mean()
        return F.mse_loss(self.decoder(codes), x) + self.weight * divergence


@pytest.mark.parametrize(("weight", "rules"), [(1.0, ["NO-LEARNING"]), (1e-3, [])])
def test_an_autoencoder_that_loses_its_codes_learns_nothing(weight: float, rules: list[str]) -> None:
    """The divergence is a sum, the squared error a mean: at weight 1 the codes say nothing of what they stand for."""
    torch.manual_seed(0)
    pictures = torch.tensor(load_digits().data / 16, dtype=torch.float32)
    model = Autoencoder(weight)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    with la.watch(model, optimizer, total_steps=500) as watch:
        for _ in range(500):
            loss = model(pictures[torch.randint(len(pictures), (64,))])
            watch.loss(loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    found = [f for f in watch.findings if f.severity != "info"]
    assert [f.rule for f in found] == rules
    assert all("guessing the same for every example" in f.message for f in found)
    assert all("less weight" in f.remedy for f in found)
