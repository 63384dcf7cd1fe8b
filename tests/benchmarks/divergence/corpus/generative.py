"""Autoencoders, flows, diffusion, energies, likelihoods: losses without a label, some of them below zero."""

from __future__ import annotations

import math

import torch
from sklearn.datasets import make_moons
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.divergence.corpus.family import Batch, Task, family, fixed, rows_of
from tests.benchmarks.divergence.data import digits, windows
from tests.benchmarks.divergence.models import Recurrent, Transformer, mlp


def moons() -> Tensor:
    """Two moons, standardised."""
    x = torch.tensor(make_moons(3000, noise=0.06, random_state=0)[0]).float()
    return (x - x.mean(0)) / x.std(0)


def characters(net: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy of each next character."""
    out = net(batch[0])
    return F.cross_entropy(out.flatten(0, 1), batch[-1].flatten())


@family("adam", 2e-3, continuous=True)
def vae_digits() -> Task:
    """Evidence bound of a VAE."""

    class Vae(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = mlp([64, 64, 16]), mlp([8, 64, 64])

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        mean, log_variance = net.encoder(batch[0]).chunk(2, 1)
        out = net.decoder(mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance))
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
        return (((out - batch[0]) ** 2).sum(1) + kl).mean()

    return Task(Vae(), rows_of(32, digits()[0]), loss)


@family("adam", 1e-3, continuous=True)
def coupling_flow() -> Task:
    """RealNVP on two moons: negative log-likelihood."""

    class Flow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nets = nn.ModuleList(mlp([1, 32, 32, 2], nn.Tanh) for _ in range(6))

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        x, total = batch[0], torch.zeros(len(batch[0]))
        for layer in net.nets:  # type: ignore[union-attr]
            a, b = x.unbind(1)
            scale, shift = layer(a[:, None]).unbind(1)
            x, total = torch.stack([b * torch.tanh(scale).exp() + shift, a], 1), total + torch.tanh(scale)
        return (0.5 * (x**2).sum(1) - total).mean() + math.log(2 * math.pi)

    return Task(Flow(), rows_of(64, moons()), loss)


@family("adamw", 2e-3, continuous=True, not_in=("bf16",))
def diffusion_moons() -> Task:
    """Noise prediction: the loss is noisy and never falls far."""
    net = mlp([3, 64, 64, 2], nn.SiLU)

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        x = batch[0]
        t, noise = torch.rand(len(x), 1), torch.randn_like(x)
        mixed = torch.cos(t * 1.57) * x + torch.sin(t * 1.57) * noise
        return F.mse_loss(net(torch.cat([mixed, t], 1)), noise)

    return Task(net, rows_of(64, moons()), loss)


@family("adam", 2e-3, continuous=True, not_in=("bf16",))
def flow_matching() -> Task:
    """Velocity from noise to digits: a high floor."""
    net = mlp([65, 128, 128, 64], nn.SiLU)

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        x = batch[0]
        t, noise = torch.rand(len(x), 1), torch.randn_like(x)
        return F.mse_loss(net(torch.cat([(1 - t) * noise + t * x, t], 1)), x - noise)

    return Task(net, rows_of(64, digits()[0]), loss)


@family("adam", 3e-3, continuous=True)
def mixture_density() -> Task:
    """A mixture of Gaussians of an inverse problem: a likelihood that turns negative."""
    g = fixed()
    y = torch.rand(3000, 1, generator=g)
    x = y + 0.3 * torch.sin(6.28 * y) + 0.02 * torch.randn(3000, 1, generator=g)

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        weight, mean, log_scale = net(batch[0]).chunk(3, 1)
        each = -0.5 * ((batch[1] - mean) / log_scale.exp()) ** 2 - log_scale - 0.919
        return -torch.logsumexp(weight.log_softmax(1) + each, 1).mean()

    return Task(mlp([1, 48, 15], nn.Tanh), rows_of(64, x, y), loss)


@family("adam", 3e-3, continuous=True, not_in=("bf16",))
def masked_autoencoder() -> Task:
    """Half of the pixels from the other half."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        kept = (torch.rand_like(batch[0]) < 0.5).float()
        return (((net(batch[0] * kept) - batch[0]) ** 2) * (1 - kept)).sum() / (1 - kept).sum()

    return Task(mlp([64, 96, 96, 64], nn.GELU), rows_of(32, digits()[0]), loss)


@family("adam", 1e-3, continuous=True)
def quantised_autoencoder() -> Task:
    """VQ-VAE: the commitment loss rises while the reconstruction falls."""

    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder, self.codes = mlp([64, 64, 16]), mlp([16, 64, 64]), nn.Embedding(32, 8)

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        z = net.encoder(batch[0]).view(-1, 2, 8)
        nearest = net.codes(torch.cdist(z, net.codes.weight.expand(len(z), -1, -1)).argmin(-1))
        out = net.decoder((z + (nearest - z).detach()).flatten(1))
        return F.mse_loss(out, batch[0]) + F.mse_loss(nearest, z.detach()) + 0.25 * F.mse_loss(z, nearest.detach())

    return Task(Quantised(), rows_of(32, digits()[0]), loss)


@family("adamw-95", 3e-3)
def char_transformer() -> Task:
    """A small GPT without warmup."""
    return Task(Transformer(), windows(8), characters)


@family("rmsprop", 2e-3)
def char_gru() -> Task:
    """RMSprop, as recurrent nets were trained."""
    return Task(Recurrent(), windows(8), characters)


@family("adam", 5e-3)
def word_vectors() -> Task:
    """Skip-gram with negative samples: embeddings alone, most rows untouched."""
    g = fixed()
    topic = torch.randint(0, 20, (400,), generator=g)
    pairs = torch.randint(0, 400, (60000, 2), generator=g)
    pairs = pairs[topic[pairs[:, 0]] == topic[pairs[:, 1]]]

    class Vectors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Embedding(400, 16), nn.Embedding(400, 16)
            for table in (self.a, self.b):
                nn.init.uniform_(table.weight, -0.03, 0.03)

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        one, other = batch[0], batch[1]
        wrong = net.b(torch.randint(0, 400, (len(one), 4)))
        right = (net.a(one) * net.b(other)).sum(-1)
        return -F.logsigmoid(right).mean() - F.logsigmoid(-(net.a(one)[:, None] * wrong).sum(-1)).sum(1).mean()

    return Task(Vectors(), rows_of(128, pairs[:, 0], pairs[:, 1]), loss)


@family("adagrad", 0.2)
def factorisation() -> Task:
    """Ratings of users and items by Adagrad, at a rate that would be absurd for Adam."""
    g = fixed()
    u, v = torch.randn(200, 4, generator=g), torch.randn(150, 4, generator=g)
    i, j = torch.randint(0, 200, (20000,), generator=g), torch.randint(0, 150, (20000,), generator=g)

    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.items = nn.Embedding(200, 8), nn.Embedding(150, 8)
            for table in (self.users, self.items):
                nn.init.normal_(table.weight, std=0.1)

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        return F.mse_loss((net.users(batch[0]) * net.items(batch[1])).sum(1), batch[2])

    return Task(Factors(), rows_of(256, i, j, (u[i] * v[j]).sum(1) / 2), loss)


@family("adam", 3e-3, continuous=True, not_in=("float64", "bf16"))
def normal_modes_energy() -> Task:
    """An energy to minimise that is negative at its best: a variational ground state."""
    grid = torch.linspace(-4, 4, 200)[:, None]

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        wave = net(grid)[:, 0] * torch.exp(-0.1 * grid[:, 0] ** 2)
        potential = -4 * torch.exp(-(grid[:, 0] ** 2))
        slope = (wave[1:] - wave[:-1]) / 0.0402
        return (0.5 * (slope**2).sum() + (potential * wave**2).sum()) / (wave**2).sum()

    return Task(mlp([1, 32, 32, 1], nn.Tanh), rows_of(4, torch.randn(16, 1)), loss)
