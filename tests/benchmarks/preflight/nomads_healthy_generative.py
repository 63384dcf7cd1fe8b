"""The fourteenth round's healthy cases that make things, compare things, act, or obey an equation."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.data import DataLoader

from tests.benchmarks.preflight.data import curve, generator, loader, pictures, rows
from tests.benchmarks.preflight.drifters_parts import Steps, dense, digits, of, run_of
from tests.benchmarks.preflight.nomads_parts import Stream, episodes
from tests.benchmarks.preflight.outsiders_parts import ByHand, Lit, moves, views_of_things
from tests.benchmarks.preflight.parts import Built
from tests.benchmarks.preflight.register import healthy


class Average(Lit):
    """A target that follows slowly, a predictor, two noisy views (Grill et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.online = dense(64, 64, 32)
        self.predictor = nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32))
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Both ways."""
        one, two = (batch[0] + 0.2 * torch.randn_like(batch[0]) for _ in range(2))
        loss: Any = 0
        for a, b in ((one, two), (two, one)):
            with torch.no_grad():
                aim = F.normalize(self.target(b), dim=-1)
            loss = loss + (2 - 2 * (F.normalize(self.predictor(self.online(a)), dim=-1) * aim).sum(-1)).mean()
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        """The target follows."""
        for p, q in zip(self.online.parameters(), self.target.parameters(), strict=True):
            q.data.lerp_(p.data, 0.01)


@healthy
def target_that_follows() -> Built:
    """Labels are in the batch, and nobody looks at them."""
    return Average(), loader(*digits(), size=64)


@healthy
def likeness_with_a_stopped_gradient() -> Built:
    """SimSiam: the loss is negative, and one side is detached."""

    def loss(module: Any, batch: Any) -> Tensor:
        z1, z2 = (module.encoder(batch[0] + 0.2 * torch.randn_like(batch[0])) for _ in range(2))
        p1, p2 = module.predictor(z1), module.predictor(z2)
        return -0.5 * (F.cosine_similarity(p1, z2.detach()).mean() + F.cosine_similarity(p2, z1.detach()).mean())

    encoder = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32), nn.BatchNorm1d(32, affine=False)
    )
    predictor = nn.Sequential(nn.Linear(32, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 32))
    made = of(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-4)
    return Steps(loss, made, encoder=encoder, predictor=predictor), loader(*digits(), size=64)


@healthy
def correlations_near_one_and_nought() -> Built:
    """Barlow twins: standardised over the batch on purpose."""

    def loss(module: Any, batch: Any) -> Tensor:
        one, two = (module.net(view) for view in batch)
        one, two = ((z - z.mean(0)) / (z.std(0) + 1e-5) for z in (one, two))
        c = one.T @ two / len(one)
        return (c.diagonal() - 1).square().sum() + 5e-3 * (c - torch.diag(c.diagonal())).square().sum()

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = dense(20, 32, 16), dense(14, 32, 16)

        def forward(self, x: Tensor) -> Tensor:
            return self.first(x) if x.shape[1] == 20 else self.second(x)

    return Steps(loss, net=Two()), loader(*views_of_things(), size=64)


@healthy
def patches_that_were_hidden() -> Built:
    """Three quarters of the pixels are hidden, and only those count (He et al. 2022)."""

    def loss(module: Any, batch: Any) -> Tensor:
        x = batch[0].flatten(1)
        hidden = torch.rand(len(x), 16).argsort(1)[:, :12]
        mask = torch.zeros(len(x), 16).scatter(1, hidden, 1.0)
        mask = mask.view(-1, 4, 4).repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1)
        seen = torch.where(mask.bool(), module.token.expand_as(x), x)
        return ((module.net(torch.cat([seen, mask], 1)) - x).square() * mask).sum() / mask.sum()

    token = nn.Parameter(torch.zeros(1))
    return Steps(loss, net=dense(128, 96, 96, 64, act=nn.GELU), token=token), loader(*digits())


class Variational(nn.Module):
    """Mean and log-variance of a code, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = dense(64, 64, 16), dense(8, 64, 64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of pixels, mean, log-variance."""
        mean, log_var = self.encoder(x).chunk(2, 1)
        return self.decoder(mean + torch.randn_like(mean) * (0.5 * log_var).exp()), mean, log_var


@healthy
def elbo_summed_over_pixels() -> Built:
    """Summed over pixels, averaged over pictures; the divergence is turned on slowly."""

    def loss(module: Any, batch: Any) -> Tensor:
        x = batch[0].flatten(1)
        scores, mean, log_var = module.net(x)
        kl = -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum(1).mean()
        beta = min(1.0, module.global_step / 500)
        return F.binary_cross_entropy_with_logits(scores, x, reduction="none").sum(1).mean() + beta * kl

    return Steps(loss, net=Variational()), loader(*digits())


class Vectors(nn.Module):
    """The nearest of 16 codes, and a gradient that goes straight through (van den Oord et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Embedding(16, 8)
        nn.init.uniform_(self.codes.weight, -0.5, 0.5)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and what they cost."""
        near = self.codes(torch.cdist(z, self.codes.weight).argmin(1))
        cost = F.mse_loss(near, z.detach()) + 0.25 * F.mse_loss(z, near.detach())
        return z + (near - z).detach(), cost


@healthy
def codes_straight_through() -> Built:
    """An autoencoder by codes."""

    def loss(module: Any, batch: Any) -> Tensor:
        x = batch[0].flatten(1)
        code, cost = module.codes(module.encoder(x))
        return F.mse_loss(torch.sigmoid(module.decoder(code)), x) + cost

    parts = {"encoder": dense(64, 64, 8), "codes": Vectors(), "decoder": dense(8, 64, 64)}
    return Steps(loss, **parts), loader(*digits())


class Hinged(ByHand):
    """Spectral norms and hinges, two optimizers, two steps of the critic for one of the other (Miyato et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = dense(8, 64, 64, 2)
        self.critic = nn.Sequential(
            spectral_norm(nn.Linear(2, 64)), nn.LeakyReLU(0.1), spectral_norm(nn.Linear(64, 64)), nn.LeakyReLU(0.1),
            spectral_norm(nn.Linear(64, 1)),
        )  # fmt: skip

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """The critic, and every second time the generator."""
        (real,) = batch
        g, d = self.optimizers()
        fake = self.generator(torch.randn(len(real), 8))
        loss = F.relu(1 - self.critic(real)).mean() + F.relu(1 + self.critic(fake.detach())).mean()
        d.zero_grad()
        self.manual_backward(loss)
        d.step()
        if batch_idx % 2 == 0:
            self.toggle_optimizer(g)
            g.zero_grad()
            self.manual_backward(-self.critic(fake).mean())
            g.step()
            self.untoggle_optimizer(g)

    def configure_optimizers(self) -> Any:
        """Two."""
        return [
            torch.optim.Adam(self.generator.parameters(), lr=1e-3, betas=(0.0, 0.9)),
            torch.optim.Adam(self.critic.parameters(), lr=4e-3, betas=(0.0, 0.9)),
        ]


@healthy
def points_on_a_ring_by_hinges() -> Built:
    """Two kinds of steps in one ``training_step``."""
    angle = 6.283 * torch.rand(960, generator=generator())
    return Hinged(), loader(torch.stack([angle.cos(), angle.sin()], 1), size=64)


@healthy
def velocity_from_noise_to_data() -> Built:
    """A rectified flow: the target is drawn in the step."""

    def loss(module: Any, batch: Any) -> Tensor:
        x, noise = batch[0].flatten(1) * 2 - 1, torch.randn(len(batch[0]), 64)
        t = torch.rand(len(x), 1)
        return F.mse_loss(module.net(torch.cat([(1 - t) * noise + t * x, t], 1)), x - noise)

    return Steps(loss, net=dense(65, 128, 128, 64, act=nn.SiLU)), loader(*digits())


@healthy
def noise_predicted_from_clean_times() -> Built:
    """Diffusion with sines of the time, labels dropped a tenth of the time, and a last layer that starts at zero."""
    net = dense(64 + 32 + 11, 128, 128, 64, act=nn.SiLU)
    nn.init.zeros_(net[-1].weight)

    def loss(module: Any, batch: Any) -> Tensor:
        x, y = batch[0].flatten(1) * 2 - 1, torch.where(torch.rand(len(batch[1])) < 0.1, 10, batch[1])
        t, noise = torch.rand(len(x), 1), torch.randn(len(x), 64)
        angle = t * torch.exp(torch.linspace(0, math.log(1000), 16))
        seen = torch.cos(t * math.pi / 2) * x + torch.sin(t * math.pi / 2) * noise
        return F.mse_loss(module.net(torch.cat([seen, angle.sin(), angle.cos(), F.one_hot(y, 11)], 1)), noise)

    return Steps(loss, of(torch.optim.AdamW, lr=1e-3), net=net), loader(*digits())


class Coupling(nn.Module):
    """One half moves and scales the other (Dinh et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(dense(1, 32, 32, 2, act=nn.Tanh) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Its log-likelihood."""
        total = torch.zeros(len(x))
        for net in self.nets:
            scale, shift = net(x[:, :1]).unbind(1)
            scale = torch.tanh(scale)
            x = torch.stack([x[:, 1] * scale.exp() + shift, x[:, 0]], 1)
            total = total + scale
        return total - 0.5 * x.square().sum(1) - math.log(2 * math.pi)


@healthy
def two_moons_by_a_flow() -> Built:
    """The negative log-likelihood may be under zero."""
    g = generator()
    angle, which = math.pi * torch.rand(960, generator=g), torch.randint(0, 2, (960,), generator=g)
    sign = 1.0 - 2 * which
    x = torch.stack([angle.cos() * sign + which - 0.5, angle.sin() * sign + 0.5 * which - 0.25], 1)
    x = x + 0.05 * torch.randn(960, 2, generator=g)
    return Steps(lambda module, batch: -module.flow(batch[0]).mean(), flow=Coupling()), loader(x, size=64)


@healthy
def one_of_several_values() -> Built:
    """A mixture of normals for each input (Bishop 1994)."""
    x, y = curve()

    def loss(module: Any, batch: Any) -> Tensor:
        weight, mean, log_std = module.net(batch[0]).chunk(3, 1)
        each = torch.distributions.Normal(mean, log_std.clamp(-5, 3).exp()).log_prob(batch[1][:, None])
        return -torch.logsumexp(F.log_softmax(weight, 1) + each, 1).mean()

    return Steps(loss, net=dense(6, 48, 48, 12)), loader(x, y)


@healthy
def triplets_of_the_hardest() -> Built:
    """Normalised embeddings, the farthest friend and the nearest stranger in the batch."""

    def loss(module: Any, batch: Any) -> Tensor:
        x, y = batch
        far = torch.cdist(*[F.normalize(module.net(x), dim=1)] * 2)
        same = y[:, None] == y
        return F.relu((far * same).amax(1) - (far + 10 * same).amin(1) + 0.3).mean()

    return Steps(loss, net=dense(144, 64, 32)), loader(*pictures())


class Clipped(Lit):
    """PPO: ratio to the policy of before, clipped; value and entropy beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.policy, self.value = dense(4, 32, 3, act=nn.Tanh), dense(4, 32, 1, act=nn.Tanh)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Three terms."""
        now = torch.distributions.Categorical(logits=self.policy(batch["obs"]))
        ratio = (now.log_prob(batch["action"]) - batch["logp"]).exp()
        gain = torch.minimum(ratio * batch["advantage"], ratio.clamp(0.8, 1.2) * batch["advantage"])
        value = F.mse_loss(self.value(batch["obs"]).squeeze(-1), batch["returns"])
        return -gain.mean() + 0.5 * value - 0.01 * now.entropy().mean()


@healthy
def policy_clipped() -> Built:
    """Old log-probabilities come with the batch."""
    return Clipped(), rows(**episodes(), size=64)


class Doubled(Lit):
    """Double DQN: one net chooses, the other one judges, and follows every hundredth step."""

    def __init__(self) -> None:
        super().__init__()
        self.q = dense(4, 48, 3)
        self.target = copy.deepcopy(self.q)
        for p in self.target.parameters():
            p.requires_grad = False

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Huber, as Mnih et al. clip."""
        if self.global_step % 100 == 0:
            self.target.load_state_dict(self.q.state_dict())
        q = self.q(batch["obs"]).gather(1, batch["action"][:, None])[:, 0]
        with torch.no_grad():
            best = self.q(batch["next_obs"]).argmax(1, keepdim=True)
            aim = batch["reward"] + 0.9 * (1 - batch["done"]) * self.target(batch["next_obs"]).gather(1, best)[:, 0]
        return F.smooth_l1_loss(q, aim)

    def configure_optimizers(self) -> Any:
        """What is learnt."""
        return torch.optim.RMSprop(self.q.parameters(), lr=1e-3)


@healthy
def chosen_by_one_judged_by_the_other() -> Built:
    """Moves that were remembered."""
    return Doubled(), rows(**moves(), size=64)


@healthy
def equation_of_decay() -> Built:
    """u' = −u, u(0) = 1: the batch is points in time, and there are no targets (Raissi et al. 2019)."""

    def loss(module: Any, batch: Any) -> Tensor:
        t = batch[0].requires_grad_()
        u = module.net(t)
        (slope,) = torch.autograd.grad(u.sum(), t, create_graph=True)
        return (slope + u).square().mean() + (module.net(torch.zeros(1, 1)) - 1).square().mean()

    net = dense(1, 32, 32, 1, act=nn.Tanh)
    return Steps(loss, net=net), loader(2 * torch.rand(640, 1, generator=generator()))


class Sines(nn.Module):
    """An image as a function of place (Sitzmann et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 64), nn.Linear(64, 64), nn.Linear(64, 1)])
        for index, layer in enumerate(self.layers):
            bound = 1 / layer.in_features if index == 0 else math.sqrt(6 / layer.in_features) / 30
            nn.init.uniform_(layer.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """A brightness."""
        for layer in list(self.layers)[:-1]:
            x = torch.sin(30 * layer(x))
        return self.layers[-1](x)


@healthy
def picture_by_its_places() -> Built:
    """One picture is the whole data set."""
    side = torch.linspace(-1, 1, 32)
    places = torch.cartesian_prod(side, side)
    picture = torch.sin(6 * places[:, 0]) * torch.cos(5 * places[:, 1]) + 0.5 * (places.norm(dim=1) < 0.5)

    def loss(module: Any, batch: Any) -> Tensor:
        return F.mse_loss(module.net(batch[0])[:, 0], batch[1])

    return Steps(loss, of(torch.optim.Adam, lr=1e-4), net=Sines()), loader(places, picture, size=128), run_of(300)


@healthy
def shots_of_new_classes() -> Built:
    """Prototypes: each batch is an episode of its own five classes (Snell et al. 2017)."""

    def make() -> Any:
        g = torch.Generator().manual_seed(int(torch.randint(0, 2**31, (1,))))
        for _ in range(200):
            centre = torch.tanh(torch.randn(5, 1, 6, generator=g)) @ torch.eye(6, 16)
            yield centre + torch.cat([0.3 * torch.randn(5, 8, 6, generator=g), torch.randn(5, 8, 10, generator=g)], 2)

    def loss(module: Any, batch: Any) -> Tensor:
        z = module.net(batch[0].flatten(0, 1)).view(5, 8, -1)
        far = torch.cdist(z[:, 3:].flatten(0, 1), z[:, :3].mean(1)).square()
        return F.cross_entropy(-far, torch.arange(5).repeat_interleave(5))

    return Steps(loss, net=dense(16, 32, 16)), DataLoader(Stream(make), batch_size=1)
