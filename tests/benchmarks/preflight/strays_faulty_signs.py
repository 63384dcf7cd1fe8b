"""The fifteenth round's faults of the loss call: ranges, scales and signs."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import loader, rows
from tests.benchmarks.preflight.parts import Built
from tests.benchmarks.preflight.register import faulty
from tests.benchmarks.preflight.strays_healthy import stripes
from tests.benchmarks.preflight.strays_parts import (
    Manual,
    Task,
    backbone,
    flats,
    mlp,
    normalised,
    photos,
    swings,
    visitors,
)


@dataclass
class Output:
    """As the models of transformers return it."""

    loss: Tensor | None
    logits: Tensor


@faulty("OUTPUT-RANGE")
def normalised_pictures_behind_a_sigmoid() -> Built:
    """The decoder ends in a sigmoid, pictures lie between -2 and 2."""

    class Auto(Task):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 8, 3, 2, 1))
            self.decoder = nn.Sequential(
                nn.ConvTranspose2d(8, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Sigmoid()
            )  # fmt: skip

        def loss(self, batch: Any) -> Tensor:
            return F.mse_loss(self.decoder(self.encoder(batch[0])), batch[0])

    return Auto(), stripes()


@faulty("OUTPUT-RANGE")
def torques_that_tanh_cannot_reach() -> Built:
    """An actor's tanh without the factor of two."""

    class Cloning(Task):
        def __init__(self) -> None:
            super().__init__()
            self.actor = mlp(3, 64, 64, 1, last=nn.Tanh)

        def loss(self, batch: Any) -> Tensor:
            return F.mse_loss(self.actor(batch["obs"]), batch["action"])

    return Cloning(), rows(**swings())


@faulty("ONE-CLASS", "SOFTMAX-DIM")
def softmax_of_a_single_unit() -> Built:
    """``Linear(…, 1)`` and a softmax into BCE: it always says one."""

    class Buyers(Task):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(mlp(4, 32, 1), nn.Softmax(dim=1))

        def loss(self, batch: Any) -> Tensor:
            return F.binary_cross_entropy(self.net(batch["x"]).squeeze(1), batch["bought"])

    return Buyers(), rows(**visitors())


@faulty("INITIAL-LOSS", "INIT-SCALE")
def features_compared_without_their_length() -> Built:
    """CLIP without ``normalize``: raw features times the logit scale of fourteen."""
    x, y = photos()

    class Clip(Task):
        def __init__(self) -> None:
            super().__init__()
            self.image, self.text = (
                nn.Sequential(backbone(), nn.Linear(32, 64)),
                nn.Sequential(nn.Embedding(5, 64), nn.Linear(64, 64)),
            )
            self.logit_scale = nn.Parameter(torch.tensor(2.659))

        def loss(self, batch: Any) -> Tensor:
            scores = self.logit_scale.exp() * self.image(batch[0]) @ self.text(batch[1]).T
            target = torch.arange(len(scores))
            return (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2

    return Clip(), loader(normalised(x), y, size=64)


@faulty("LOSS-IS-SUM")
def scores_added_over_the_batch() -> Built:
    """``CrossEntropyLoss(reduction="sum")``, batches of 128, SGD at 0.05 with momentum."""

    class Sum(Task):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.criterion = nn.Sequential(nn.Flatten(), mlp(768, 64, 5)), nn.CrossEntropyLoss(reduction="sum")

        def loss(self, batch: Any) -> Tensor:
            return self.criterion(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    return Sum(), stripes(size=128)


@faulty("WRONG-SIGN")
def likeness_of_two_views_made_small_again() -> Built:
    """SimSiam without its minus."""

    class Sim(Task):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(backbone(), nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32))
            self.predictor = mlp(32, 16, 32)

        def loss(self, batch: Any) -> Tensor:
            x = batch[0]
            a, b = self.net(x + 0.2 * torch.randn_like(x)), self.net(x.flip(-1))
            p, q = self.predictor(a), self.predictor(b)
            return 0.5 * (F.cosine_similarity(p, b.detach()).mean() + F.cosine_similarity(q, a.detach()).mean())

    return Sim(), stripes(size=64)


@faulty("WRONG-SIGN")
def actor_that_makes_its_value_small() -> Built:
    """DDPG by hand: ``actor_loss = critic(obs, actor(obs)).mean()`` has lost its minus."""

    class Ddpg(Manual):
        def __init__(self) -> None:
            super().__init__()
            self.actor, self.critic = mlp(3, 48, 1, last=nn.Tanh), mlp(4, 48, 1)
            self.slow = copy.deepcopy(nn.ModuleList([self.actor, self.critic])).requires_grad_(False)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            of_actor, of_critic = self.optimizers()  # type: ignore[misc]
            obs, after = batch["obs"], batch["next_obs"]
            with torch.no_grad():
                value = self.slow[1](torch.cat([after, 2 * self.slow[0](after)], 1))
                aim = batch["reward"][:, None] + 0.95 * (1 - batch["done"][:, None]) * value
            critic_loss = F.mse_loss(self.critic(torch.cat([obs, batch["action"]], 1)), aim)
            of_critic.zero_grad()
            self.manual_backward(critic_loss)
            of_critic.step()
            actor_loss = self.critic(torch.cat([obs, 2 * self.actor(obs)], 1)).mean()
            of_actor.zero_grad()
            self.manual_backward(actor_loss)
            of_actor.step()
            self.log_dict({"actor_loss": actor_loss, "critic_loss": critic_loss})

        def configure_optimizers(self) -> Any:
            return [torch.optim.Adam(n.parameters(), lr=1e-3) for n in (self.actor, self.critic)]

    return Ddpg(), rows(size=64, **swings())


@faulty("WRONG-SIGN")
def mixture_whose_likelihood_falls() -> Built:
    """A mixture density net: the ``logsumexp`` itself is returned."""

    class Mixture(Task):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(8, 48, 9)

        def loss(self, batch: Any) -> Tensor:
            share, mean, log_std = self.net(batch[0]).chunk(3, 1)
            each = -0.5 * ((batch[1][:, None] - mean) / log_std.exp()) ** 2 - log_std - 0.919
            return torch.logsumexp(F.log_softmax(share, 1) + each, 1).mean()

    return Mixture(), loader(*flats())


@faulty("WRONG-SIGN")
def near_and_far_have_changed_places() -> Built:
    """A triplet loss: ``relu(d(a, n) - d(a, p) + margin)``."""
    x, y = photos()
    x = normalised(x)
    picks = [
        torch.stack([torch.nonzero(y == k)[i % 100, 0] for i, k in enumerate(labels.tolist())])
        for labels in (y, (y + 1) % 5)
    ]

    class Triplets(Task):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(backbone(), nn.Linear(32, 16))

        def loss(self, batch: Any) -> Tensor:
            a, p, n = (F.normalize(self.net(x), dim=1) for x in batch)
            return F.relu((a - n).norm(dim=1) - (a - p).norm(dim=1) + 0.5).mean()

    return Triplets(), loader(x, x[picks[0]], x[picks[1]])
