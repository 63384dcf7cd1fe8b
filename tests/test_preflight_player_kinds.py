"""Kinds of steps in which two players have a loss each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.benchmarks.preflight.data import clusters, generator, loader, rows
from tests.benchmarks.preflight.parts import Bare, Built, perceptron
from tests.preflight_kinds import Kinds, test_kind_is_named_by_its_cause, test_what_looks_like_the_kind_is_let_pass  # noqa: F401

KINDS = Kinds()
sick, healthy = KINDS.sick, KINDS.healthy


class Players(Bare):
    """One draws points, the other tells them from the data; ``sign`` is that of the first one's loss."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.automatic_optimization, self.sign = False, sign
        self.maker, self.judge = perceptron(4, 12), perceptron(12, 1)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """The judge first."""
        of_maker, of_judge = self.optimizers()
        made, yes = self.maker(torch.randn(len(batch[0]), 4)), torch.ones(len(batch[0]), 1)
        of_judge.zero_grad()
        entropy = F.binary_cross_entropy_with_logits
        self.manual_backward(entropy(self.judge(batch[0]), yes) + entropy(self.judge(made.detach()), 0 * yes))
        of_judge.step()
        of_maker.zero_grad()
        self.manual_backward(entropy(self.sign * self.judge(self.maker(torch.randn(len(batch[0]), 4))), yes))
        of_maker.step()

    def configure_optimizers(self) -> Any:
        """One each."""
        return [torch.optim.Adam(net.parameters(), 2e-4) for net in (self.maker, self.judge)]


@sick("WRONG-SIGN")
def maker_who_helps_the_judge() -> Built:
    """Both want what is made to be told from the data."""
    return Players(-1.0), loader(*clusters())


@healthy
def maker_who_deceives_the_judge() -> Built:
    """Goodfellow et al. 2014."""
    return Players(1.0), loader(*clusters())


class Moves(Bare):
    """A critic learns values from rewards, an actor makes moves that it likes; ``sign`` is that of the actor's loss."""

    def __init__(self, sign: float, conservative: float = 0.0) -> None:
        super().__init__()
        self.automatic_optimization, self.sign, self.conservative = False, sign, conservative
        self.actor, self.critic = perceptron(3, 1), perceptron(4, 1)

    def of(self, batch: Any, move: Tensor) -> Tensor:
        """The value of a move."""
        return self.critic(torch.cat([batch["obs"], move], 1))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """The critic first."""
        of_actor, of_critic = self.optimizers()
        of_critic.zero_grad()
        loss = F.mse_loss(self.of(batch, batch["move"]), batch["reward"][:, None])
        if self.conservative:
            loss = loss + self.conservative * self.of(batch, self.actor(batch["obs"])).mean()
        self.manual_backward(loss)
        of_critic.step()
        of_actor.zero_grad()
        self.manual_backward(self.sign * self.of(batch, self.actor(batch["obs"])).mean())
        of_actor.step()

    def configure_optimizers(self) -> Any:
        """One each."""
        return [torch.optim.Adam(net.parameters(), 1e-3) for net in (self.actor, self.critic)]


def moves() -> DataLoader[Any]:
    """The best one is the first number seen."""
    g = generator(7)
    obs, move = torch.randn(640, 3, generator=g), torch.randn(640, 1, generator=g)
    return rows(obs=obs, move=move, reward=1 - (move[:, 0] - obs[:, 0]).square())


@sick("WRONG-SIGN")
def actor_who_displeases_its_critic() -> Built:
    """The minus is missing."""
    return Moves(1.0), moves()


@healthy
def actor_who_pleases_its_critic() -> Built:
    """Lillicrap et al. 2016."""
    return Moves(-1.0), moves()


@healthy
def critic_that_lowers_the_moves_of_its_actor() -> Built:
    """In the loss in which it learns (Kumar et al. 2020, eq. 2)."""
    return Moves(-1.0, conservative=0.1), moves()
