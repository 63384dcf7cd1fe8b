"""The fifteenth round's healthy models that learn from likeness: views, masks, margins, episodes."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import loader
from tests.benchmarks.preflight.parts import Built
from tests.benchmarks.preflight.register import healthy
from tests.benchmarks.preflight.strays_healthy import stripes
from tests.benchmarks.preflight.strays_parts import Task, backbone, normalised, photos


@healthy
def bootstrapped_without_negatives() -> Built:
    """BYOL: a moving average of the net is the aim; it is written in ``on_train_batch_end``."""

    class Byol(Task):
        def __init__(self) -> None:
            super().__init__()
            self.online = nn.Sequential(backbone(), nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32))
            self.predictor = nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32))
            self.target = copy.deepcopy(self.online).requires_grad_(False)

        def one_way(self, a: Tensor, b: Tensor) -> Tensor:
            with torch.no_grad():
                aim = self.target(b)
            return 2 - 2 * F.cosine_similarity(self.predictor(self.online(a)), aim).mean()

        def loss(self, batch: Any) -> Tensor:
            x = batch[0]
            a, b = (x.flip(-1) + 0.3 * torch.randn_like(x), x * (0.8 + 0.4 * torch.rand(len(x), 1, 1, 1)))
            return self.one_way(a, b) + self.one_way(b, a)

        def on_train_batch_end(self, *_: Any) -> None:
            for mean, now in zip(self.target.parameters(), self.online.parameters(), strict=True):
                mean.data.lerp_(now.data, 0.01)

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam([*self.online.parameters(), *self.predictor.parameters()], lr=1e-3)

    return Byol(), stripes(size=64)


@healthy
def momentum_contrast_with_a_queue() -> Built:
    """MoCo: keys of a slow copy, negatives out of a buffer that each step overwrites."""

    class Moco(Task):
        queue: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.query = nn.Sequential(backbone(), nn.Linear(32, 16))
            self.key = copy.deepcopy(self.query).requires_grad_(False)
            self.register_buffer("queue", F.normalize(torch.randn(256, 16), dim=1))
            self.place = 0

        @torch.no_grad()
        def keys(self, x: Tensor) -> Tensor:
            for slow, now in zip(self.key.parameters(), self.query.parameters(), strict=True):
                slow.mul_(0.99).add_(now, alpha=0.01)
            return F.normalize(self.key(x), dim=1)

        def loss(self, batch: Any) -> Tensor:
            x = batch[0]
            q = F.normalize(self.query(x + 0.2 * torch.randn_like(x)), dim=1)
            k = self.keys(x.flip(-1))
            scores = torch.cat([(q * k).sum(1, keepdim=True), q @ self.queue.clone().T], 1) / 0.2
            self.queue[self.place : self.place + len(k)] = k
            self.place = (self.place + len(k)) % 256
            return F.cross_entropy(scores, torch.zeros(len(x), dtype=torch.long))

    return Moco(), stripes(size=64)


@healthy
def redundancy_of_two_views() -> Built:
    """Barlow Twins: the cross-correlation of a batch should be the identity; the loss is a sum of squares."""

    class Barlow(Task):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(backbone(), nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 24))
            self.norm = nn.BatchNorm1d(24, affine=False)

        def loss(self, batch: Any) -> Tensor:
            x = batch[0]
            a, b = (self.norm(self.net(x + 0.2 * torch.randn_like(x))) for _ in range(2))
            c = a.T @ b / len(x)
            on = (c.diagonal() - 1).square().sum()
            return on + 0.005 * (c.square().sum() - c.diagonal().square().sum())

    return Barlow(), stripes(size=64)


@healthy
def masked_autoencoder() -> Built:
    """Three quarters of the patches are hidden, others in each step; only those are judged."""

    class Masked(Task):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.out = nn.Linear(48, 64), nn.Linear(64, 48)
            self.hidden, self.pos = nn.Parameter(torch.zeros(64)), nn.Parameter(0.02 * torch.randn(16, 64))
            layer = nn.TransformerEncoderLayer(64, 4, 128, 0.0, "gelu", batch_first=True, norm_first=True)
            self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def loss(self, batch: Any) -> Tensor:
            patches = F.unfold(batch[0], 4, stride=4).transpose(1, 2)
            hide = torch.rand(patches.shape[:2], device=self.device) < 0.75
            x = torch.where(hide[..., None], self.hidden, self.embed(patches)) + self.pos
            error = (self.out(self.blocks(x)) - patches).square().mean(-1)
            return (error * hide).sum() / hide.sum()

    return Masked(), stripes()


@healthy
def angular_margin_of_faces() -> Built:
    """ArcFace: cosines to normalised centres, a margin for the right one, times 16."""

    class Arc(Task):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.centres = nn.Sequential(backbone(), nn.Linear(32, 32)), nn.Parameter(torch.empty(5, 32))
            nn.init.xavier_normal_(self.centres)

        def loss(self, batch: Any) -> Tensor:
            x, y = batch
            cosine = F.linear(F.normalize(self.body(x)), F.normalize(self.centres)).clamp(-1 + 1e-6, 1 - 1e-6)
            margin = torch.cos(torch.acos(cosine) + 0.3)
            return F.cross_entropy(16 * torch.where(F.one_hot(y, 5).bool(), margin, cosine), y)

    return Arc(), stripes()


@healthy
def hardest_triplets_of_a_batch() -> Built:
    """The farthest of one's own class and the nearest of another, a margin, and a ReLU."""

    class Triplets(Task):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(backbone(), nn.Linear(32, 16))

        def loss(self, batch: Any) -> Tensor:
            x, y = batch
            distance = torch.cdist(*(F.normalize(self.net(x), dim=1),) * 2)
            same = y[:, None] == y
            far = (distance * same).amax(1)
            near = distance.masked_fill(same, 9.0).amin(1)
            return F.relu(far - near + 0.3).mean()

    return Triplets(), stripes(size=64)


@healthy
def prototypes_of_an_episode() -> Built:
    """The first half of each class's samples makes the centres that the second half is compared with."""
    x, y = photos()
    order = torch.stack([torch.nonzero(y == k)[:100, 0] for k in range(5)], 1)

    class Prototypes(Task):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(backbone(), nn.Linear(32, 16))

        def loss(self, batch: Any) -> Tensor:
            support, query = self.net(batch[0].flatten(0, 1)).view(10, 5, 16).split(5)
            scores = -torch.cdist(query.flatten(0, 1), support.mean(0)).square()
            return F.cross_entropy(scores, torch.arange(5).repeat(5))

    return Prototypes(), loader(normalised(x)[order], size=10)
