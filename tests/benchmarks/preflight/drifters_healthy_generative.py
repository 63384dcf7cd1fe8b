"""The thirteenth round's healthy cases: what makes new points, pictures and digits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import generator, loader
from tests.benchmarks.preflight.drifters_parts import Steps, dense, digits
from tests.benchmarks.preflight.outsiders_parts import ByHand, Lit
from tests.benchmarks.preflight.parts import Built, Learner
from tests.benchmarks.preflight.register import healthy


def rings(n: int = 1280) -> Tensor:
    """Points on two rings, standardised."""
    g = generator()
    angle = 6.2832 * torch.rand(n, generator=g)
    radius = torch.where(torch.rand(n, generator=g) < 0.5, 0.6, 1.4) + 0.06 * torch.randn(n, generator=g)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1)


@healthy
def gan_of_rings() -> Built:
    """Logits for the discriminator, LeakyReLU, Adam with a β₁ of 0.5, by hand."""

    class Gan(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.maker = dense(8, 64, 64, 2)
            self.judge = dense(2, 64, 64, 1, act=lambda: nn.LeakyReLU(0.2))

        def training_step(self, batch: Any, batch_idx: int) -> None:
            first, second = self.optimizers()
            false = self.maker(torch.randn(len(batch[0]), 8))
            told = self.judge(batch[0]), self.judge(false.detach())
            ones, noughts = torch.ones_like(told[0]), torch.zeros_like(told[1])
            score = F.binary_cross_entropy_with_logits
            self.climb(first, (score(told[0], ones) + score(told[1], noughts)) / 2)
            self.climb(second, score(self.judge(false), ones))

        def climb(self, optimizer: Any, loss: Tensor) -> None:
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.Adam(net.parameters(), lr=5e-4, betas=(0.5, 0.999)) for net in (self.judge, self.maker)]

    return Gan(), loader(rings(), size=64)


@healthy
def denoising_score_matching() -> Built:
    """Vincent 2011 at many levels: the net tells -ε/σ, errors weighed with σ²."""

    def loss(module: Any, batch: Any) -> Tensor:
        x = batch[0]
        level = torch.exp(-3 * torch.rand(len(x), 1))
        noise = torch.randn_like(x)
        told = module.net(torch.cat([x + level * noise, level.log()], 1)) / level
        return ((level * told + noise) ** 2).sum(1).mean()

    return Steps(loss, net=dense(3, 64, 64, 2, act=nn.SiLU)), loader(rings(), size=64)


@healthy
def masked_autoregressive_flow() -> Built:
    """Papamakarios et al. 2017 in two dimensions: mean and log-deviation of each coordinate from the ones before it."""

    class Maf(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Parameter(torch.zeros(2)), dense(1, 64, 64, 2, act=nn.Tanh)
            self.third, self.last = dense(1, 64, 64, 2, act=nn.Tanh), nn.Parameter(torch.zeros(2))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x = batch[0]
            total = x.new_zeros(len(x))
            for alone, given in ((self.first, self.second), (self.last, self.third)):
                moments = torch.stack([alone.expand(len(x), 2), given(x[:, :1])], 1)
                x = (x - moments[..., 0]) * torch.exp(-moments[..., 1])
                total, x = total - moments[..., 1].sum(1), x.flip(1)
            return -(torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1) + total).mean()

    return Maf(), loader(rings(), size=64)


@healthy
def variational_digits() -> Built:
    """Binary cross entropy summed over pixels and divided by the batch, and the divergence likewise."""

    class Vae(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = dense(64, 64, 16), dense(8, 64, 64)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x = batch[0].flatten(1)
            mean, log_var = self.encoder(x).chunk(2, 1)
            z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_var)
            off = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
            return (off - 0.5 * (1 + log_var - mean**2 - log_var.exp()).sum()) / len(x)

    return Vae(), loader(*digits())


@healthy
def digits_with_a_condition() -> Built:
    """A denoising diffusion of 50 steps that knows which digit is wanted, and forgets it one time in ten."""

    class Ddpm(Lit):
        kept: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kept", torch.cumprod(1 - torch.linspace(1e-3, 0.15, 50), 0))
            self.time, self.kind, self.net = (
                nn.Embedding(50, 32),
                nn.Embedding(11, 32),
                dense(128, 128, 128, 64, act=nn.SiLU),
            )

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = 2 * batch[0].flatten(1) - 1, batch[1]
            t, noise = torch.randint(0, 50, (len(x),)), torch.randn_like(x)
            share = self.kept[t][:, None]
            y = torch.where(torch.rand(len(x)) < 0.1, 10, y)
            told = self.net(torch.cat([share.sqrt() * x + (1 - share).sqrt() * noise, self.time(t), self.kind(y)], 1))
            return F.mse_loss(told, noise)

    return Ddpm(), loader(*digits())


@healthy
def colours_of_a_and_b() -> Built:
    """Two channels between -1 and 1 from a grey one, a tanh at the end, smooth L1."""
    g = generator()
    where, grey = torch.rand(320, 1, 1, 1, generator=g), torch.randn(320, 1, 12, 12, generator=g)
    ab = torch.cat([torch.sin(2 * grey + where), torch.tanh(grey) * 0.8], 1).clamp(-1, 1)
    net = nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1),
        nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 2, 3, padding=1), nn.Tanh(),
    )  # fmt: skip
    return Learner(net, F.smooth_l1_loss), loader(grey, ab)
