"""Where no loss tells how well a run does: networks against each other, and control; each has a measure of its own."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.divergence.corpus.family import Batch, Task, family, fixed, rows_of
from tests.benchmarks.divergence.models import mlp

LATENT = 8


class Adversaries(nn.Module):
    """Makes points of the plane, and tells them from others."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.critic = mlp([LATENT, 64, 64, 2]), mlp([2, 64, 64, 1], lambda: nn.LeakyReLU(0.2))

    def made(self, count: int) -> Tensor:
        """So many points."""
        noise = torch.randn(count, LATENT, dtype=next(self.parameters()).dtype)
        return self.generator(noise)  # type: ignore[no-any-return]


def distance_to(real: Tensor) -> Callable[[nn.Module], float]:
    """The energy distance of what is made to these points: 0 where they are of one distribution."""

    def measure(net: nn.Module) -> float:
        made = net.made(1000).float()  # type: ignore[operator]
        apart = [torch.cdist(a, b).mean() for a, b in ((made, real), (made, made), (real, real))]
        return float(2 * apart[0] - apart[1] - apart[2])

    return measure


def ring() -> Tensor:
    """Eight clusters on a circle."""
    angle = torch.randint(0, 8, (4000,), generator=fixed()) * math.pi / 4
    return torch.stack([angle.cos(), angle.sin()], 1) * 2 + 0.1 * torch.randn(4000, 2, generator=fixed(8))


@family("adam-gan", 3e-3, 500, continuous=True, by_loss=False, not_in=("bf16",))
def gan_ring() -> Task:
    """A GAN with the loss that does not saturate, and two optimizers."""

    def judges(net: nn.Module, batch: Batch) -> Tensor:
        right, wrong = net.critic(batch[0]), net.critic(net.made(len(batch[0])).detach())
        return F.softplus(-right).mean() + F.softplus(wrong).mean()

    def makes(net: nn.Module, batch: Batch) -> Tensor:
        return F.softplus(-net.critic(net.made(len(batch[0])))).mean()

    data = ring()
    return Task(Adversaries(), rows_of(128, data), {"critic": judges, "generator": makes}, distance_to(data[:1000]))


class Poles:
    """Cart-poles side by side: the classic task's equations, at 50 steps per second.

    Args:
        count: how many.
        generator: of their starts.
    """

    def __init__(self, count: int, generator: Generator | None) -> None:
        self._generator = generator
        self.state = self._starts(count)

    def step(self, right: Tensor) -> Tensor:
        """Push each to the right or to the left; which of them have fallen, and begin anew."""
        _, speed, angle, turn = self.state.unbind(1)
        push = (20.0 * right - 10 + 0.05 * turn**2 * angle.sin()) / 1.1
        turning = (9.8 * angle.sin() - angle.cos() * push) / (2 / 3 - 0.05 * angle.cos() ** 2 / 1.1)
        moving = push - 0.05 * turning * angle.cos() / 1.1
        self.state = self.state + 0.02 * torch.stack([speed, moving, turn, turning], 1)
        fallen = (self.state[:, 0].abs() > 2.4) | (self.state[:, 2].abs() > 0.21)
        self.state = torch.where(fallen[:, None], self._starts(len(fallen)), self.state)
        return fallen

    def _starts(self, count: int) -> Tensor:
        return 0.1 * torch.rand(count, 4, generator=self._generator) - 0.05


def falls_of(net: nn.Module) -> float:
    """The share of steps in which a pole falls."""
    poles, fallen = Poles(32, None), 0.0
    for _ in range(200):
        logits = net.policy(poles.state)  # type: ignore[operator]
        if not bool(logits.isfinite().all()):
            return math.inf
        fallen += float(poles.step(torch.bernoulli(logits[:, 0].sigmoid())).float().mean())
    return fallen / 200


@family("adam", 5e-3, 300, by_loss=False, not_in=("float64", "bf16", "bf16-mixed", "fp16"))
def actor_critic_poles() -> Task:
    """Advantage actor-critic on cart-poles: the better the policy, the larger the returns, and the critic's error."""

    class ActorCritic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.policy, self.value = mlp([4, 64, 1], nn.Tanh), mlp([4, 64, 1], nn.Tanh)

    net = ActorCritic()
    poles = Poles(16, fixed())

    def draw(generator: Generator) -> Batch:
        states, pushes, ends = [], [], []
        with torch.no_grad():
            for _ in range(16):
                states.append(poles.state)
                odds = net.policy(poles.state)[:, 0].sigmoid().nan_to_num(0.5)
                pushes.append(torch.bernoulli(odds, generator=generator))
                ends.append(poles.step(pushes[-1]))
            returns = [net.value(poles.state)[:, 0]]
            for end in reversed(ends):
                returns.insert(0, 1 + 0.97 * returns[0] * ~end)
        return torch.cat(states), torch.cat(pushes), torch.cat(returns[:-1])

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        state, push, wanted = batch
        logits, expected = net.policy(state)[:, 0], net.value(state)[:, 0]
        chosen = F.binary_cross_entropy_with_logits(logits, push, reduction="none")
        return (chosen * (wanted - expected).detach()).mean() + 0.5 * F.mse_loss(expected, wanted)

    return Task(net, draw, loss, falls_of)
