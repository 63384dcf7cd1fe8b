"""The fourteenth round's healthy cases of tables."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import clusters, curve, generator, loader, rows
from tests.benchmarks.preflight.drifters_parts import (
    Steps,
    dense,
    of,
    patients,
    scaled,
    tumours,
)
from tests.benchmarks.preflight.nomads_parts import houses, liked, sales
from tests.benchmarks.preflight.parts import Built, Learner, perceptron
from tests.benchmarks.preflight.register import healthy


@healthy
def quantiles_of_a_patient() -> Built:
    """Three outputs, the pinball loss, standardised in the step by buffers."""
    x, y = patients()

    def loss(module: Any, batch: Any) -> Tensor:
        x, y = batch
        error = (y[:, None] - 152) / 77 - module.net(x)
        q = torch.tensor([0.1, 0.5, 0.9])
        return torch.maximum(q * error, (q - 1) * error).mean()

    return Steps(loss, net=dense(10, 32, 3)), loader(x, y)


@healthy
def counts_with_shops_embedded() -> Built:
    """Tables for shop and weekday, numbers beside them, Poisson of a logarithm."""

    def loss(module: Any, batch: Any) -> Tensor:
        parts = [module.shop(batch["shop"]), module.day(batch["day"]), batch["x"]]
        return F.poisson_nll_loss(module.net(torch.cat(parts, 1))[:, 0], batch["sold"])

    parts = {"shop": nn.Embedding(12, 4), "day": nn.Embedding(7, 3), "net": perceptron(10, 1)}
    return Steps(loss, of(torch.optim.Adam, lr=3e-3), **parts), rows(**sales())


@healthy
def gaps_that_the_net_fills() -> Built:
    """A tenth of the cells is NaN; the net puts zeros there and says where."""
    x, y = clusters()
    x = x.masked_fill(torch.rand(x.shape, generator=generator()) < 0.1, float("nan"))

    def loss(module: Any, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(module.net(torch.cat([torch.nan_to_num(x), x.isnan().float()], 1)), y)

    return Steps(loss, net=perceptron(24, 4)), loader(x, y)


@healthy
def stars_around_their_mean() -> Built:
    """Factors of users and things, their biases, and a mean that is a buffer."""

    def loss(module: Any, batch: Any) -> Tensor:
        who, what, stars = batch
        dot = (module.user(who) * module.thing(what)).sum(1)
        return F.mse_loss(3.4 + dot + module.user_bias(who)[:, 0] + module.thing_bias(what)[:, 0], stars)

    parts = {"user": nn.Embedding(60, 8), "thing": nn.Embedding(40, 8)}
    bias = {"user_bias": nn.Embedding(60, 1), "thing_bias": nn.Embedding(40, 1)}
    for table in (*parts.values(), *bias.values()):
        nn.init.normal_(table.weight, std=0.1)
    return Steps(loss, of(torch.optim.AdamW, lr=1e-2, weight_decay=0.01), **parts, **bias), loader(*liked(), size=64)


@healthy
def margins_of_one() -> Built:
    """Targets of −1 and 1 under a hinge, as an SVM has them."""
    x, y = tumours()

    def hinge(output: Tensor, y: Tensor) -> Tensor:
        return (1 - y * output[:, 0]).clamp_min(0).mean()

    return Learner(nn.Linear(30, 1), hinge, of(torch.optim.SGD, lr=0.05, weight_decay=1e-3)), loader(x, 2 * y - 1)


@healthy
def age_with_a_spread() -> Built:
    """Mean and variance, each with its head (Nix & Weigend 1994)."""
    x, y = patients()

    def loss(module: Any, batch: Any) -> Tensor:
        h = module.net(batch[0])
        return F.gaussian_nll_loss(h[:, 0], batch[1], F.softplus(h[:, 1]) + 1e-3)

    return Steps(loss, net=dense(10, 32, 2)), loader(x, scaled(y[:, None])[:, 0], size=16)


@healthy
def price_by_its_logarithm() -> Built:
    """The step takes ``log1p`` of dollars; the last bias starts at the mean."""
    net = perceptron(6, 1)
    nn.init.constant_(net[-1].bias, 12.3)

    def loss(module: Any, batch: Any) -> Tensor:
        x, y = batch
        return F.smooth_l1_loss(module.net(x)[:, 0], torch.log1p(y))

    return Steps(loss, net=net), loader(*houses())


class Coral(nn.Module):
    """One score, and a threshold for each rank (Cao et al. 2020)."""

    def __init__(self, ranks: int = 5) -> None:
        super().__init__()
        self.net, self.cuts = dense(6, 32, 1), nn.Parameter(torch.linspace(1, -1, ranks - 1))

    def forward(self, x: Tensor) -> Tensor:
        """Scores of being above each rank."""
        return self.net(x) + self.cuts


@healthy
def ranks_by_thresholds() -> Built:
    """Ordinal regression."""
    x, y = curve()
    rank = torch.bucketize(y, torch.tensor([-0.9, -0.3, 0.3, 0.9]))

    def loss(output: Tensor, rank: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(output, (rank[:, None] > torch.arange(4)).float())

    return Learner(Coral(), loss, of(torch.optim.Adam, lr=3e-3)), loader(x, rank)


@healthy
def focal_with_a_prior_bias() -> Built:
    """Rare positives, the focal loss, and a bias that starts at their share (Lin et al. 2017)."""
    g = generator()
    y = (torch.rand(1280, generator=g) < 0.08).float()
    x = torch.randn(1280, 8, generator=g) + 1.5 * y[:, None]
    net = perceptron(8, 1)
    nn.init.constant_(net[-1].bias, -2.2)

    def loss(output: Tensor, y: Tensor) -> Tensor:
        plain = F.binary_cross_entropy_with_logits(output[:, 0], y, reduction="none")
        return ((0.25 * y + 0.75 * (1 - y)) * (1 - torch.exp(-plain)) ** 2 * plain).mean()

    return Learner(net, loss), loader(x, y, size=64)
