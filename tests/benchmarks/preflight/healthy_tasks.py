"""Healthy models that are taught otherwise: generative, contrastive, by reward, by an equation."""

from __future__ import annotations

import copy
import math
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.benchmarks.preflight.data import clusters, curve, generator, loader, pictures, waves
from tests.benchmarks.preflight.parts import Bare, Built, Stepped, convnet, perceptron
from tests.benchmarks.preflight.register import healthy


class Adversaries(L.LightningModule):
    """A generator and a critic, each with its optimizer, stepped by hand."""

    def __init__(self, lr: float, betas: tuple[float, float]) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.g, self.d = perceptron(8, 2), perceptron(2, 1, act=nn.SiLU)
        self.lr, self.betas = lr, betas

    def configure_optimizers(self) -> Any:
        """The generator's first."""
        return [torch.optim.Adam(part.parameters(), self.lr, betas=self.betas) for part in (self.g, self.d)]


@healthy
def vae_with_sums() -> Built:
    def step(model: Any, batch: Any) -> Tensor:
        x = batch[0]
        mean, log_var = model.encoder(x).chunk(2, 1)
        z = mean + torch.randn_like(mean) * (0.5 * log_var).exp()
        fit = F.binary_cross_entropy_with_logits(model.decoder(z), x, reduction="sum")
        return fit - 0.5 * (1 + log_var - mean**2 - log_var.exp()).sum()

    return Stepped(step, encoder=perceptron(144, 16), decoder=perceptron(8, 144)), loader(
        (pictures()[0].flatten(1) > 0).float()
    )


@healthy
def gan_by_hand() -> Built:
    class Model(Adversaries):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            (x,) = batch
            opt_g, opt_d = self.optimizers()
            fake, ones = self.g(torch.randn(len(x), 8)), torch.ones(len(x), 1)
            self.toggle_optimizer(opt_d)
            loss = F.binary_cross_entropy_with_logits(self.d(x), ones) + F.binary_cross_entropy_with_logits(
                self.d(fake.detach()), 0 * ones
            )
            opt_d.zero_grad()
            self.manual_backward(loss)
            opt_d.step()
            self.untoggle_optimizer(opt_d)
            loss = F.binary_cross_entropy_with_logits(self.d(fake), ones)
            self.log("g", loss)
            opt_g.zero_grad()
            self.manual_backward(loss)
            opt_g.step()

    return Model(2e-4, (0.5, 0.999)), loader(torch.randn(640, 2, generator=generator()) * 0.5 + 1)


@healthy
def critic_with_penalty() -> Built:
    class Model(Adversaries):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            opt_g, opt_d = self.optimizers()
            x, fake = batch[0], self.g(torch.randn(len(batch[0]), 8))
            between = (0.5 * x + 0.5 * fake.detach()).requires_grad_()
            slope = torch.autograd.grad(self.d(between).sum(), between, create_graph=True)[0]
            self.manual_backward(
                self.d(fake.detach()).mean() - self.d(x).mean() + 10 * (slope.norm(dim=1) - 1).pow(2).mean()
            )
            opt_d.step()
            opt_d.zero_grad()
            self.manual_backward(-self.d(fake).mean())
            opt_g.step()
            opt_g.zero_grad()
            opt_d.zero_grad()

    return Model(1e-4, (0.0, 0.9)), loader(torch.randn(640, 2, generator=generator()))


@healthy
def diffusion() -> Built:
    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(144 + 16, 144, 96, nn.SiLU)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            angle = t[:, None].float() * torch.exp(-torch.arange(8) * 0.9)
            return self.net(torch.cat([x, angle.sin(), angle.cos()], 1))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x = batch[0]
            t, noise = torch.randint(0, 1000, (len(x),)), torch.randn_like(x)
            keep = torch.cos(t / 1000 * math.pi / 2)[:, None]
            return F.mse_loss(self(keep * x + (1 - keep**2).sqrt() * noise, t), noise)

    return Model(), loader(pictures()[0].flatten(1))


@healthy
def contrastive_with_norm() -> Built:
    def step(model: Any, batch: Any) -> Tensor:
        x = batch[0]
        one, two = (F.normalize(model.net(x + 0.2 * torch.randn_like(x)), dim=1) for _ in range(2))
        similar = one @ two.T / 0.2
        return (F.cross_entropy(similar, torch.arange(len(x))) + F.cross_entropy(similar.T, torch.arange(len(x)))) / 2

    return Stepped(step, net=nn.Sequential(nn.Linear(12, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 16))), loader(
        *clusters(), size=64
    )


@healthy
def byol() -> Built:
    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.guess = perceptron(12, 16), nn.Linear(16, 16)
            self.slow = copy.deepcopy(self.net)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x = batch[0]
            with torch.no_grad():
                goal = self.slow(x + 0.1 * torch.randn_like(x))
            return 1 - F.cosine_similarity(self.guess(self.net(x + 0.1 * torch.randn_like(x))), goal).mean()

        def on_train_batch_end(self, *_: Any) -> None:
            for p, q in zip(self.slow.parameters(), self.net.parameters(), strict=True):
                p.data.lerp_(q.data, 0.01)

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW([*self.net.parameters(), *self.guess.parameters()], lr=1e-3)

    return Model(), loader(*clusters())


@healthy
def ctc() -> Built:
    def step(model: Any, batch: Any) -> Tensor:
        x, y = batch
        logs = model.head(model.cell(x)[0]).log_softmax(-1).transpose(0, 1)
        sizes = [torch.full((len(x),), k) for k in (x.shape[1], y.shape[1])]
        return F.ctc_loss(logs, y, *sizes)

    return Stepped(step, cell=nn.GRU(3, 32, batch_first=True, bidirectional=True), head=nn.Linear(64, 7)), loader(
        waves()[0], torch.randint(1, 7, (640, 5), generator=generator())
    )


@healthy
def detection() -> Built:
    def step(model: Any, batch: Any) -> Tensor:
        images, targets = batch
        h = F.relu(model.body(torch.stack(images)))
        boxes, kinds = torch.stack([t["boxes"][0] for t in targets]), torch.stack([t["labels"][0] for t in targets])
        return F.smooth_l1_loss(model.box(h), boxes) + F.cross_entropy(model.kind(h), kinds)

    x, g = pictures()[0], generator()
    items = [
        (x[i], {"boxes": torch.rand(1, 4, generator=g), "labels": torch.randint(0, 3, (1,), generator=g)})
        for i in range(320)
    ]
    return Stepped(step, body=convnet(32), box=nn.Linear(32, 4), kind=nn.Linear(32, 3)), DataLoader(
        items, batch_size=16, shuffle=True, collate_fn=lambda pairs: tuple(zip(*pairs, strict=True))
    )  # type: ignore[arg-type, var-annotated]


@healthy
def survival() -> Built:
    def step(model: Any, batch: Any) -> Tensor:
        x, time, event = batch
        risk = model.net(x).squeeze(-1)[time.argsort(descending=True)]
        seen = event[time.argsort(descending=True)]
        return -((risk - risk.logcumsumexp(0)) * seen).sum() / seen.sum().clamp_min(1)

    x, y = curve()
    return Stepped(step, net=perceptron(6, 1)), loader(x, y.exp(), (torch.rand(960, generator=generator()) < 0.7).float())


@healthy
def policy_gradient() -> Built:
    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.policy = perceptron(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.policy(x)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            state, action, gain = batch
            chosen = torch.distributions.Categorical(logits=self(state))
            return -(chosen.log_prob(action) * gain).mean() - 0.01 * chosen.entropy().mean()

    x, y = curve()
    return Model(), loader(x, torch.randint(0, 3, (960,), generator=generator()), y)


@healthy
def physics_informed() -> Built:
    def step(model: Any, batch: Any) -> Tensor:
        x = torch.rand(64, 1).requires_grad_()
        u = model.u(x)
        slope = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
        bend = torch.autograd.grad(slope.sum(), x, create_graph=True)[0]
        edge = model.u(torch.tensor([[0.0], [1.0]])).pow(2).sum()
        return (bend + math.pi**2 * torch.sin(math.pi * x)).pow(2).mean() + 10 * edge

    return Stepped(step, u=perceptron(1, 1, 32, nn.Tanh)), loader(torch.zeros(64, 1), size=1)


@healthy
def triplets() -> Built:
    def step(model: Any, batch: Any) -> Tensor:
        anchor, near, far = (F.normalize(model.net(x), dim=1) for x in batch)
        return F.triplet_margin_loss(anchor, near, far, margin=0.3)

    x, _ = clusters()
    return Stepped(step, net=perceptron(12, 8)), loader(
        x, x + 0.1 * torch.randn(x.shape, generator=generator()), x.roll(1, 0)
    )
